package watch

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// settling runs f in a bubble of its own time, with settle between in and out.
func settling(t *testing.T, f func(t *testing.T, in chan<- []string, out <-chan Batch)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		in, out := make(chan []string), make(chan Batch)
		var p debounce
		p.set(0, 0)
		go settle(ctx, in, out, &p)
		f(t, in, out)
	})
}

func TestSettleWaitsForQuiet(t *testing.T) {
	settling(t, func(t *testing.T, in chan<- []string, out <-chan Batch) {
		start := time.Now()
		for _, p := range []string{"/b", "/c", "/a", "/b"} {
			in <- []string{p}
			<-time.After(DefaultQuiet - time.Millisecond)
		}
		if got := <-out; !slices.Equal(got.Paths, []string{"/a", "/b", "/c"}) {
			t.Errorf("batch %v", got)
		}
		if took, want := time.Since(start), 3*(DefaultQuiet-time.Millisecond)+DefaultQuiet; took != want {
			t.Errorf("took %v, want %v", took, want)
		}

		// The next batch begins with nothing.
		start = time.Now()
		in <- []string{"/d"}
		if got := <-out; !slices.Equal(got.Paths, []string{"/d"}) || time.Since(start) != DefaultQuiet {
			t.Errorf("batch %q after %v", got, time.Since(start))
		}
	})
}

func TestSettleEndsASteadyStream(t *testing.T) {
	settling(t, func(t *testing.T, in chan<- []string, out <-chan Batch) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		start := time.Now()
		go func() {
			for ctx.Err() == nil {
				select {
				case in <- []string{"/log"}:
				case <-ctx.Done():
				}
				select {
				case <-time.After(DefaultQuiet / 2):
				case <-ctx.Done():
				}
			}
		}()
		for n := 1; n <= 3; n++ { // the next batch begins with the first change after the last
			<-out
			took := time.Since(start)
			if least := time.Duration(n) * DefaultLimit; took < least || took > least+time.Duration(n)*DefaultQuiet/2 {
				t.Fatalf("batch %d came after %v", n, took)
			}
		}
	})
}

func TestSettleMergesWhileNobodyListens(t *testing.T) {
	settling(t, func(t *testing.T, in chan<- []string, out <-chan Batch) {
		in <- []string{"/b"}
		<-time.After(2 * DefaultLimit)
		in <- []string{"/a", "/b"}
		<-time.After(2 * DefaultLimit)
		if got := <-out; !slices.Equal(got.Paths, []string{"/a", "/b"}) {
			t.Errorf("batch %v", got)
		}
		select {
		case got := <-out:
			t.Errorf("one batch too many: %q", got)
		case <-time.After(2 * DefaultLimit):
		}
	})
}

func TestSettleChangesItsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		in, out := make(chan []string), make(chan Batch)
		var p debounce
		p.set(10*time.Millisecond, 0)
		go settle(ctx, in, out, &p)
		for _, c := range []struct{ quiet, limit, want time.Duration }{
			{10 * time.Millisecond, 0, 10 * time.Millisecond},
			{3 * time.Second, 5 * time.Second, 3 * time.Second},
			{3 * time.Second, 0, DefaultLimit},
			{0, 0, DefaultQuiet},
		} {
			p.set(c.quiet, c.limit)
			start := time.Now()
			in <- []string{"/a"}
			if <-out; time.Since(start) != c.want {
				t.Errorf("%v, %v: took %v, want %v", c.quiet, c.limit, time.Since(start), c.want)
			}
		}
	})
}
