package event

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
)

func TestStepReportsItsEnd(t *testing.T) {
	broken := errors.New("broken")
	superseded, supersede := context.WithCancelCause(t.Context())
	supersede(ErrSuperseded)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for _, test := range []struct {
		name string
		ctx  context.Context
		err  error
		want Phase
	}{
		{"success", t.Context(), nil, Succeeded},
		{"failure", t.Context(), broken, Failed},
		{"superseded", superseded, context.Canceled, Superseded},
		{"done before it was superseded", superseded, nil, Succeeded},
		{"stopped", stopped, context.Canceled, Interrupted},
	} {
		t.Run(test.name, func(t *testing.T) {
			var sent []Event
			sink := Sink(func(e Event) { sent = append(sent, e) }).InRun(7)
			err := sink.Stage("build").Step(test.ctx, "image built", func(context.Context) ([]any, error) {
				return []any{"id", 1}, test.err
			}, "image", "worker")
			if err != test.err { //nolint:errorlint // the same one has to come back
				t.Errorf("error %v, not %v", err, test.err)
			}
			if len(sent) != 2 || sent[0].Phase != Started || sent[1].Phase != test.want {
				t.Fatalf("got %+v", sent)
			}
			last := sent[1]
			if last.Run != 7 || last.Stage != "build" || fmt.Sprint(last.Fields) != "[image worker id 1]" {
				t.Errorf("got %+v", last)
			}
		})
	}
}

func TestHintComesThroughWrapping(t *testing.T) {
	err := fmt.Errorf("run: %w", WithHint(errors.New("no Docker"), "start it"))
	if got := Hint(err); got != "start it" {
		t.Errorf("hint %q", got)
	}
	if got := err.Error(); got != "run: no Docker" {
		t.Errorf("the fact is %q", got)
	}
	if WithHint(nil, "x") != nil || Hint(errors.New("x")) != "" {
		t.Error("a hint out of nothing")
	}
}

func TestJoined(t *testing.T) {
	one, two := errors.New("one"), errors.New("two")
	if got := Joined(errors.Join(one, nil, two)); !slices.Equal(got, []error{one, two}) {
		t.Errorf("parts %v", got)
	}
	for _, err := range []error{nil, one, WithHint(errors.Join(one, two), "x"), fmt.Errorf("%w\n%w", one, two)} {
		if got := Joined(err); got != nil {
			t.Errorf("%v: parts %v", err, got)
		}
	}
}

func TestPanicIsAnError(t *testing.T) {
	var sent []Event
	err := Sink(func(e Event) { sent = append(sent, e) }).Stage("build").Step(t.Context(), "image built",
		func(context.Context) ([]any, error) {
			panic("it cannot read this")
		})
	if err == nil || err.Error() != "internal error in build: it cannot read this" || Hint(err) == "" {
		t.Errorf("error %v, hint %q", err, Hint(err))
	}
	phases := make([]Phase, len(sent))
	for i, e := range sent {
		phases[i] = e.Phase
	}
	if fmt.Sprint(phases) != "[started detailed failed]" {
		t.Errorf("got %v", phases)
	}
}
