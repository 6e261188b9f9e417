// Package loop decides when a run starts and when it is in vain: the latest change wins.
//
// One goroutine owns all state, in one select with three cases: a batch of changes, a run that ended, the end. A batch cancels the
// run under way (cause event.ErrSuperseded); the next run starts only after that one has returned. What a run does stands in
// run.go.
package loop

import (
	"context"
	"errors"

	"github.com/devloop/devloop/pkg/event"
)

// Loop runs the stages again and again. It must not be copied.
type Loop struct {
	load    func() (Stages, error)
	watch   watcher
	changes <-chan []string
	sink    event.Sink
}

// New returns a Loop. load reads devloop.yaml and is called at the start of each run; changes are batches of changed paths
// among those that watch was told of.
func New(load func() (Stages, error), watch watcher, changes <-chan []string, sink event.Sink) *Loop {
	return &Loop{load: load, watch: watch, changes: changes, sink: sink}
}

// Run runs the stages now and after every batch of changes, until ctx ends. A failed run ends nothing: it is told of, and the
// next change tries again. When Run returns, no run is under way.
func (l *Loop) Run(ctx context.Context) {
	var (
		pending = true                  // something changed that no run has looked at
		cancel  context.CancelCauseFunc // of the run under way, nil while there is none
		ended   = make(chan error)
		number  = 0
	)
	for {
		if pending && cancel == nil {
			pending = false
			number++
			var runCtx context.Context
			runCtx, cancel = context.WithCancelCause(ctx)
			sink := l.sink.InRun(number)
			go func() { ended <- l.once(runCtx, sink) }()
		}
		select {
		case paths := <-l.changes:
			pending = true
			l.sink.For("loop").Note("change seen", "files", names(paths))
			if cancel != nil {
				cancel(event.ErrSuperseded)
			}
		case err := <-ended:
			cancel(nil)
			cancel = nil
			if errors.Is(err, event.ErrSuperseded) { // whoever noticed first
				pending = true
			}
		case <-ctx.Done():
			if cancel != nil {
				<-ended //nolint:errcheck // told already
				cancel(nil)
			}
			return
		}
	}
}

// Once runs the stages one time and returns how that went.
func (l *Loop) Once(ctx context.Context) error { return l.once(ctx, l.sink.InRun(1)) }

// once tells how a run went as one step.
func (l *Loop) once(ctx context.Context, sink event.Sink) error {
	err := sink.For("loop").Step(ctx, "run complete", func(ctx context.Context) ([]any, error) {
		return nil, l.run(ctx, sink)
	})
	if errors.Is(context.Cause(ctx), event.ErrSuperseded) {
		return event.ErrSuperseded
	}
	return err
}
