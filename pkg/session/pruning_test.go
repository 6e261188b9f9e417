package session

import (
	"context"
	"testing"
)

// A run does not wait for the removal of old images at its end, and the next one begins once the
// image is gone that is being removed.
func TestPruningIsBetweenRuns(t *testing.T) {
	alive, end := context.WithCancel(t.Context())
	ended := make(chan struct{}, 1)
	p := pruning{background: func(work func(context.Context)) {
		go func() {
			work(alive)
			ended <- struct{}{}
		}()
	}}
	removed, begun := 0, make(chan struct{})
	prune := func(ctx context.Context) {
		p.busy.Lock()
		defer p.busy.Unlock()
		begun <- struct{}{}
		<-ctx.Done() // meanwhile an image is removed
		removed++
	}
	p.stop() // the first run
	p.begin(t.Context(), prune)
	<-begun
	p.stop()
	if removed != 1 {
		t.Error("the next run begins while an image is removed")
	}
	<-ended
	p.begin(t.Context(), prune)
	<-begun
	end()
	<-ended
	if removed != 2 {
		t.Error("it goes on after the end")
	}
}

func TestPruningWithoutABackground(t *testing.T) {
	done := false
	(&pruning{}).begin(t.Context(), func(context.Context) { done = true })
	if !done {
		t.Error("nothing was removed")
	}
}
