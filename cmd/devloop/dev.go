// devloop: the loop itself, from an empty cluster to Ctrl+C.
package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/portforward"
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
	bound, err := bind(ctx, p.config)
	if err != nil {
		return nil, nil, err
	}
	if s, err = openSession(ctx, p); err != nil {
		return nil, nil, errors.Join(err, release(bound))
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	for i, forward := range bound {
		p.sink.For("forward").Note("listening", "service", p.config.Forwards[i].Service, "address", forward.Addr())
		serving.Go(func() {
			if err := forward.Serve(ctx, s.cluster.Config, s.cluster.Client, p.sink); err != nil {
				p.sink.For("forward").Warn("forward ended", err, "service", p.config.Forwards[i].Service)
			}
		})
	}
	return s, func() error {
		err := s.close()
		stop()
		serving.Wait()
		return err
	}, nil
}

// bind opens the local addresses. Each that is taken is an error in devloop.yaml, which says where.
func bind(ctx context.Context, c *config.Config) ([]*portforward.Forward, error) {
	var bound []*portforward.Forward
	var errs []error
	for i := range c.Forwards {
		forward, err := listen(ctx, c, i)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		bound = append(bound, forward)
	}
	if len(errs) > 0 {
		return nil, errors.Join(append(errs, release(bound))...)
	}
	return bound, nil
}

// listen opens the local address of one forward. The error names its place in devloop.yaml.
func listen(ctx context.Context, c *config.Config, i int) (*portforward.Forward, error) {
	f := c.Forwards[i]
	wrong := func(key, message, hint string) error {
		return c.Wrong(fmt.Sprintf("forwards[%d].%s", i, key), message, hint)
	}
	if kind, _ := f.Target(); kind != "service" {
		return nil, wrong(kind, "only services are forwarded to so far", "")
	}
	if f.Bind != "localhost" && f.Bind != "127.0.0.1" {
		return nil, wrong("bind", "only localhost is listened on so far", "")
	}
	port, err := strconv.Atoi(f.Port)
	if err != nil {
		return nil, wrong("port", "only numbers are forwarded to so far", "")
	}
	forward, err := portforward.Listen(ctx, portforward.Spec{
		Namespace: f.Namespace, Service: f.Service, Port: port, Local: f.Local, Hold: f.Hold})
	if err != nil {
		return nil, wrong("local", err.Error(), event.Hint(err))
	}
	return forward, nil
}

// release closes addresses that will not be served.
func release(bound []*portforward.Forward) error {
	var errs []error
	for _, forward := range bound {
		errs = append(errs, forward.Close())
	}
	return errors.Join(errs...)
}
