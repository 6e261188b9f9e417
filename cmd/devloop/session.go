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
	builder  *build.Builder
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
	s.builder = build.New(s.docker, cache)
	s.deployer = deploy.New(s.cluster, c.Name, s.journal, deploy.Options{CacheDir: filepath.Join(cache, "charts"), Folder: c.Dir, Adopt: s.takeOver})
	return nil
}

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
