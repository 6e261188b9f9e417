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

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/watch"
)

// script is stages whose one build ends when and how a test says. Another image is on the nodes
// already. The canaries of both take a second, unless the test says that they fail.
type script struct {
	*world
	ends    chan error // of the build under way
	bad     chan error // of a canary under way
	started atomic.Int32
	ended   atomic.Int32
	trying  atomic.Int32 // canaries under way
	early   atomic.Bool  // something was written before all canaries had passed

	mu     sync.Mutex
	passed map[string]bool // which are not tried again
}

func (s *script) load(context.Context) (Stages, error) {
	return Stages{Images: s, Nodes: s, Local: s, Platform: s, Forwards: s}, nil
}

func (s *script) Build(ctx context.Context, _ event.Sink, _ *Image) (loaded bool, err error) {
	s.started.Add(1)
	defer s.ended.Add(1)
	select {
	case err := <-s.ends:
		return false, err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

func (s *script) Hash(ctx context.Context) (*Target, []watch.Path, error) {
	target, files, err := s.world.Hash(ctx)
	target.Images = append(target.Images, &Image{Name: "client", Tag: clientTag})
	return target, files, err
}

var clientTag = name.MustParseReference("client:1").(name.Tag)

func (s *script) Verify(ctx context.Context, _ event.Sink, image *Image) error {
	s.mu.Lock()
	passed := s.passed[image.Tag.String()]
	s.mu.Unlock()
	if passed {
		return nil
	}
	s.trying.Add(1)
	defer s.trying.Add(-1)
	select {
	case err := <-s.bad:
		return err
	case <-time.After(time.Second):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed[image.Tag.String()] = true
	return nil
}

func (s *script) Apply(
	ctx context.Context, sink event.Sink, target *Target, begin func(context.Context) error,
) error {
	return s.world.Apply(ctx, sink, target, func(ctx context.Context) error {
		if err := begin(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, image := range target.Images {
			if tag := image.Tag.String(); !s.node[tag] || !s.passed[tag] || s.trying.Load() > 0 {
				s.early.Store(true)
			}
		}
		return nil
	})
}

// The steps of a story, one letter each.
const (
	changes  = 'c' // a save of something new
	repeats  = 's' // a save of the same
	succeeds = 'e' // the build under way ends
	fails    = 'f'
	isBad    = 'b' // a canary under way fails
	passes   = 't' // it fails with a transient error
	moves    = 'm' // it sees its inputs move
	waits    = 'w' // time goes by, longer than bursts and retries take
)

// A step more makes eight times as many stories, which is for "make soak".
var length = flag.Int("length", 4, "how many steps each story of TestEveryStory has")

// Every story of these steps, up to a length, with the end after it: there is never more than one
// run; nothing is left under way or undone; nothing is written before all canaries have passed;
// what is deployed is what is on disk.
func TestEveryStory(t *testing.T) {
	const letters = "csefbmtw"
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
	s := &script{world: &world{node: map[string]bool{clientTag.String(): true}}, ends: make(chan error),
		bad: make(chan error), passed: map[string]bool{}}
	var busy, overlap, left atomic.Int32
	sink := func(e event.Event) {
		switch {
		case e.Message != "run complete":
		case e.Phase != event.Started:
			busy.Add(-1)
			left.Add(s.started.Load() - s.ended.Load() + s.trying.Load())
		case busy.Add(1) > 1:
			overlap.Add(1)
		}
	}
	in := make(chan Change)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { New(s.load, s, undiffed{}, in, sink).Run(ctx) })
	end := func(what chan error, err error) {
		synctest.Wait()
		select {
		case what <- err:
		default: // nothing is under way
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
			end(s.ends, nil)
		case fails:
			end(s.ends, errors.New("exit code 1"))
		case isBad:
			end(s.bad, errors.New("dask cannot be imported"))
		case passes:
			end(s.ends, event.Transient(errors.New("Docker is away")))
		case moves:
			end(s.ends, fmt.Errorf("an input changed: %w", event.ErrSuperseded))
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
			end(s.ends, nil)
		}
		if got, want := s.deployed, s.tag().String(); got != want {
			t.Errorf("%s: deployed %q, on disk is %q", story, got, want)
		}
		cancel()
		running.Wait()
	}
	if overlap.Load() != 0 || left.Load() != 0 {
		t.Errorf("%s: two runs at the same time, or work that outlives its run", story)
	}
	if s.early.Load() {
		t.Errorf("%s: written before all canaries had passed", story)
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

func (f *faulty) Build(ctx context.Context, _ event.Sink, _ *Image) (loaded bool, err error) {
	return false, f.work(ctx, 20*time.Second, false)
}

func (f *faulty) Load(ctx context.Context, sink event.Sink, image *Image) error {
	if err := f.work(ctx, 5*time.Second, false); err != nil {
		return err
	}
	return f.world.Load(ctx, sink, image)
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
