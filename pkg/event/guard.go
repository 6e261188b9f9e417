package event

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A panic in a goroutine ends the process before main can clean up. So each goroutine of devloop
// runs in one of these:
//
//   - Guard, where the caller takes its error, as Step does;
//   - Group, for parts of a run that are done side by side;
//   - Supervise, for a part that lasts as long as a context and is restarted;
//   - Recover, for work whose error no caller takes.

// keepPause is how long Supervise waits before it restarts work. It doubles up to keepPauseMost,
// and is reset after work that lasted longer than that.
const (
	keepPause     = time.Second
	keepPauseMost = time.Minute
)

// panicked is the error that a panic becomes.
type panicked struct {
	stage string // "" if unknown
	value any
	stack string
	shown sync.Once // the stack, as a detail
}

func (p *panicked) Error() string {
	if p.stage == "" {
		return fmt.Sprintf("internal error: %v", p.value)
	}
	return fmt.Sprintf("internal error in %s: %v", p.stage, p.value)
}

func (p *panicked) Hint() string { return "this is a bug in devloop; -v shows where: please report it" }

// Guard runs work and returns a panic as an error.
func Guard(work func() error) error { return guard("", work) }

func guard(stage string, work func() error) (err error) {
	defer func() {
		r := recover()
		if p, ok := r.(*panicked); ok { // from another goroutine
			err = p
		} else if r != nil {
			err = &panicked{stage: stage, value: r, stack: string(debug.Stack())}
		}
	}()
	return work()
}

// Guard runs work and returns a panic as an error. It reports the stack as a detail.
func (s Stage) Guard(what string, work func() error) error {
	err := guard(s.name, work)
	if p := (*panicked)(nil); errors.As(err, &p) {
		p.shown.Do(func() { s.Detail(InternalError, "step", what, "stack", p.stack) })
	}
	return err
}

// Recover runs work. It reports a panic as a failed event, and returns it.
func (s Stage) Recover(what string, work func()) error {
	err := s.Guard(what, func() error {
		work()
		return nil
	})
	if err != nil {
		s.send(Failed, InternalError, 0, err, []any{"step", what})
	}
	return err
}

// Supervise runs work, which lasts as long as ctx. After a panic it reports the error, cancels the
// context that work had, waits, and runs work again. It returns when work returns, or ctx ends.
func (s Stage) Supervise(ctx context.Context, what string, work func(context.Context)) {
	pause := keepPause
	once := s.ReportOnce()
	for ctx.Err() == nil {
		begun := time.Now()
		part, end := context.WithCancel(ctx)
		err := once.Recover(what, func() { work(part) })
		end()
		if err == nil {
			return
		}
		if time.Since(begun) > keepPauseMost {
			pause = keepPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, keepPauseMost)
	}
}

// ReportOnce returns a Stage that marks an error as repeated if it has reported it before.
func (s Stage) ReportOnce() Stage {
	var reported Changes
	next := s.sink
	if next == nil {
		return s
	}
	s.sink = func(e Event) {
		if e.Err != nil {
			e.Repeated = !reported.Changed(e.Err.Error(), true)
		}
		next(e)
	}
	return s
}

// Group is an errgroup.Group that returns a panic as an error.
type Group struct{ *errgroup.Group }

// NewGroup is errgroup.WithContext.
func NewGroup(ctx context.Context) (Group, context.Context) {
	group, ctx := errgroup.WithContext(ctx)
	return Group{group}, ctx
}

// Go runs work in a goroutine of its own.
func (g Group) Go(work func() error) {
	g.Group.Go(func() error { return Guard(work) })
}

// WithFallback returns a Sink that calls s, which hands events on to next. If s panics, next gets
// the event itself, and the first time also an event about the panic.
func (s Sink) WithFallback(next Sink) Sink {
	var once sync.Once
	return func(e Event) {
		err := Guard(func() error {
			s(e)
			return nil
		})
		if err == nil {
			return
		}
		_ = Guard(func() error { // next may be what has panicked
			once.Do(func() {
				next(Event{Time: e.Time, Stage: e.Stage, Phase: Failed, Message: InternalError,
					Fields: []any{"step", "showing events"}, Err: err})
			})
			next(e)
			return nil
		})
	}
}
