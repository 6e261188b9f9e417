package session

import (
	"context"
	"sync"
)

// pruning is the removal of old images, for which no run waits at its end. It belongs to the
// goroutine of the runs.
type pruning struct {
	background func(work func(context.Context)) // runs work beside the loop; nil if nothing does
	end        func()                           // of the last one: it waits; nil before
	busy       sync.Mutex                       // held while images are removed
}

// begin has work done in the background, or at once if nothing runs there.
func (p *pruning) begin(ctx context.Context, work func(context.Context)) {
	if p.background == nil {
		work(ctx)
		return
	}
	p.stop()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the run ends before
	ended := make(chan struct{})
	p.end = func() {
		cancel()
		<-ended
	}
	p.background(func(alive context.Context) {
		defer close(ended)
		stop := context.AfterFunc(alive, cancel)
		defer stop()
		work(ctx)
	})
}

// stop is for a run that begins. It waits: what is being removed may be what the run needs.
func (p *pruning) stop() {
	if p.end != nil {
		p.end()
		p.end = nil
	}
}
