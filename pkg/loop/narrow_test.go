package loop

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/watch"
)

// A run of some releases deploys nothing else, and only where nothing else is to be done.
func TestRunOfSomeReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{node: map[string]bool{}}
		var runs []string // what each run deployed: the releases, or all
		load := func(ctx context.Context) (Stages, error) {
			stages, err := w.load(ctx)
			stages.Only = func(releases []string) (Stages, error) {
				narrowed := stages
				narrowed.Platform = part{w, strings.Join(releases, "+"), &runs}
				return narrowed, nil
			}
			stages.Platform = part{w, "all", &runs}
			return stages, err
		}
		changes := make(chan Change)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		sink := event.Sink(func(event.Event) {})
		go func() {
			defer close(done)
			New(load, w, undiffed{}, changes, sink).Run(ctx)
		}()
		defer func() { cancel(); <-done }()
		saved := func(n int64) Change {
			w.disk.Store(n)
			return Change{Batch: watch.Batch{Paths: []string{"/project/requirements.txt"}}}
		}
		ask := func(releases ...string) Change { return Change{Asked: true, Releases: releases} }
		expect := func(what, want string) {
			t.Helper()
			pass(2 * burstGap)
			if got := strings.Join(runs, " "); got != want {
				t.Errorf("%s: deployed %q, not %q", what, got, want)
			}
			runs = nil
		}

		expect("the start", "all")
		changes <- ask("web")
		expect("after a good run", "web")
		changes <- ask("web")
		expect("again", "web")
		changes <- ask()
		expect("all", "all")

		w.applyFor = time.Second
		changes <- ask("web")
		pass(time.Second / 2)
		changes <- saved(1)
		expect("a file changes meanwhile", "web all")
		changes <- saved(2)
		pass(time.Second / 2)
		changes <- ask("web")
		expect("while one of all is under way", "all all")
		w.applyFor = 0

		w.disk.Store(3) // the watcher has not told yet
		changes <- ask("web")
		expect("a file has changed already", "all")
		changes <- saved(3)
		expect("which is told then", "")

		w.bad.Store(true)
		changes <- saved(4)
		expect("a run that fails", "")
		w.bad.Store(false)
		changes <- ask("web")
		expect("after a failure", "all")

		w.flaky.Store(1)
		changes <- ask("web")
		expect("one that fails for now", "web all")
		w.flaky.Store(2)
		changes <- saved(5)
		pass(time.Second / 2)
		changes <- ask("web")
		expect("instead of another try of all", "all all all")
	})
}

func TestMergedReleases(t *testing.T) {
	for _, test := range []struct{ a, b, want string }{
		{"", "", ""}, {"web", "", ""}, {"", "web", ""}, {"web", "web", "web"}, {"web", "api", "api web"},
	} {
		list := func(names string) []string {
			if names == "" {
				return nil
			}
			return strings.Fields(names)
		}
		if got := strings.Join(merge(list(test.a), list(test.b)), " "); got != test.want {
			t.Errorf("%q and %q: %q", test.a, test.b, got)
		}
	}
}

// part is the platform of some releases, or of all.
type part struct {
	*world
	name string
	runs *[]string
}

func (p part) Apply(
	ctx context.Context, sink event.Sink, target *Target, begin func(context.Context) error,
) error {
	return p.world.Apply(ctx, sink, target, func(ctx context.Context) error {
		err := begin(ctx)
		if err == nil {
			*p.runs = append(*p.runs, p.name)
		}
		return err
	})
}
