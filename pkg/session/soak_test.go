package session

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/filediff"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/watch"
)

// quickStages take no time; the tag of their one image is what its file holds.
type quickStages struct{ file string }

func (q quickStages) Hash(context.Context) (*loop.Target, []watch.Path, error) {
	content, err := os.ReadFile(q.file)
	if err != nil {
		return nil, nil, err
	}
	tag, err := name.NewTag("page:" + string(content))
	return &loop.Target{Images: []*loop.Image{{Tag: tag}}}, []watch.Path{{Name: q.file}}, err
}
func (quickStages) Build(context.Context, event.Sink, *loop.Image) (bool, error) { return false, nil }
func (quickStages) Load(context.Context, event.Sink, *loop.Image) error          { return nil }
func (quickStages) Sync(*loop.Target)                                            {}
func (quickStages) Report(context.Context, event.Sink, *loop.Target)             {}
func (quickStages) Prune(context.Context, event.Sink, *loop.Target)              {}
func (quickStages) Files() []string                                              { return nil }
func (quickStages) Wait(context.Context, event.Sink) error                       { return nil }
func (quickStages) Validate(context.Context, event.Sink, *loop.Target) error     { return nil }
func (quickStages) Verify(context.Context, event.Sink, *loop.Image) error        { return nil }
func (quickStages) Apply(ctx context.Context, _ event.Sink, _ *loop.Target, begin func(context.Context) error) error {
	return begin(ctx)
}
func (quickStages) Check(context.Context, event.Sink) error { return nil }
func (quickStages) Missing(_ context.Context, images []*loop.Image) ([]*loop.Image, error) {
	return images, nil
}

// Days of saves in little time, from the kernel's events to the end of each run: what the process
// takes does not grow.
func TestSoak(t *testing.T) {
	const turns, warm = 2000, 200
	q := quickStages{filepath.Join(t.TempDir(), "page")}
	save := func(n int) {
		t.Helper()
		if err := os.WriteFile(q.file, fmt.Appendf(nil, "v%d", n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	save(0)
	built := make(chan struct{}, 10)
	sink := event.Sink(func(e event.Event) {
		if e.Message == "run complete" && e.Phase == event.Succeeded {
			select {
			case built <- struct{}{}:
			default: // a busy machine may see a save as two
			}
		}
	})
	watcher, err := watch.New(sink, watch.Options{Quiet: 2 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		if err := watcher.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	asking := &requests{stage: sink.Stage("devloop"), batches: watcher.Batches()}
	changes := make(chan loop.Change)
	running.Go(func() { asking.run(ctx, changes) })
	load := func(context.Context) (loop.Stages, error) { //nolint:unparam // what the loop asks for
		return loop.Stages{Images: q, Nodes: q, Local: q, Platform: q, Forwards: q, Proof: quickProof{}}, nil
	}
	running.Go(func() { loop.New(load, watcher, &filediff.Tracker{}, changes, sink).Run(ctx) })
	turn := func() {
		t.Helper()
		select {
		case <-built:
		case <-time.After(time.Minute):
			t.Fatal("a save is not followed by a run")
		}
	}
	turn()

	type footprint struct{ goroutines, descriptors, megabytes int }
	measure := func() footprint {
		runtime.GC()
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil && runtime.GOOS == "linux" {
			t.Fatal(err)
		}
		return footprint{runtime.NumGoroutine(), len(open), int(memory.HeapAlloc >> 20)}
	}
	var before footprint
	for n := range warm + turns {
		if n == warm {
			before = measure()
		}
		save(n + 1)
		turn()
	}
	after := measure()
	t.Logf("before: %+v; after %d turns: %+v", before, turns, after)
	if after.goroutines > before.goroutines+2 || after.descriptors > before.descriptors+2 ||
		after.megabytes > before.megabytes+2 {
		t.Error("it grew")
	}
}

type quickProof struct{}

func (quickProof) Check(context.Context, event.Sink, *loop.Target) error { return nil }
func (quickProof) Follow(*loop.Target)                                   {}
