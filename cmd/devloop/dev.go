// devloop: the loop itself, from an empty cluster to Ctrl+C.
package main

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/portforward"
	"github.com/devloop/devloop/pkg/watch"
)

// dev runs until it is interrupted. What starts first ends last: the forwards are bound before anything is deployed, and
// closed after everything was removed.
func dev(ctx context.Context, o *options) (err error) {
	c, err := config.Load(o.source())
	if err != nil {
		return err
	}
	out := newLogger(os.Stderr, o.verbose)
	defer out.close()
	sink := event.Sink(out.sink)

	ctx, patience, stop := interruptible(ctx)
	defer stop()

	bound, err := bind(ctx, c.Forwards)
	if err != nil {
		return err
	}
	forwarding, stopForwarding := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	defer serving.Wait()
	defer stopForwarding()

	s, err := openSession(ctx, o.source(), c, sink)
	if err != nil {
		if ctx.Err() != nil { // Ctrl+C before anything was deployed
			err = nil
		}
		return errors.Join(err, release(bound))
	}
	defer func() { err = errors.Join(err, s.close()) }()
	patience.journal.Store(s.journal)
	for i, forward := range bound {
		sink.For("forward").Note("listening", "service", c.Forwards[i].Service, "address", forward.Addr())
		serving.Go(func() {
			if err := forward.Serve(forwarding, s.cluster.Config, s.cluster.Client, sink); err != nil {
				sink.For("forward").Warn("forward ended", err, "service", c.Forwards[i].Service)
			}
		})
	}
	watcher, err := watch.New(sink)
	if err != nil {
		return environmentError{err}
	}
	if err := watcher.Watch(c.Files()); err != nil {
		sink.For("watch").Warn("not everything can be watched", err)
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	watching.Go(func() {
		if err := watcher.Run(ctx); err != nil {
			sink.For("watch").Warn("changes are no longer seen", err)
		}
	})

	sink.For("loop").Note("devloop started", "project", c.Name, "cluster", s.cluster.Context, "folder", c.Dir)
	loop.New(s.load, watcher, watcher.Batches(), sink).Run(ctx)

	if !o.cleanup {
		sink.For("cleanup").Note("everything stays as it is", "remove it with", "devloop delete")
		return nil
	}
	return s.cleanup(context.WithoutCancel(ctx))
}

// bind opens the local addresses.
func bind(ctx context.Context, forwards []config.Forward) ([]*portforward.Forward, error) {
	var bound []*portforward.Forward
	for _, f := range forwards {
		forward, err := portforward.Listen(ctx, portforward.Spec{
			Namespace: f.Namespace, Service: f.Service, Port: f.Port, Local: f.Local, Hold: f.Hold})
		if err != nil {
			return nil, environmentError{errors.Join(err, release(bound))}
		}
		bound = append(bound, forward)
	}
	return bound, nil
}

// release closes addresses that will not be served.
func release(bound []*portforward.Forward) error {
	var errs []error
	for _, forward := range bound {
		errs = append(errs, forward.Close())
	}
	return errors.Join(errs...)
}
