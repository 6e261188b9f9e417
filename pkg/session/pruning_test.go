package session

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A run does not wait for the removal of old images at its end, and the next one begins once the
// image is gone that is being removed.
func TestPruningIsBetweenRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alive, end := context.WithCancel(t.Context())
		p := pruning{background: func(work func(context.Context)) { go work(alive) }}
		ended := 0
		prune := func(ctx context.Context) {
			p.busy.Lock()
			defer p.busy.Unlock()
			<-ctx.Done()
			<-time.After(time.Second) // an image is being removed
			ended++
		}
		p.stop() // the first run
		began := time.Now()
		p.begin(t.Context(), prune)
		if took := time.Since(began); took != 0 {
			t.Errorf("the run waited %s", took)
		}
		synctest.Wait()
		p.stop()
		if ended != 1 {
			t.Error("the next run begins while images are removed")
		}
		p.stop()
		p.begin(t.Context(), prune)
		end()
		<-time.After(2 * time.Second)
		synctest.Wait()
		if ended != 2 {
			t.Error("it goes on after the end")
		}
	})
}

func TestPruningWithoutABackground(t *testing.T) {
	done := false
	(&pruning{}).begin(t.Context(), func(context.Context) { done = true })
	if !done {
		t.Error("nothing was removed")
	}
}
