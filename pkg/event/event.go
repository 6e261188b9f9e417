// Package event is the one vocabulary of everything that happens in devloop. Stages report what
// they do by sending an Event to a Sink; logs and views are made from nothing else. Events inform:
// no work starts because of one.
package event

import (
	"context"
	"errors"
	"reflect"
	"time"
)

// Phase is where in a step's life an Event stands.
type Phase string

// A step has Started once and then ends once, as Succeeded, Superseded, Interrupted or Failed. The
// others stand alone.
const (
	Started     Phase = "started"
	Succeeded   Phase = "succeeded"
	Superseded  Phase = "superseded"  // a newer change took its place; the user need not act
	Interrupted Phase = "interrupted" // devloop is ending, or something else takes the step's place
	Failed      Phase = "failed"
	Noted       Phase = "noted" // a fact worth a line
	Warned      Phase = "warned"
	Detailed    Phase = "detailed" // for those who asked for more (-v)
	Progress    Phase = "progress" // how far a step is, for live views; it is in no log
)

// Event is one thing that happened. Its Message is a constant; what varies is in Payload and
// Fields.
type Event struct {
	Time    time.Time
	Run     int    // number of the run that it belongs to, 0 outside of one
	Stage   string // the package that sends it: "build", "deploy"
	Phase   Phase
	Message string        // "image built"
	Payload any           // what programs understand of it: a struct of payload.go, or nil
	Fields  []any         // what only people read: alternating keys (strings) and values
	Took    time.Duration // of what ended at Time, 0 if it was but a moment
	Err     error         // of a step that failed

	Repeated bool // an earlier try of the same run sent it, word for word
}

// Sink takes events. It must not block: the loop's progress never depends on who listens. It may be
// called from several goroutines.
type Sink func(Event)

// ErrSuperseded is the cause with which a run's context is cancelled when a newer change takes its
// place. A stage returns it, too, when it finds that its inputs have changed.
var ErrSuperseded = errors.New("superseded by a newer change")

// Tentative returns a Sink for a step in whose place another one comes if it fails: it is no
// failure yet, but interrupted.
func (s Sink) Tentative() Sink {
	return func(e Event) {
		if e.Phase == Failed {
			e.Phase = Interrupted
		}
		s(e)
	}
}

// InRun returns a Sink that stamps what passes with the number of a run.
func (s Sink) InRun(n int) Sink {
	return func(e Event) {
		e.Run = n
		s(e)
	}
}

// Stage is a Sink for the events of one stage. The zero value drops them.
type Stage struct {
	name string
	sink Sink
}

// Stage returns the Stage of that name.
func (s Sink) Stage(stage string) Stage { return Stage{name: stage, sink: s} }

// Note sends a fact. Details, here and below, are a payload or none, and then alternating keys and
// values.
func (s Stage) Note(message string, details ...any) { s.send(Noted, message, 0, nil, details) }

// Warn reports what went wrong without ending anything, or what the user should know.
func (s Stage) Warn(message string, err error, details ...any) {
	s.send(Warned, message, 0, err, details)
}

// Detail sends what only a curious reader wants to see.
func (s Stage) Detail(message string, details ...any) { s.send(Detailed, message, 0, nil, details) }

// NoteTook sends a fact that has ended now and took so long.
func (s Stage) NoteTook(took time.Duration, message string, details ...any) {
	s.send(Noted, message, took, nil, details)
}

// DetailTook is NoteTook for curious readers.
func (s Stage) DetailTook(took time.Duration, message string, details ...any) {
	s.send(Detailed, message, took, nil, details)
}

// Progress says how far a step is, as often as that changes.
func (s Stage) Progress(message string, details ...any) {
	s.send(Progress, message, 0, nil, details)
}

// work is what a Step does. It may return more details for the event of its end, whose payload
// replaces that of the start.
type work = func(context.Context) (details []any, err error)

// Step does work and reports how it began and ended. It returns the error as it came.
func (s Stage) Step(ctx context.Context, message string, work work, details ...any) error {
	return s.step(ctx, Succeeded, message, work, details)
}

// QuietStep is a Step that is a detail when it went well.
func (s Stage) QuietStep(ctx context.Context, message string, work work, details ...any) error {
	return s.step(ctx, Detailed, message, work, details)
}

func (s Stage) step(ctx context.Context, success Phase, message string, work work, details []any) error {
	s.send(Started, message, 0, nil, details)
	start := time.Now()
	var more []any
	err := s.Guard(message, func() (err error) {
		more, err = work(ctx)
		return err
	})
	phase := success
	switch {
	case err != nil && (errors.Is(context.Cause(ctx), ErrSuperseded) || errors.Is(err, ErrSuperseded)):
		phase = Superseded
	case err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled):
		phase = Interrupted
	case err != nil:
		phase = Failed
	}
	payload, fields := split(details)
	ended, added := split(more)
	details = append(append([]any{}, fields...), added...)
	if ended != nil {
		payload = ended
	}
	if payload != nil {
		details = append([]any{payload}, details...)
	}
	s.send(phase, message, time.Since(start), err, details)
	return err
}

// split takes the payload from the head of details, nil if there is none.
func split(details []any) (payload any, fields []any) {
	if len(details) > 0 && reflect.ValueOf(details[0]).Kind() == reflect.Struct {
		return details[0], details[1:]
	}
	return nil, details
}

// send does not panic, whatever the sink does: it reports a sink that panics, and the event is
// lost.
func (s Stage) send(phase Phase, message string, took time.Duration, err error, details []any) {
	if s.sink == nil {
		return
	}
	payload, fields := split(details)
	panicked := Guard(func() error {
		s.sink(Event{Time: time.Now(), Stage: s.name, Phase: phase, Message: message, Payload: payload,
			Fields: fields, Took: took, Err: err})
		return nil
	})
	if panicked != nil && message != InternalError {
		s.send(Failed, InternalError, 0, panicked, []any{"step", "reporting: " + message})
	}
}
