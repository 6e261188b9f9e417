// Everything that lives as long as the process: opened in order, each part before what needs it, closed in reverse.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/node"
	"github.com/devloop/devloop/pkg/watch"
)

// session is one devloop for one project on one cluster.
type session struct {
	source   config.Source
	config   atomic.Pointer[config.Config] // the last valid reading of devloop.yaml
	invalid  string                        // what was said last of a reading that is not
	takeOver bool                          // releases that somebody else made are taken over
	wants    string                        // the name and context that were asked for while devloop runs
	sink     event.Sink
	docker   *client.Client
	cluster  *deploy.Cluster
	nodes    *node.Cluster
	journal  *journal.Journal
	registry *node.Registry
	builder  *build.Builder // of this machine's daemon
	inNode   *build.Builder // of the node's; nil where nothing can be built there
	deployer *deploy.Deployer
	forwards *forwards      // open before the session and after it
	watcher  *watch.Watcher // nil for one turn
	closers  []func() error
}

// openSession finds the cluster, makes sure that it is a local one, and locks the project's journal. Nothing is changed in the
// cluster. The caller closes the session.
func openSession(ctx context.Context, p *process) (*session, error) {
	opened := &session{source: p.source, sink: p.sink, takeOver: p.adopt}
	opened.config.Store(p.config)
	if err := opened.open(ctx); err != nil {
		return nil, environmentError{errors.Join(err, opened.close())}
	}
	p.patience.journal.Store(opened.journal)
	p.patience.deployer.Store(opened.deployer)
	return opened, nil
}

// open fills s; what it opened before an error is in s.closers.
func (s *session) open(ctx context.Context) (err error) {
	c := s.config.Load()
	kubeContext, server, err := deploy.ReadContext(c.KubeContext)
	if err != nil {
		return err
	}
	if s.docker, err = openDocker(); err != nil {
		return err
	}
	s.closers = append(s.closers, s.docker.Close)
	if s.nodes, err = node.Find(ctx, kubeContext, server, s.docker, slices.Contains(c.AllowContexts, kubeContext)); err != nil {
		return err
	}
	s.closers = append(s.closers, s.nodes.Close)
	if s.cluster, err = deploy.Connect(ctx, kubeContext); err != nil {
		return err
	}
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	stateDir, err := journal.DefaultDir()
	if err != nil {
		return err
	}
	if s.journal, err = journal.Open(stateDir, s.cluster.UID, c.Name); err != nil {
		return err
	}
	s.closers = append(s.closers, s.journal.Close)
	if s.registry, err = node.OpenRegistry(ctx, filepath.Join(cache, "registry", url.PathEscape(kubeContext)+"_"+c.Name)); err != nil {
		return err
	}
	s.closers = append(s.closers, s.registry.Close)
	if err := s.openBuilders(ctx, c, cache); err != nil {
		return err
	}
	s.deployer = deploy.New(s.cluster, c.Name, s.journal, deploy.Options{CacheDir: filepath.Join(cache, "charts"), Folder: c.Dir, Adopt: s.takeOver})
	return nil
}

// openBuilders finds out where images can be built: on this machine, and in the node, where nothing has to be moved.
func (s *session) openBuilders(ctx context.Context, c *config.Config, cache string) error {
	s.builder = build.New(s.docker, cache)
	if c.BuildIn == "host" || len(c.Images) == 0 {
		return nil
	}
	docker, err := s.nodes.Docker()
	if err == nil {
		s.closers = append(s.closers, docker.Close)
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		_, err = build.Ping(ctx, docker)
	}
	say := s.sink.For("node")
	switch {
	case err == nil:
		s.inNode = build.New(docker, cache)
		say.Note("images are built in the node, where that gives the same", "why", "its runtime is docker: what is built there need not be moved")
	case c.BuildIn == "node":
		return c.Wrong("buildIn", fmt.Sprintf("images cannot be built in the node: %v", err), "use host or auto")
	default:
		say.Detail("images are built on this machine", "why", err.Error())
	}
	return nil
}

// askTimeout is how long a daemon may take to answer at start.
const askTimeout = 10 * time.Second

func (s *session) close() error {
	var errs []error
	for _, closer := range slices.Backward(s.closers) {
		errs = append(errs, closer())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// openDocker makes a client of the Docker daemon that DOCKER_HOST names, or of the usual one. Nothing is asked of it yet.
func openDocker() (*client.Client, error) {
	docker, err := client.New(client.FromEnv)
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("connect to Docker: %w", err), "check DOCKER_HOST")
	}
	return docker, nil
}
