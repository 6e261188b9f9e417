package loop

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"go.uber.org/goleak"

	"github.com/devloop/devloop/pkg/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is stages that only remember what was asked of them. What is on "disk" is a number, which is the image's tag too.
type world struct {
	disk     atomic.Int64
	node     map[string]bool
	deployed string
	builds   []string
	watched  []string
	buildFor time.Duration
	broken   atomic.Bool
	running  atomic.Int32 // runs under way, to see that there is never more than one
	overlap  bool
}

func (w *world) tag() name.Tag {
	tag, err := name.NewTag("worker:" + time.Duration(w.disk.Load()).String())
	if err != nil {
		panic(err)
	}
	return tag
}

func (w *world) load() (Stages, error) {
	if w.running.Add(1) > 1 {
		w.overlap = true
	}
	return Stages{Files: []string{"devloop.yaml"}, Images: w, Nodes: w, Platform: w, Forwards: w}, nil
}
func (w *world) Watch(paths []string) error { w.watched = paths; return nil }
func (w *world) Hash(context.Context) ([]name.Tag, []string, error) {
	if w.broken.Load() {
		return nil, []string{"Dockerfile"}, errors.New("broken")
	}
	return []name.Tag{w.tag()}, []string{"Dockerfile"}, nil
}
func (w *world) Has(context.Context, name.Tag) (bool, error) { return false, nil }
func (w *world) Build(ctx context.Context, _ event.Sink, tag name.Tag) error {
	w.builds = append(w.builds, tag.String())
	select {
	case <-time.After(w.buildFor):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
func (w *world) Missing(_ context.Context, tags []name.Tag) (missing []name.Tag, err error) {
	for _, tag := range tags {
		if !w.node[tag.String()] {
			missing = append(missing, tag)
		}
	}
	return missing, nil
}
func (w *world) Give(_ context.Context, _ event.Sink, tags []name.Tag) error {
	for _, tag := range tags {
		w.node[tag.String()] = true
	}
	return nil
}
func (w *world) Prune(context.Context, event.Sink, []name.Tag) {}
func (w *world) Files() []string                               { return []string{"values.yaml"} }
func (w *world) Apply(_ context.Context, _ event.Sink, tags []name.Tag) error {
	w.deployed = tags[0].String()
	return nil
}
func (w *world) Wait(context.Context, event.Sink) error  { return nil }
func (w *world) Check(context.Context, event.Sink) error { return nil }

// start runs a loop over w until the returned function is called.
func start(t *testing.T, w *world) (save func(int64), phases func() []event.Phase, stop func()) {
	t.Helper()
	w.node = map[string]bool{}
	changes := make(chan []string)
	events := make(chan event.Event, 1000)
	sink := func(e event.Event) {
		if e.Message == "run complete" {
			if e.Phase != event.Started {
				w.running.Add(-1)
			}
			events <- e
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(w.load, w, changes, sink).Run(ctx)
	}()
	save = func(n int64) {
		w.disk.Store(n)
		changes <- []string{"/project/requirements.txt"}
	}
	phases = func() []event.Phase {
		var all []event.Phase
		for {
			select {
			case e := <-events:
				all = append(all, e.Phase)
			default:
				return all
			}
		}
	}
	return save, phases, func() { cancel(); <-done }
}

// pass lets the bubble's clock run on, and waits until everything that this sets off has come to rest.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestRunsAtOnceAndAfterEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{buildFor: time.Minute}
		save, phases, stop := start(t, w)
		defer stop()
		pass(2 * time.Minute)
		if got := w.deployed; got != "worker:0s" {
			t.Errorf("deployed %q", got)
		}
		save(7)
		pass(2 * time.Minute)
		if got := w.deployed; got != "worker:7ns" {
			t.Errorf("deployed %q", got)
		}
		want := []event.Phase{event.Started, event.Succeeded, event.Started, event.Succeeded}
		if got := phases(); !slices.Equal(got, want) {
			t.Errorf("phases %v", got)
		}
		if want := []string{"devloop.yaml", "values.yaml", "Dockerfile"}; !slices.Equal(w.watched, want) {
			t.Errorf("watched %v, not %v", w.watched, want)
		}
	})
}

func TestNewestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{buildFor: time.Minute}
		save, phases, stop := start(t, w)
		defer stop()
		for n := range int64(5) {
			pass(time.Second)
			save(n + 1)
		}
		pass(2 * time.Minute)
		if got := w.deployed; got != "worker:5ns" {
			t.Errorf("deployed %q, not the newest", got)
		}
		if w.overlap {
			t.Error("two runs went on at the same time")
		}
		superseded := 0
		for _, phase := range phases() {
			if phase == event.Superseded {
				superseded++
			}
		}
		if superseded != 5 {
			t.Errorf("%d runs superseded, not 5", superseded)
		}
	})
}

func TestFailedRunIsMendedByTheNextChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.broken.Store(true)
		save, phases, stop := start(t, w)
		defer stop()
		synctest.Wait()
		if got := phases(); !slices.Equal(got, []event.Phase{event.Started, event.Failed}) {
			t.Errorf("phases %v", got)
		}
		if len(w.watched) == 0 {
			t.Error("a broken file is not watched, so nobody sees it mended")
		}
		w.broken.Store(false)
		save(1)
		synctest.Wait()
		if got := phases(); !slices.Equal(got, []event.Phase{event.Started, event.Succeeded}) {
			t.Errorf("phases %v", got)
		}
	})
}

func TestShutdownWaitsForTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{buildFor: time.Hour}
		_, phases, stop := start(t, w)
		synctest.Wait()
		stop()
		if got := phases(); !slices.Equal(got, []event.Phase{event.Started, event.Interrupted}) {
			t.Errorf("phases %v", got)
		}
		if w.deployed != "" {
			t.Errorf("deployed %q after the end", w.deployed)
		}
	})
}

func TestNothingIsBuiltThatTheNodeHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		save, _, stop := start(t, w)
		defer stop()
		synctest.Wait()
		save(0)
		synctest.Wait()
		if len(w.builds) != 1 {
			t.Errorf("builds %v", w.builds)
		}
	})
}

func TestTheErrorThatSaysWhatToDoIsShown(t *testing.T) {
	bare := errors.New("exit code 1")
	told := event.WithHint(errors.New("no such version"), "mend it")
	for _, test := range []struct {
		errs []error
		want string
	}{
		{nil, ""},
		{[]error{nil, nil}, ""},
		{[]error{bare, told}, "no such version"},
		{[]error{nil, bare}, "exit code 1"},
		{[]error{told, told}, "no such version\nno such version"},
	} {
		got := ""
		if err := telling(test.errs); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%v: %q, not %q", test.errs, got, test.want)
		}
	}
}
