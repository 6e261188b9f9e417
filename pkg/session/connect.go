package session

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/node"
)

// closers closes what was opened, in reverse order.
type closers []func() error

func (c *closers) add(closer func() error) { *c = append(*c, closer) }

func (c *closers) close() error {
	var errs []error
	for _, closer := range slices.Backward(*c) {
		errs = append(errs, closer())
	}
	*c = nil
	return errors.Join(errs...)
}

// environment is what devloop works with: this machine's Docker, and a cluster with its nodes.
type environment struct {
	target  kube.Target
	docker  *client.Client
	nodes   *node.Cluster
	cluster *kube.Cluster
	closers
}

// connect finds the cluster and its nodes, and makes sure that devloop may write to it. Until then
// it only asks the cluster for its identity.
func (e *environment) connect(ctx context.Context, o Options) (err error) {
	if err := e.findNodes(ctx, o.Config.KubeContext); err != nil {
		return err
	}
	if e.cluster, err = kube.ConnectTo(ctx, e.target, e.nodes.Machines); err != nil {
		return err
	}
	grounds, err := o.Consent.allow(ctx, o.Sink, o.Config.Dir, e.target, e.cluster, e.nodes.Origin())
	if err != nil {
		return err
	}
	o.Sink.Stage("devloop").Note(event.ClusterChosen,
		"context", e.target.Context, "server", e.target.Server, "why", grounds.String())
	return nil
}

// verifyNodes drops nodes that share only the context's name with the cluster: its pods would never
// find the images that these get.
func (e *environment) verifyNodes(ctx context.Context, sink event.Sink) error {
	err := e.nodes.Verify(ctx, func(ctx context.Context) ([]string, error) {
		return kube.BootIDs(ctx, e.cluster.Client.CoreV1().Nodes())
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		sink.Stage("node").Warn("the cluster's nodes are not known, images reach them by push only", err)
	}
	return nil
}

// findNodes finds out where a kube context leads, and the nodes there.
func (e *environment) findNodes(ctx context.Context, kubeContext string) (err error) {
	if e.target, err = readContext(ctx, kubeContext); err != nil {
		return err
	}
	if e.docker, err = OpenDocker(); err != nil {
		return err
	}
	e.add(e.docker.Close)
	if e.nodes, err = FindNodes(ctx, e.target); err != nil {
		return err
	}
	e.add(e.nodes.Close)
	return nil
}

// readContext is kube.ReadContext. For a context that is missing, it looks for its cluster on this
// machine.
func readContext(ctx context.Context, wanted string) (kube.Target, error) {
	target, err := kube.ReadContext(wanted)
	var missing *kube.NoContextError
	if !errors.As(err, &missing) || missing.Context == "" {
		return target, err
	}
	machines, dockerErr := openMachines()
	if dockerErr != nil {
		return target, err
	}
	defer func() { _ = machines.Close() }() // only asked
	if hint := node.HowToRestore(ctx, missing.Context, machines); hint != "" {
		err = event.WithHint(err, hint)
	}
	return target, err
}

// FindNodes finds the nodes of the cluster that a kube context leads to. The caller closes them.
func FindNodes(ctx context.Context, target kube.Target) (*node.Cluster, error) {
	dir, err := journal.DefaultDir()
	if err != nil {
		return nil, err
	}
	machines, err := openMachines()
	if err != nil {
		return nil, err
	}
	nodes, err := node.Find(ctx, target.Context, target.Server, machines, filepath.Join(dir, "hostkeys"))
	if err != nil {
		return nil, errors.Join(err, machines.Close())
	}
	return nodes, nil
}

// Connect opens the cluster of a kube context, for commands that change nothing in it.
func Connect(ctx context.Context, kubeContext string) (*kube.Cluster, error) {
	target, err := readContext(ctx, kubeContext)
	if err != nil {
		return nil, err
	}
	return kube.ConnectTo(ctx, target, func(ctx context.Context) event.Cluster { return lookAt(ctx, target) })
}

// lookAt finds the machines of a cluster that does not answer, and looks at them.
func lookAt(ctx context.Context, target kube.Target) event.Cluster {
	unknown := func(err error) event.Cluster { return event.Cluster{Reason: err.Error(), Hint: event.Hint(err)} }
	nodes, err := FindNodes(ctx, target)
	if err != nil {
		return unknown(err)
	}
	defer func() { _ = nodes.Close() }() // only asked
	return nodes.Machines(ctx)
}
