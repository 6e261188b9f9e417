package session

import (
	"context"
	"sync"
)

// pruning is the removal of old images, for which no run waits at its end.
type pruning struct {
	background func(work func(context.Context)) // runs work beside the loop; nil if nothing does
	cancel     context.CancelFunc               // of the last run's; nil before. It is the loop's goroutine's
	busy       sync.Mutex                       // held while images are removed, after a renewal as well
}

// begin has work done in the background, or at once if nothing runs there.
func (p *pruning) begin(ctx context.Context, work func(context.Context)) {
	if p.background == nil {
		work(ctx)
		return
	}
	ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx)) // the run ends before
	cancel := p.cancel
	p.background(func(alive context.Context) {
		stop := context.AfterFunc(alive, cancel)
		defer stop()
		work(ctx)
	})
}

// stop is for a run that begins. It waits for the image that is being removed: it may be what the
// run needs.
func (p *pruning) stop() {
	if p.cancel != nil {
		p.cancel()
	}
	p.busy.Lock()
	defer p.busy.Unlock()
}
