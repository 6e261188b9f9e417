package event

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// log keeps what a sink gets. It is safe for concurrent use.
type log struct {
	mu   sync.Mutex
	sent []Event
}

func (l *log) sink(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = append(l.sent, e)
}

// errors are those that a user is shown.
func (l *log) errors() (shown []Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.sent {
		if e.Level() == Error {
			shown = append(shown, e)
		}
	}
	return shown
}

// onlyBug fails the test unless exactly one error was shown, which asks for a report.
func (l *log) onlyBug(t *testing.T, text string) {
	t.Helper()
	shown := l.errors()
	if len(shown) != 1 || shown[0].Message != InternalError || !strings.Contains(shown[0].Err.Error(), text) ||
		!strings.Contains(Hint(shown[0].Err), "please report") {
		t.Errorf("got %+v, and not one error of %q", shown, text)
	}
}

func TestKeepBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent log
		ctx, end := context.WithCancel(t.Context())
		var begun []time.Duration
		start := time.Now()
		var before context.Context
		Sink(sent.sink).Stage("watch").Supervise(ctx, "watcher", func(ctx context.Context) {
			begun = append(begun, time.Since(start))
			if before != nil && before.Err() == nil {
				t.Error("what the part before has begun goes on")
			}
			if before = ctx; len(begun) == 4 {
				end()
			}
			panic("no such file")
		})
		if want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second}; !slices.Equal(begun, want) {
			t.Errorf("begun after %v, want %v", begun, want)
		}
		sent.onlyBug(t, "internal error in watch: no such file")
		count := 0
		Sink(sent.sink).Stage("watch").Supervise(t.Context(), "watcher", func(context.Context) { count++ })
		if count != 1 {
			t.Errorf("what ends well is begun %d times", count)
		}
	})
}

func TestGroupReturnsAPanic(t *testing.T) {
	var sent log
	err := Sink(sent.sink).Stage("node").Step(t.Context(), "image loaded", func(ctx context.Context) ([]any, error) {
		group, ctx := NewGroup(ctx)
		group.Go(func() error { <-ctx.Done(); return nil })
		group.Go(func() error { panic("two nodes") })
		return nil, group.Wait()
	})
	if err == nil || err.Error() != "internal error: two nodes" || !strings.Contains(Hint(err), "please report") {
		t.Errorf("error %v, hint %q", err, Hint(err))
	}
	stacks := slices.DeleteFunc(sent.sent, func(e Event) bool {
		return e.Message != InternalError ||
			e.Phase != Detailed
	})
	if len(stacks) != 1 || !strings.Contains(fmt.Sprint(stacks[0].Field("stack")), "TestGroupReturnsAPanic") {
		t.Errorf("stacks %+v", stacks)
	}
}

// A sink that panics over an event neither ends the step that it is about, nor hides it from the
// sinks behind it.
func TestSinkThatPanics(t *testing.T) {
	panics := func(next Sink) Sink {
		return func(e Event) {
			if e.Message == "image built" {
				panic("index out of range")
			}
			next(e)
		}
	}
	work := func(context.Context) ([]any, error) { return nil, errors.New("pip") }
	t.Run("alone", func(t *testing.T) {
		var sent log
		err := panics(sent.sink).Stage("build").QuietStep(t.Context(), "image built", work)
		if err == nil || err.Error() != "pip" {
			t.Errorf("error %v", err)
		}
		if shown := sent.errors(); len(shown) != 2 || shown[0].Message != InternalError { // of the start and of the end
			t.Errorf("got %+v", shown)
		}
	})
	t.Run("with one behind it", func(t *testing.T) {
		var sent log
		sink := panics(sent.sink).WithFallback(sent.sink)
		_ = sink.Stage("build").QuietStep(t.Context(), "image built", work)
		sent.onlyBug(t, "index out of range")
		if n := len(sent.sent); n != 3 || sent.sent[2].Phase != Failed || sent.sent[2].Message != "image built" {
			t.Errorf("got %+v", sent.sent)
		}
	})
	t.Run("all of them", func(t *testing.T) {
		broken := Sink(func(Event) { panic("closed") })
		broken.WithFallback(broken).Stage("build").Note("it goes on")
		if broken.Stage("build").Recover("a part", func() { panic("itself") }) == nil {
			t.Error("it is not returned")
		}
	})
}
