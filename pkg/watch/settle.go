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
	// DefaultQuiet is how long nothing may change until a batch is complete. The writes of one save
	// (the file, its backup, a formatter's output) come within tens of milliseconds; people notice
	// a delay from about a hundred on.
	DefaultQuiet = 100 * time.Millisecond

	// DefaultLimit is how long changes that do not end may delay a batch: a program that logs into
	// a watched folder must not keep devloop from ever building. A git checkout of a large branch
	// takes about this long.
	DefaultLimit = time.Second
)

// debounce is how long to wait for the end of a burst. It may change at any time, and applies from
// the next change on.
type debounce struct{ quiet, limit atomic.Int64 }

func (d *debounce) set(quiet, limit time.Duration) {
	d.quiet.Store(int64(cmp.Or(max(quiet, 0), DefaultQuiet)))
	d.limit.Store(int64(cmp.Or(max(limit, 0), DefaultLimit)))
}

// Batch is what changed in one burst.
type Batch struct {
	Paths []string  // sorted
	Since time.Time // the first change was seen
	Until time.Time // the burst was over
}

// settle collects the paths of in and offers them to out once none came for the quiet time, or the
// first is as old as the limit. Paths that come until the offer is taken join it. It returns when
// ctx ends.
func settle(ctx context.Context, in <-chan []string, out chan<- Batch, d *debounce) {
	pending := map[string]bool{}
	var batch Batch
	var offer chan<- Batch // out when the batch is complete, else nil

	quiet, limit := time.NewTimer(DefaultQuiet), time.NewTimer(DefaultLimit)
	quiet.Stop()
	limit.Stop()
	defer quiet.Stop()
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case paths := <-in:
			if len(pending) == 0 {
				batch.Since = time.Now()
				limit.Reset(time.Duration(d.limit.Load()))
			}
			quiet.Reset(time.Duration(d.quiet.Load()))
			for _, p := range paths {
				pending[p] = true
			}
			if offer == nil {
				continue
			}
		case <-quiet.C:
		case <-limit.C:
		case offer <- batch:
			quiet.Stop()
			limit.Stop()
			clear(pending)
			offer = nil
			continue
		}
		offer, batch.Paths, batch.Until = out, slices.Sorted(maps.Keys(pending)), time.Now()
	}
}
