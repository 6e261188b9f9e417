package session

import (
	"cmp"
	"context"
	"path/filepath"

	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/node"
)

// connect finds the cluster and its nodes, and makes sure that it may be written to. Until then,
// the cluster is asked for nothing but who it is.
func (s *Session) connect(ctx context.Context, c *config.Config) (target kube.Target, err error) {
	if target, err = s.findNodes(ctx, c); err != nil {
		return target, err
	}
	if s.cluster, err = kube.ConnectTo(ctx, target); err != nil {
		if event.Hint(err) != "" {
			hint := "start the cluster, or choose another context: --kube-context"
			err = event.WithHint(err, cmp.Or(s.nodes.StartCommand(), hint))
		}
		return target, err
	}
	grounds, err := s.options.Consent.allow(ctx, s.sink, c.Dir, target, s.cluster, s.nodes.Origin())
	if err != nil {
		return target, err
	}
	s.sink.For("devloop").Note(event.ClusterChosen,
		"context", target.Context, "server", target.Server, "why", grounds.String())
	return target, nil
}

// verifyNodes forgets nodes that have only the context's name in common with the cluster: they
// would get images that its pods never find.
func (s *Session) verifyNodes(ctx context.Context) error {
	err := s.nodes.Verify(ctx, func(ctx context.Context) ([]string, error) {
		return kube.BootIDs(ctx, s.cluster.Client.CoreV1().Nodes())
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		s.sink.For("node").Warn("the cluster's nodes are not known, images reach them by push only", err)
	}
	return nil
}

// FindNodes finds the kube context, where it leads, and the nodes of its cluster.
func (s *Session) findNodes(ctx context.Context, c *config.Config) (target kube.Target, err error) {
	if target, err = kube.ReadContext(c.KubeContext); err != nil {
		return target, err
	}
	if s.docker, err = OpenDocker(); err != nil {
		return target, err
	}
	s.closers = append(s.closers, s.docker.Close)
	if s.nodes, err = FindNodes(ctx, target, s.docker); err != nil {
		return target, err
	}
	s.closers = append(s.closers, s.nodes.Close)
	return target, nil
}

// FindNodes finds the nodes of the cluster that a kube context leads to.
func FindNodes(ctx context.Context, target kube.Target, docker *client.Client) (*node.Cluster, error) {
	dir, err := journal.DefaultDir()
	if err != nil {
		return nil, err
	}
	return node.Find(ctx, target.Context, target.Server, docker, filepath.Join(dir, "hostkeys"))
}
