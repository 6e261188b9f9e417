// Package event is the one vocabulary of everything that happens in devloop. Stages say what they do
// by sending an Event to a Sink; the terminal log is made from nothing else. Events
// are told, never obeyed: no work is started by one.
package event

import (
	"context"
	"errors"
	"time"
)

// Phase is the point of a step's life that an Event tells of.
type Phase string

// A step has Started once and then ends once, as Succeeded, Superseded, Interrupted or Failed. The others stand alone.
const (
	Started     Phase = "started"
	Succeeded   Phase = "succeeded"
	Superseded  Phase = "superseded"  // a newer change took its place; nobody has to act
	Interrupted Phase = "interrupted" // devloop is ending
	Failed      Phase = "failed"
	Noted       Phase = "noted" // a fact worth a line
	Warned      Phase = "warned"
	Detailed    Phase = "detailed" // for those who asked for more (-v)
	Progress    Phase = "progress" // how far a step is, for who shows it while it lasts; it is in no log
)

// Event is one thing that happened. Its Message is a constant; what varies is in Fields.
type Event struct {
	Time    time.Time
	Run     int    // number of the run that it belongs to, 0 outside of one
	Stage   string // the package that speaks: "build", "deploy"
	Phase   Phase
	Message string        // "image built"
	Fields  []any         // alternating keys (string) and values
	Took    time.Duration // of what ended at Time, 0 if it was but a moment
	Err     error         // of a step that failed

	Repeated bool // it was told before, word for word, by a run that this one is another try of
}

// Field returns the value of a field, nil if there is none.
func (e Event) Field(key string) any {
	for i := 0; i+1 < len(e.Fields); i += 2 {
		if e.Fields[i] == key {
			return e.Fields[i+1]
		}
	}
	return nil
}

// Sink takes events. It must not block: the loop's progress never depends on who listens. It may be called from
// several goroutines.
type Sink func(Event)

// ErrSuperseded is the cause with which a run's context is cancelled when a newer change takes its place, and what a stage returns
// that found by itself that its inputs are no longer what they were.
var ErrSuperseded = errors.New("superseded by a newer change")

// InRun returns a Sink that stamps what passes with the number of a run.
func (s Sink) InRun(n int) Sink {
	return func(e Event) {
		e.Run = n
		s(e)
	}
}

// Stage is a Sink that knows who is speaking. The zero value is silent.
type Stage struct {
	name string
	sink Sink
}

// For returns the voice of the named stage.
func (s Sink) For(stage string) Stage { return Stage{name: stage, sink: s} }

// Note tells a fact; fields are alternating keys and values.
func (s Stage) Note(message string, fields ...any) { s.send(Noted, message, 0, nil, fields) }

// Warn tells of something that went wrong and was got over, or that the user should know.
func (s Stage) Warn(message string, err error, fields ...any) {
	s.send(Warned, message, 0, err, fields)
}

// Detail tells what only a curious reader wants to see.
func (s Stage) Detail(message string, fields ...any) { s.send(Detailed, message, 0, nil, fields) }

// NoteTook and DetailTook tell of something that has ended now and took so long.
func (s Stage) NoteTook(took time.Duration, message string, fields ...any) {
	s.send(Noted, message, took, nil, fields)
}

// DetailTook is for curious readers.
func (s Stage) DetailTook(took time.Duration, message string, fields ...any) {
	s.send(Detailed, message, took, nil, fields)
}

// Progress tells how far a step is. It may be told often.
func (s Stage) Progress(message string, fields ...any) {
	s.send(Progress, message, 0, nil, fields)
}

// Step runs one step of work and tells how it began and ended; the error is returned as it came.
// The step may add fields to the closing event by returning them.
func (s Stage) Step(ctx context.Context, message string, work func(context.Context) (fields []any, err error), fields ...any) error {
	return s.step(ctx, Succeeded, message, work, fields)
}

// Look is a Step that is a detail when it went well.
func (s Stage) Look(ctx context.Context, message string, work func(context.Context) (fields []any, err error), fields ...any) error {
	return s.step(ctx, Detailed, message, work, fields)
}

func (s Stage) step(ctx context.Context, success Phase, message string, work func(context.Context) (fields []any, err error), fields []any) error {
	s.send(Started, message, 0, nil, fields)
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
	s.send(phase, message, time.Since(start), err, append(append([]any{}, fields...), more...))
	return err
}

// send does not panic, whatever the sink does: an event over which the sink panics is lost, and
// that is reported.
func (s Stage) send(phase Phase, message string, took time.Duration, err error, fields []any) {
	if s.sink == nil {
		return
	}
	stumbled := Guard(func() error {
		s.sink(Event{Time: time.Now(), Stage: s.name, Phase: phase, Message: message, Fields: fields, Took: took,
			Err: err})
		return nil
	})
	if stumbled != nil && message != InternalError {
		s.send(Failed, InternalError, 0, stumbled, []any{"step", "telling: " + message})
	}
}
