package loop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/watch"
)

// timed is stages whose steps take known times. The nodes hold the image "held", "near" is built
// right there, and "far" has to be loaded.
type timed struct {
	*world
	pushed bool // to a registry, in place of being loaded
	takes  map[string]time.Duration
	fails  map[string]error

	mu    sync.Mutex
	since time.Time
	steps map[string]string // when each began and ended, in seconds; "x" at its end if it was ended
}

func (s *timed) step(ctx context.Context, what string) (err error) {
	began, mark := time.Since(s.since), ""
	select {
	case <-time.After(s.takes[what]):
		err = s.fails[what]
	case <-ctx.Done():
		err, mark = context.Cause(ctx), "x"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps[what] = fmt.Sprintf("%v-%v%s", began.Seconds(), time.Since(s.since).Seconds(), mark)
	return err
}

func (s *timed) load(context.Context) (Stages, error) {
	return Stages{Images: s, Nodes: s, Local: s, Platform: s, Forwards: timedForwards{}, Proof: s}, nil
}

func (s *timed) Hash(context.Context) (*Target, []watch.Path, error) {
	target := &Target{Pushed: s.pushed}
	for _, name := range []string{"held", "near", "far"} {
		target.Images = append(target.Images, &Image{Name: name, Ref: name})
	}
	return target, nil, nil
}

func (s *timed) Missing(_ context.Context, images []*Image) ([]*Image, error) { return images[1:], nil }

func (s *timed) Build(ctx context.Context, _ event.Sink, image *Image) (loaded bool, err error) {
	return image.Name == "near", s.step(ctx, "build "+image.Name)
}

func (s *timed) Load(ctx context.Context, _ event.Sink, image *Image) error {
	err := s.step(ctx, "load "+image.Name)
	if s.pushed {
		image.Ref += "@digest"
	}
	return err
}

func (s *timed) Report(ctx context.Context, _ event.Sink, _ *Target) { _ = s.step(ctx, "report") }

func (s *timed) Validate(ctx context.Context, _ event.Sink, target *Target) error {
	err := s.step(ctx, "validate")
	if refs := target.Refs(); refs["far"] != "far" {
		return errors.New("an image changed while it was read")
	}
	return err
}

func (s *timed) Verify(ctx context.Context, _ event.Sink, image *Image) error {
	return s.step(ctx, "verify "+image.Ref)
}

func (s *timed) Apply(ctx context.Context, _ event.Sink, _ *Target, begin func(context.Context) error) error {
	if err := s.step(ctx, "prepare"); err != nil {
		return err
	}
	if err := begin(ctx); err != nil {
		return err
	}
	return s.step(ctx, "write")
}

func (s *timed) Check(context.Context, event.Sink, *Target) error { return nil }

func (s *timed) Follow(*Target) {}

type timedForwards struct{}

func (timedForwards) Check(context.Context, event.Sink) error { return nil }

// TestEachImageGoesOnByItself: nothing waits for what it does not need, and a failure ends the rest
// before anything is written.
func TestEachImageGoesOnByItself(t *testing.T) {
	const s = time.Second
	bad, worse := errors.New("dask cannot be imported"), errors.New("pip check fails")
	for says, test := range map[string]struct {
		pushed bool
		takes  map[string]time.Duration // where it differs
		fails  map[string]error
		save   time.Duration // a newer one
		want   string        // what was done
		err    string
	}{
		"all goes well": {want: "build far 0-3, build near 0-5, load far 3-7, prepare 6-9, report 7-9, validate 0-6, " +
			"verify far 7-9, verify held 0-8, verify near 5-6, write 9-10"},
		"all goes well with a registry": {pushed: true,
			want: "build far 0-3, build near 0-5, load far 3-7, prepare 7-10, report 7-9, validate 0-6, " +
				"verify far@digest 7-9, verify held 0-8, verify near 5-6, write 10-11"},
		"a canary is slow": {takes: map[string]time.Duration{"verify held": 20 * s},
			want: "build far 0-3, build near 0-5, load far 3-7, prepare 6-9, report 7-9, validate 0-6, " +
				"verify far 7-9, verify held 0-20, verify near 5-6, write 20-21"},
		"a report is slow": {takes: map[string]time.Duration{"report": 20 * s},
			want: "build far 0-3, build near 0-5, load far 3-7, prepare 6-9, report 7-27, validate 0-6, " +
				"verify far 7-9, verify held 0-8, verify near 5-6, write 9-10"},
		"a build is slow": {takes: map[string]time.Duration{"build near": 20 * s},
			want: "build far 0-3, build near 0-20, load far 3-7, prepare 6-9, report 20-22, validate 0-6, " +
				"verify far 7-9, verify held 0-8, verify near 20-21, write 21-22"},
		"a canary fails during builds": {takes: map[string]time.Duration{"verify held": 2 * s},
			fails: map[string]error{"verify held": bad},
			want:  "build far 0-2x, build near 0-2x, validate 0-2x, verify held 0-2", err: "dask cannot be imported"},
		"two fail": {takes: map[string]time.Duration{"verify near": 4 * s},
			fails: map[string]error{"verify held": bad, "verify near": worse},
			want: "build far 0-3, build near 0-5, load far 3-7, prepare 6-9, report 7-9, validate 0-6, " +
				"verify far 7-9, verify held 0-8, verify near 5-9",
			err: "dask cannot be imported\npip check fails"},
		"both for the same reason": {fails: map[string]error{"verify held": bad, "verify far": bad},
			want: "build far 0-3, build near 0-5, load far 3-7, prepare 6-9, report 7-9, validate 0-6, " +
				"verify far 7-9, verify held 0-8, verify near 5-6",
			err: "dask cannot be imported"},
		"a chart has a mistake": {fails: map[string]error{"validate": errors.New("no such function")},
			want: "build far 0-3, build near 0-5, load far 3-6x, validate 0-6, verify held 0-6x, verify near 5-6",
			err:  "no such function"},
		"a build fails": {fails: map[string]error{"build far": errors.New("exit code 1")},
			want: "build far 0-3, build near 0-5, validate 0-5x, verify held 0-5x, verify near 5-5x", err: "exit code 1"},
		"a build fails late": {takes: map[string]time.Duration{"build near": 20 * s},
			fails: map[string]error{"build near": errors.New("exit code 1")},
			want:  "build far 0-3, build near 0-20, load far 3-7, prepare 6-9, validate 0-6, verify far 7-9, verify held 0-8",
			err:   "exit code 1"},
		"a load fails": {fails: map[string]error{"load far": errors.New("no room")},
			want: "build far 0-3, build near 0-5, load far 3-7, prepare 6-7x, validate 0-6, verify held 0-7x, verify near 5-6",
			err:  "no room"},
		"a push fails": {pushed: true, fails: map[string]error{"load far": errors.New("no room")},
			want: "build far 0-3, build near 0-5, load far 3-7, validate 0-6, verify held 0-7x, verify near 5-6",
			err:  "no room"},
		"a release is refused": {takes: map[string]time.Duration{"verify held": 20 * s},
			fails: map[string]error{"prepare": errors.New("it is not ours")},
			want: "build far 0-3, build near 0-5, load far 3-7, prepare 6-9, report 7-9, validate 0-6, " +
				"verify far 7-9, verify held 0-9x, verify near 5-6",
			err: "it is not ours"},
		"the API server is away": {takes: map[string]time.Duration{"verify held": 20 * s},
			fails: map[string]error{"prepare": event.Transient(errors.New("it restarts"))},
			want: "build far 0-3, build near 0-5, load far 3-7, prepare 20-23, report 7-9, validate 0-6, " +
				"verify far 7-9, verify held 0-20, verify near 5-6", // it is prepared again at 20
			err: "it restarts"},
		"a newer save": {save: 8 * s, takes: map[string]time.Duration{"verify held": 20 * s},
			want: "build far 0-3, build near 0-5, load far 3-7, prepare 6-8x, report 7-8x, validate 0-6, " +
				"verify far 7-8x, verify held 0-8x, verify near 5-6",
			err: event.ErrSuperseded.Error()},
		"a newer save while a write waits": {save: 12 * s, takes: map[string]time.Duration{"verify held": 20 * s},
			want: "build far 0-3, build near 0-5, load far 3-7, prepare 6-9, report 7-9, validate 0-6, " +
				"verify far 7-9, verify held 0-12x, verify near 5-6",
			err: event.ErrSuperseded.Error()},
	} {
		t.Run(says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stages := &timed{world: &world{}, pushed: test.pushed, fails: test.fails, since: time.Now(),
					steps: map[string]string{},
					takes: map[string]time.Duration{"verify held": 8 * s, "build far": 3 * s, "load far": 4 * s,
						"verify far": 2 * s, "verify far@digest": 2 * s, "build near": 5 * s, "verify near": s, "validate": 6 * s,
						"report": 2 * s, "prepare": 3 * s, "write": s}}
				for what, took := range test.takes {
					stages.takes[what] = took
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if test.save > 0 {
					time.AfterFunc(test.save, func() { cancel(event.ErrSuperseded) })
				}
				got := ""
				if err := New(stages.load, unwatched{}, undiffed{}, nil, func(event.Event) {}).Once(ctx); err != nil {
					got = err.Error()
				}
				if got != test.err {
					t.Errorf("the error is %q", got)
				}
				var did []string
				for what, when := range stages.steps {
					did = append(did, what+" "+when)
				}
				slices.Sort(did)
				if got := strings.Join(did, ", "); got != test.want {
					t.Errorf("it did\n%s, not\n%s", got, test.want)
				}
			})
		})
	}
}
