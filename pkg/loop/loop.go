// Package loop decides when a run starts and when it is in vain: the latest change wins.
//
// One goroutine owns all state, in one select with four cases: a change, a run that ended, a run that is due, the end. A change cancels
// the run under way (cause event.ErrSuperseded); the next run starts only after that one has returned. What a run does stands in
// run.go, what a change is worth in sift.go.
package loop

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// burst is how close two changes are that belong together: somebody saves file after file, or a tool does. The first of them
	// starts a run at once, since most come alone. Those that follow wait until it is calm, or each would begin a build that the next
	// one throws away.
	burst = 2 * time.Second
	// calm is how long nothing has to change until the last one of a burst is taken for the last.
	calm = time.Second
	// burstLimit is how long they wait at most: then a run may begin in vain, but the images' caches get warm.
	burstLimit = 10 * time.Second

	// retryMin is the time from the start of a run that failed in a way that may pass to the start of
	// the next. It doubles, up to retryMax: a daemon that is restarted takes seconds, and a laptop
	// that is carried to another network must not need its user for it. It counts from the start,
	// since a try may take long to see that something is away; after one that took longer there is
	// still a pause of retryMin.
	retryMin = time.Second
	retryMax = 30 * time.Second

	// restless is the pause before a run that follows one which saw its inputs move, since they may go on moving.
	restless = 100 * time.Millisecond
)

// Change is a reason for another run.
type Change struct {
	Paths []string  // of files
	Since time.Time // the first of them was seen to change, zero if that is not known
	Until time.Time // nothing changed any more
	Asked bool      // by the user: there is to be a run whatever the files hold
}

// cause is why a run starts: all that was asked for since the last one that was not superseded.
type cause struct {
	why     string // start, change, asked, retry
	files   []string
	since   time.Time // the first of them changed
	settled time.Duration
}

func (w *cause) add(c Change) {
	switch {
	case c.Asked:
		w.why = "asked"
	case w.why == "retry":
		w.why = "change"
	}
	for _, path := range c.Paths {
		if !slices.Contains(w.files, path) {
			w.files = append(w.files, path)
		}
	}
	if w.since.IsZero() && !c.Since.IsZero() {
		w.since, w.settled = c.Since, c.Until.Sub(c.Since)
	}
}

func (w *cause) fields() []any {
	fields := []any{"why", event.Name(w.why), "files", names(w.files)}
	if !w.since.IsZero() {
		fields = append(fields, "since", w.since, "settled", w.settled)
	}
	return fields
}

// Loop runs the stages again and again. It must not be copied.
type Loop struct {
	load    func() (Stages, error)
	watch   watcher
	changes <-chan Change
	sink    event.Sink

	read atomic.Pointer[reading] // what the run under way, or the last good one, has read; nil if nothing is known

	// These belong to the run under way.
	files   []string // of the configuration, values and charts
	watched []Path
}

// New returns a Loop. load reads devloop.yaml and is called at the start of each run; changes are of paths among those that
// watch was told of, or what the user asks for.
func New(load func() (Stages, error), watch watcher, changes <-chan Change, sink event.Sink) *Loop {
	return &Loop{load: load, watch: watch, changes: changes, sink: sink}
}

// Run runs the stages now and after every change, until ctx ends. A failed run ends nothing: it is told of, and the next
// change tries again, or the clock does where the failure may pass by itself. When Run returns, no run is under way.
func (l *Loop) Run(ctx context.Context) {
	ctx, end := context.WithCancel(ctx)
	changes := make(chan sifted)
	var sifting sync.WaitGroup
	defer sifting.Wait()
	defer end()
	sifting.Go(func() {
		l.sink.For("loop").Keep(ctx, "changes", func(ctx context.Context) { l.sift(ctx, changes) })
	})

	var (
		pending = true                  // something changed that no run has looked at
		due     = time.NewTimer(0)      // when the next run starts, if one is pending
		cancel  context.CancelCauseFunc // of the run under way, nil while there is none
		ended   = make(chan error)
		unsure  bool // files changed and changed back during the run
		number  = 0
		began   time.Time // the run under way, or the last one
		last    time.Time // change
		first   time.Time // of its burst
		tries   = 0       // in a row that failed in a way that may pass
		told    = newTold()
		next    = cause{why: "start"} // of the next run
	)
	defer due.Stop()
	defer func() {
		if cancel != nil {
			end()
			<-ended //nolint:errcheck // told already
			cancel(nil)
		}
	}()
	start := func(wait time.Duration) { pending = true; due.Reset(wait) }
	for {
		var starts <-chan time.Time
		if pending && cancel == nil {
			starts = due.C
		}
		select {
		case <-starts:
			pending, unsure = false, false
			number++
			began = time.Now()
			if tries == 0 {
				told = newTold()
			}
			var runCtx context.Context
			runCtx, cancel = context.WithCancelCause(ctx)
			sink := told.sink(l.sink.InRun(number))
			sink.For("loop").Detail(event.RunStarts, next.fields()...)
			go func() {
				ended <- sink.For("loop").Guard("run", func() error { return l.once(runCtx, sink) })
			}()

		case c := <-changes:
			if c.same {
				unsure = cancel != nil
				continue
			}
			if len(c.Paths) > 0 {
				l.sink.For("loop").Note(event.ChangeSeen, "files", names(c.Paths))
			}
			next.add(c.Change)
			now := time.Now()
			if now.Sub(last) > burst || now.Sub(first) >= burstLimit {
				first = now
			}
			wait := time.Duration(0)
			if !c.Asked && first != now && (pending || cancel != nil) {
				wait = min(calm, first.Add(burstLimit).Sub(now))
			}
			last, tries = now, 0
			start(wait)
			if cancel != nil {
				cancel(event.ErrSuperseded)
			}

		case err := <-ended:
			cancel(nil)
			cancel = nil
			switch {
			case pending: // for a newer change
			case errors.Is(err, event.ErrSuperseded): // a stage noticed first
				start(restless)
			case event.IsTransient(err):
				next = cause{why: "retry"}
				wait := max(min(retryMin<<min(tries, 10), retryMax)-time.Since(began), retryMin)
				if tries++; tries == 1 {
					l.sink.For("loop").Note("trying again until it works, or a file changes")
				}
				start(wait)
			case unsure: // some stage may have read what the files hold no more
				start(restless)
			default:
				tries, next = 0, cause{why: "retry"}
			}

		case <-ctx.Done():
			return
		}
	}
}

// Once runs the stages one time and returns how that went.
func (l *Loop) Once(ctx context.Context) error {
	sink := l.sink.InRun(1)
	next := cause{why: "asked"}
	sink.For("loop").Detail(event.RunStarts, next.fields()...)
	return l.once(ctx, sink)
}

// once tells how a run went as one step.
func (l *Loop) once(ctx context.Context, sink event.Sink) error {
	l.read.Store(nil)
	err := sink.For("loop").Step(ctx, event.RunComplete, func(ctx context.Context) ([]any, error) {
		return nil, l.run(ctx, sink)
	})
	if err != nil {
		l.read.Store(nil) // saved again, though the same, it is tried again
	}
	if errors.Is(context.Cause(ctx), event.ErrSuperseded) {
		return event.ErrSuperseded
	}
	return err
}
