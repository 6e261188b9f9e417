package watch

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Run sends batches until ctx ends, and then returns nil; every goroutine of the Watcher has ended
// by then.
func (w *Watcher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	r := &run{Watcher: w, changes: make(chan []string), lost: make(chan struct{}, 1)}
	defer r.parts.Wait()
	defer w.close()
	defer cancel()
	r.keep(ctx, "settling", func(ctx context.Context) { settle(ctx, r.changes, w.batches, &w.debounce) })
	if w.mode != Events {
		r.keep(ctx, "polling", func(ctx context.Context) { w.poll(ctx, r.send) })
	}
	events := r.listen(ctx)
	ticker := time.NewTicker(w.tick)
	defer ticker.Stop()
	for ticks := 1; ; ticks++ {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return errors.New("watch files: the kernel's events ended")
			}
			r.report(ctx, func() []string { return w.changed(e) })
		case <-r.lost:
			r.report(ctx, func() []string {
				return w.everything("the kernel lost file events; taking every file as changed")
			})
		case <-ticker.C:
			if r.panicked {
				r.panicked = false
				r.report(ctx, func() []string { return w.everything("looking at every file anew") })
			}
			connected := events == nil && w.mode == Auto && w.reconnect()
			if connected {
				events = r.listen(ctx)
			}
			if connected || ticks%retryTicks == 0 {
				r.report(ctx, w.retry)
			}
			r.report(ctx, w.missedChanges)
			r.report(ctx, w.revive)
		}
	}
}

// run is a Watcher that runs.
type run struct {
	*Watcher
	parts    sync.WaitGroup
	changes  chan []string
	lost     chan struct{} // holds something if events were lost
	panicked bool          // start over at the next tick, and not at once, since it may panic again
}

// keep runs a part in a goroutine of its own. A panic loses what the part knew, so every path
// counts as changed.
func (r *run) keep(ctx context.Context, what string, part func(context.Context)) {
	again := false
	r.parts.Go(func() {
		r.stage.Supervise(ctx, what, func(ctx context.Context) {
			if again {
				r.lose()
			}
			again = true
			part(ctx)
		})
	})
}

func (r *run) lose() {
	select {
	case r.lost <- struct{}{}:
	default: // already said
	}
}

// send passes changed paths on to be settled.
func (r *run) send(ctx context.Context, paths []string) {
	if len(paths) == 0 {
		return
	}
	select {
	case r.changes <- paths:
	case <-ctx.Done():
	}
}

// report sends what changed, and what may have been missed.
func (r *run) report(ctx context.Context, changed func() []string) {
	var paths []string
	if r.stage.Recover("events", func() { paths = append(changed(), r.takeMissed()...) }) != nil {
		r.panicked = true
	}
	r.send(ctx, paths)
}

// listen returns the kernel's events, nil if there are none. Errors need their own reader: fsnotify
// sends some of them while it holds the lock that adding a watch needs.
func (r *run) listen(ctx context.Context) <-chan fsnotify.Event {
	if r.kernel == nil {
		return nil
	}
	failures := r.kernel.Errors
	r.keep(ctx, "errors", func(context.Context) {
		for err := range failures {
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				r.lose()
			} else {
				r.stage.Warn("watching files failed", err)
			}
		}
	})
	return r.kernel.Events
}

func (w *Watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kernel != nil {
		_ = w.kernel.Close()
	}
}
