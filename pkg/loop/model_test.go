package loop

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// script is stages whose one build ends when and how a test says.
type script struct {
	*world
	ends    chan error // of the build under way
	started atomic.Int32
	ended   atomic.Int32
}

func (s *script) load(context.Context) (Stages, error) {
	return Stages{Images: s, Nodes: s, Local: s, Platform: s, Forwards: s}, nil
}

func (s *script) Build(ctx context.Context, _ event.Sink, _ *Image) error {
	s.started.Add(1)
	defer s.ended.Add(1)
	select {
	case err := <-s.ends:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// The steps of a story, one letter each.
const (
	changes  = 'c' // a save of something new
	repeats  = 's' // a save of the same
	succeeds = 'e' // the build under way ends
	fails    = 'f'
	passes   = 't' // it fails with a transient error
	moves    = 'm' // it sees its inputs move
	waits    = 'w' // time goes by, longer than bursts and retries take
)

// A step more makes seven times as many stories, which is for "make soak".
var length = flag.Int("length", 4, "how many steps each story of TestEveryStory has")

// Every story of these steps, up to a length, with the end after it: there is never more than one
// run; nothing is left under way or undone; what is deployed is what is on disk.
func TestEveryStory(t *testing.T) {
	const letters = "csefmtw"
	stories := 0
	var each func(story string)
	each = func(story string) {
		if len(story) == *length {
			stories++
			for _, shutdown := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) { play(t, story, shutdown) })
			}
			return
		}
		for _, letter := range letters {
			each(story + string(letter))
		}
	}
	each("")
	t.Logf("%d stories", stories)
}

func play(t *testing.T, story string, shutdown bool) {
	s := &script{world: &world{node: map[string]bool{}}, ends: make(chan error)}
	var busy, overlap atomic.Int32
	sink := func(e event.Event) {
		switch {
		case e.Message != "run complete":
		case e.Phase != event.Started:
			busy.Add(-1)
		case busy.Add(1) > 1:
			overlap.Add(1)
		}
	}
	in := make(chan Change)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { New(s.load, s, undiffed{}, in, sink).Run(ctx) })
	end := func(err error) {
		synctest.Wait()
		select {
		case s.ends <- err:
		default: // nothing is being built
		}
	}
	for _, letter := range story {
		switch letter {
		case changes:
			s.disk.Add(1)
			in <- Change{}
		case repeats:
			in <- Change{}
		case succeeds:
			end(nil)
		case fails:
			end(errors.New("exit code 1"))
		case passes:
			end(event.Transient(errors.New("Docker is away")))
		case moves:
			end(fmt.Errorf("an input changed: %w", event.ErrSuperseded))
		case waits:
			pass(2 * retryMax)
		}
		synctest.Wait()
	}
	if shutdown {
		cancel()
		running.Wait()
		if busy.Load() != 0 || s.started.Load() != s.ended.Load() {
			t.Errorf("%s: a run is left under way", story)
		}
	} else {
		in <- Change{} // for a story that ends with a failure: saved again, it is tried again
		for pass(2 * retryMax); s.started.Load() != s.ended.Load(); pass(2 * retryMax) {
			end(nil)
		}
		if got, want := s.deployed, s.tag().String(); got != want {
			t.Errorf("%s: deployed %q, on disk is %q", story, got, want)
		}
		cancel()
		running.Wait()
	}
	if overlap.Load() != 0 {
		t.Errorf("%s: two runs at the same time", story)
	}
}

// A thousand random saves, and stages that fail, hang and are slow: at rest, what is deployed is
// what is on disk.
func TestStress(t *testing.T) {
	const saves = 1000
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	synctest.Test(t, func(t *testing.T) {
		w := &faulty{world: &world{node: map[string]bool{}}, random: rand.New(rand.NewPCG(seed, 2))}
		w.faults.Store(true)
		in := make(chan Change)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { New(w.load, w, undiffed{}, in, func(event.Event) {}).Run(ctx) })
		for range saves {
			if random.IntN(5) > 0 {
				w.disk.Store(random.Int64N(50))
			}
			in <- Change{Asked: random.IntN(20) == 0}
			pass(time.Duration(random.ExpFloat64() * float64(burstGap)))
			if random.IntN(50) == 0 { // a rest, in which all has to come right by itself
				w.faults.Store(false)
				pass(time.Hour)
				if got, want := w.deployed, w.tag().String(); got != want {
					t.Fatalf("seed %d: deployed %q, on disk is %q", seed, got, want)
				}
				w.faults.Store(true)
			}
		}
		w.faults.Store(false)
		in <- Change{}
		pass(time.Hour)
		if got, want := w.deployed, w.tag().String(); got != want {
			t.Errorf("seed %d: deployed %q, on disk is %q", seed, got, want)
		}
		if w.overlap.Load() {
			t.Errorf("seed %d: two runs at the same time", seed)
		}
		cancel()
		running.Wait()
	})
}

// faulty is stages that take their time and fail now and then, mostly with a transient error.
type faulty struct {
	*world
	faults atomic.Bool
	mu     sync.Mutex
	random *rand.Rand
}

func (f *faulty) load(context.Context) (Stages, error) {
	return Stages{Images: f, Nodes: f, Local: f, Platform: f, Forwards: f}, nil
}

// work takes up to limit, and may go wrong. An end of ctx is noticed at once, or not at all where
// uncancelled.
func (f *faulty) work(ctx context.Context, limit time.Duration, uncancelled bool) error {
	f.mu.Lock()
	takes, luck := time.Duration(f.random.Int64N(int64(limit))), f.random.IntN(20)
	f.mu.Unlock()
	if uncancelled {
		<-time.After(takes)
	} else {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	switch {
	case !f.faults.Load():
	case luck < 3:
		return event.Transient(errors.New("the daemon is away"))
	case luck == 3:
		return fmt.Errorf("an input moved: %w", event.ErrSuperseded)
	}
	return nil
}

func (f *faulty) Build(ctx context.Context, _ event.Sink, _ *Image) error {
	return f.work(ctx, 20*time.Second, false)
}

func (f *faulty) Load(ctx context.Context, sink event.Sink, images []*Image) error {
	if err := f.work(ctx, 5*time.Second, false); err != nil {
		return err
	}
	return f.world.Load(ctx, sink, images)
}

func (f *faulty) Apply(
	ctx context.Context, sink event.Sink, target *Target, begin func(context.Context) error,
) error {
	if err := f.work(ctx, 2*time.Second, true); err != nil {
		return err
	}
	return f.world.Apply(ctx, sink, target, begin)
}

func (f *faulty) Wait(ctx context.Context, _ event.Sink) error {
	return f.work(ctx, 20*time.Second, false)
}
