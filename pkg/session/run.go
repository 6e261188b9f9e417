package session

import (
	"context"
	"sync"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/filediff"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/pods"
	"github.com/devloop/devloop/pkg/watch"
)

// Inputs are what the user can ask for while devloop runs.
type Inputs struct {
	Keys     <-chan byte            // nil without a terminal
	Reload   <-chan struct{}        // SIGHUP
	Requests <-chan control.Request // of the page, or another terminal
	Quit     func()

	OpenPage, OpenShell func()           // for the user of the terminal; they return at once
	ShowPods            func(shown bool) // what pods print, in the terminal
	Logs                bool             // they are shown from the start
}

// OpenWatcher prepares Run. If it fails, nothing has been done yet that would have to be undone.
func (s *Session) OpenWatcher(mode watch.Mode) (err error) {
	c := s.config.Load()
	s.watcher, err = watch.New(s.options.Sink, watch.Options{Mode: mode, Quiet: c.Watch.Quiet, Limit: c.Watch.Limit})
	if err != nil {
		return console.EnvironmentError{Err: err}
	}
	return nil
}

// Run runs the loop until ctx ends; OpenWatcher has to be called before. What runs beside the loop
// ends with the session at the latest: pods are worth a look also while they are removed, and no
// clean-up waits for pip. An error says that the loop broke, and is already logged.
func (s *Session) Run(ctx context.Context, in Inputs) error {
	sink := s.options.Sink
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	s.add(func() error {
		running.Wait()
		return nil
	})
	keep := func(stage, what string, work func(context.Context)) {
		running.Go(func() { sink.Stage(stage).Supervise(ctx, what, work) })
	}
	keep("watch", "watcher", func(ctx context.Context) {
		if err := s.watcher.Run(ctx); err != nil {
			sink.Stage("watch").Warn("changes are no longer seen", err)
		}
	})
	s.startFollowing(ctx)
	keep("proof", "proof", func(ctx context.Context) { s.prover.run(ctx, sink) })
	keep("sync", "containers", s.containers.run)
	beside := func(stage, what string) func(func(context.Context)) {
		return func(work func(context.Context)) {
			running.Go(func() { _ = sink.Stage(stage).Recover(what, func() { work(ctx) }) })
		}
	}
	s.containers.background = beside("sync", "image of synced files")
	s.images.pruning.background = beside("node", "removal of old images")
	keep("local", "requirements", s.syncer.run)
	keep("proof", "libraries", s.libraries.run)
	changes := make(chan loop.Change)
	asking := &requests{refresh: s.builders.main.Refresh, stage: sink.Stage("devloop"), batches: s.watcher.Batches(),
		Inputs: in, rollouts: s.containers.rollouts}
	if in.Logs {
		asking.toggleLogs()
	}
	keep("devloop", "control", func(ctx context.Context) { asking.run(ctx, changes) })
	l := loop.New(s.Load, s.watcher, &filediff.Tracker{}, changes, sink)
	err := sink.Stage("loop").Recover("loop", func() { l.Run(ctx) })
	if err != nil {
		return console.ReportedError{Err: err}
	}
	return nil
}

// Once runs the stages one time, and waits until the requirements are installed on this machine.
func (s *Session) Once(ctx context.Context) error {
	installing, end := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer end()
	running.Go(func() { s.options.Sink.Stage("local").Supervise(installing, "requirements", s.syncer.run) })
	err := loop.New(s.Load, unwatched{}, &filediff.Tracker{}, nil, s.options.Sink).Once(ctx)
	_ = s.syncer.wait(ctx) // what went wrong is logged
	return err
}

// unwatched is the watcher of a loop of one turn.
type unwatched struct{}

func (unwatched) Watch([]watch.Path) (changed bool, err error) { return false, nil }

// startWatchingCluster watches whether the cluster can be used until the session closes.
func (s *Session) startWatchingCluster(ctx context.Context) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var watching sync.WaitGroup
	watching.Go(func() {
		s.options.Sink.Stage("devloop").Supervise(ctx, "cluster", func(ctx context.Context) {
			s.availability.watch(ctx, s.cluster)
		})
	})
	s.add(func() error {
		stop()
		watching.Wait()
		return nil
	})
}

// startFollowing follows the pods and the Dask clusters until the session closes.
func (s *Session) startFollowing(ctx context.Context) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var following sync.WaitGroup
	s.clusters = dask.NewFollower(s.cluster, s.options.Sink, s.followClusterPods)
	s.followClusters(s.config.Load())
	sink := event.Sink(func(e event.Event) {
		if line, ok := e.Payload.(event.LogLine); ok {
			s.clusters.Line(line)
		}
		s.options.Sink(e)
	})
	seen := observers{s.clusters, s.containers}
	following.Go(func() { pods.Follow(ctx, s.cluster.Client, sink, s.pods, s.prover.replaced, seen) })
	following.Go(func() { s.clusters.Run(ctx) })
	s.add(func() error {
		stop()
		following.Wait()
		return nil
	})
}
