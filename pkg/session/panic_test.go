package session

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/watch"
)

// bugs returns the errors, which must all be internal ones that ask for a bug report.
func (h *eventLog) bugs(t *testing.T) (bugs []event.Event) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Level() != event.Error {
			continue
		}
		if e.Message != event.InternalError || !strings.Contains(event.Hint(e.Err), "please report") {
			t.Errorf("reported %+v", e)
		}
		bugs = append(bugs, e)
	}
	return bugs
}

// After a panic, requests continue as before: paused, and with the pending request.
func TestControlAfterAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h eventLog
		say := event.Sink(h.sink).Stage("devloop")
		keys, batches, changes := make(chan byte), make(chan watch.Batch), make(chan loop.Change)
		// Without refresh, a request for a run panics.
		c := &requests{stage: say, Inputs: Inputs{Keys: keys}, batches: batches}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { say.Supervise(ctx, "control", func(ctx context.Context) { c.run(ctx, changes) }) })
		keys <- 'p'
		keys <- 'r'
		<-time.After(time.Minute)
		synctest.Wait()
		select {
		case change := <-changes:
			if !change.Asked {
				t.Errorf("change %+v", change)
			}
		default:
			t.Error("what was asked for is lost")
		}
		select {
		case batches <- watch.Batch{Paths: []string{"/a"}}:
			t.Error("it is not paused any more")
		case <-time.After(time.Second):
		}
		cancel()
		running.Wait()
		if bugs := h.bugs(t); len(bugs) != 1 {
			t.Errorf("reported %+v", bugs)
		}
	})
}

// wait returns also if the installation panics.
func TestSyncerAfterAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h eventLog
		y := newSyncer(h.sink)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { y.run(ctx) })
		y.mu.Lock()
		y.requested, y.idle = &target{}, make(chan struct{}) // without a configuration
		y.mu.Unlock()
		y.woken <- struct{}{}
		if err := y.wait(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		running.Wait()
		if bugs := h.bugs(t); len(bugs) != 1 {
			t.Errorf("reported %+v", bugs)
		}
	})
}

// A panic in a goroutine of the inspector is the error of the check.
func TestProofAfterAPanic(t *testing.T) {
	var h eventLog
	say := event.Sink(h.sink).Stage("proof")
	err := say.QuietStep(t.Context(), event.ChainChecked, func(ctx context.Context) ([]any, error) {
		_, err := inspector{}.inspect(ctx, &expected{}) // without a cluster
		return nil, err
	})
	if err == nil || !strings.Contains(event.Hint(err), "please report") || errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
