package watch

// Waiting until a burst of changes is over.

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// DefaultQuiet is how long nothing may change until a batch is complete. What belongs to one
	// save (the file, its backup, a formatter's second write) comes within tens of milliseconds;
	// people begin to notice a delay at about a hundred.
	DefaultQuiet = 100 * time.Millisecond

	// DefaultLimit is how long a batch may be held back by changes that do not end: a program that
	// logs into a watched folder must not keep devloop from ever building. A git checkout of a
	// large branch takes about this long.
	DefaultLimit = time.Second
)

// pause is how long to wait for the end of a burst. It may change at any time, and holds from the
// next change on.
type pause struct{ quiet, limit atomic.Int64 }

func (p *pause) set(quiet, limit time.Duration) {
	p.quiet.Store(int64(cmp.Or(max(quiet, 0), DefaultQuiet)))
	p.limit.Store(int64(cmp.Or(max(limit, 0), DefaultLimit)))
}

// Batch is what changed in one burst.
type Batch struct {
	Paths []string  // sorted
	Since time.Time // the first change was seen
	Until time.Time // the burst was over
}

// settle collects the paths of in and offers them to out once none came for the quiet time, or the
// first is as old as the limit. What comes until the offer is taken joins it. It returns when ctx
// ends.
func settle(ctx context.Context, in <-chan []string, out chan<- Batch, p *pause) {
	pending := map[string]bool{}
	var batch Batch
	var offer chan<- Batch // out when the batch is complete, else nil

	calm, late := time.NewTimer(DefaultQuiet), time.NewTimer(DefaultLimit)
	calm.Stop()
	late.Stop()
	defer calm.Stop()
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case paths := <-in:
			if len(pending) == 0 {
				batch.Since = time.Now()
				late.Reset(time.Duration(p.limit.Load()))
			}
			calm.Reset(time.Duration(p.quiet.Load()))
			for _, p := range paths {
				pending[p] = true
			}
			if offer == nil {
				continue
			}
		case <-calm.C:
		case <-late.C:
		case offer <- batch:
			calm.Stop()
			late.Stop()
			clear(pending)
			offer = nil
			continue
		}
		offer, batch.Paths, batch.Until = out, slices.Sorted(maps.Keys(pending)), time.Now()
	}
}
