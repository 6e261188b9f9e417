// devloop: the loop itself, from an empty cluster to Ctrl+C.
package main

import (
	"context"
	"errors"
	"sync"

	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/watch"
)

// dev runs until it is interrupted. What starts first ends last: the forwards are bound before anything is deployed, and
// closed after everything was removed.
func dev(ctx context.Context, o *options, cleanup bool) (err error) {
	ctx, p, err := o.begin(ctx)
	if err != nil {
		return err
	}
	defer p.end()

	s, leave, err := enter(ctx, p)
	if err != nil {
		if ctx.Err() != nil { // Ctrl+C before anything was deployed
			return nil
		}
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	sink := p.sink
	watcher, err := watch.New(sink)
	if err != nil {
		return environmentError{err}
	}
	if err := watcher.Watch(p.config.Files()); err != nil {
		sink.For("watch").Warn("not everything can be watched", err)
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	defer p.stop()
	watching.Go(func() {
		if err := watcher.Run(ctx); err != nil {
			sink.For("watch").Warn("changes are no longer seen", err)
		}
	})

	sink.For("loop").Note("devloop started", "project", p.config.Name, "cluster", s.cluster.Context, "folder", p.config.Dir)
	loop.New(s.load, watcher, watcher.Batches(), sink).Run(ctx)

	if !cleanup {
		sink.For("cleanup").Note("everything stays as it is", "remove it with", "devloop delete")
		return nil
	}
	return s.cleanup(context.WithoutCancel(ctx), "Ctrl+C again")
}

// enter binds the forwards, opens the session and begins to serve. Leave ends all of it; the addresses are closed last.
func enter(ctx context.Context, p *process) (s *session, leave func() error, err error) {
	bound, err := bind(ctx, p.config, p.sink)
	if err != nil {
		return nil, nil, err
	}
	if s, err = openSession(ctx, p); err != nil {
		return nil, nil, errors.Join(err, bound.close())
	}
	s.forwards = bound
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	wait := bound.serve(ctx, s.cluster, p.sink)
	return s, func() error {
		err := s.close()
		stop()
		wait()
		return err
	}, nil
}
