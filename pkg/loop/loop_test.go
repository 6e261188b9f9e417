package loop

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"go.uber.org/goleak"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/filediff"
	"github.com/devloop/devloop/pkg/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is stages that only remember what was asked of them. What is on "disk" is a number, which
// is the image's tag too.
type world struct {
	disk     atomic.Int64
	node     map[string]bool
	deployed string
	builds   []string
	watched  []string
	buildFor time.Duration
	broken   atomic.Bool
	wrong    atomic.Bool  // a chart is
	bad      atomic.Bool  // an image is
	followed atomic.Int32 // how often the proof was
	flaky    atomic.Int32 // how often Apply fails with a transient error
	applyFor time.Duration
	running  atomic.Int32 // runs under way, to see that there is never more than one
	overlap  atomic.Bool
}

func (w *world) tag() name.Tag {
	tag, err := name.NewTag("worker:" + time.Duration(w.disk.Load()).String())
	if err != nil {
		panic(err)
	}
	return tag
}

func (w *world) load(context.Context) (Stages, error) {
	return Stages{Files: []string{"devloop.yaml"}, Images: w, Nodes: w, Local: w, Platform: w, Forwards: w,
		Proof: proven{w}}, nil
}
func (w *world) Watch(paths []watch.Path) (changed bool, err error) {
	before := w.watched
	w.watched = nil
	for _, p := range paths {
		w.watched = append(w.watched, p.Name)
	}
	return !slices.Equal(w.watched, before), nil
}
func (w *world) Hash(context.Context) (*Target, []watch.Path, error) {
	if w.broken.Load() {
		return nil, []watch.Path{{Name: "Dockerfile"}}, errors.New("broken")
	}
	return &Target{Images: []*Image{{Tag: w.tag()}}}, []watch.Path{{Name: "Dockerfile"}}, nil
}
func (w *world) Build(ctx context.Context, _ event.Sink, image *Image) (loaded bool, err error) {
	w.builds = append(w.builds, image.Tag.String())
	select {
	case <-time.After(w.buildFor):
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
func (w *world) Missing(_ context.Context, images []*Image) (missing []*Image, err error) {
	for _, image := range images {
		if !w.node[image.Tag.String()] {
			missing = append(missing, image)
		}
	}
	return missing, nil
}
func (w *world) Load(_ context.Context, _ event.Sink, image *Image) error {
	w.node[image.Tag.String()] = true
	return nil
}
func (w *world) Verify(context.Context, event.Sink, *Image) error {
	if w.bad.Load() {
		return errors.New("dask cannot be imported")
	}
	return nil
}

// proven is the proof of a world, whose forwards are checked, too.
type proven struct{ *world }

func (p proven) Check(_ context.Context, _ event.Sink, target *Target) error {
	if want := target.Images[0].Tag.String(); p.deployed != want {
		return fmt.Errorf("%s is deployed, not %s", p.deployed, want)
	}
	return nil
}
func (p proven) Follow(*Target) { p.followed.Add(1) }

func (w *world) Sync(*Target)                                {}
func (w *world) Report(context.Context, event.Sink, *Target) {}
func (w *world) Prune(context.Context, event.Sink, *Target)  {}
func (w *world) Files() []string                             { return []string{"values.yaml"} }
func (w *world) Validate(ctx context.Context, _ event.Sink, _ *Target) error {
	if !w.wrong.Load() {
		return nil
	}
	select {
	case <-time.After(time.Second):
		return errors.New("web.yaml:3: no such function")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
func (w *world) Apply(
	ctx context.Context, _ event.Sink, target *Target, begin func(context.Context) error,
) error {
	if err := begin(ctx); err != nil {
		return err
	}
	<-time.After(w.applyFor)
	if w.flaky.Add(-1) >= 0 {
		return event.Transient(fmt.Errorf("port %d: the API server is away", w.flaky.Load()+100))
	}
	w.deployed = target.Images[0].Tag.String()
	return nil
}
func (w *world) Wait(context.Context, event.Sink) error  { return nil }
func (w *world) Check(context.Context, event.Sink) error { return nil }

// undiffed knows no format of a file.
type undiffed struct{}

func (undiffed) Read(context.Context, []watch.Path) {}
func (undiffed) Succeeded()                         {}
func (undiffed) Changes([]string) event.FileChanges { return nil }

// start runs a loop over w until the returned function is called. Events returns those of whole
// runs since it was called last.
func start(t *testing.T, w *world) (save func(int64), events func() []event.Event, stop func()) {
	t.Helper()
	w.node = map[string]bool{}
	changes := make(chan Change)
	reported := make(chan event.Event, 1000)
	sink := func(e event.Event) {
		if e.Message != "run complete" {
			return
		}
		if e.Phase == event.Started && w.running.Add(1) > 1 {
			w.overlap.Store(true)
		}
		if e.Phase != event.Started {
			w.running.Add(-1)
		}
		reported <- e
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(w.load, w, undiffed{}, changes, sink).Run(ctx)
	}()
	save = func(n int64) {
		w.disk.Store(n)
		changes <- Change{Batch: watch.Batch{Paths: []string{"/project/requirements.txt"}}}
	}
	events = func() []event.Event {
		var all []event.Event
		for {
			select {
			case e := <-reported:
				all = append(all, e)
			default:
				return all
			}
		}
	}
	return save, events, func() { cancel(); <-done }
}

// phases of events, in short.
func phases(events []event.Event) string {
	short := map[event.Phase]string{
		event.Started: "(", event.Succeeded: ")", event.Failed: "!", event.Superseded: "x", event.Interrupted: ".",
	}
	all := ""
	for _, e := range events {
		all += short[e.Phase]
	}
	return all
}

// pass lets the bubble's clock run on, and waits until everything that this sets off has come to
// rest.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestRunsAtOnceAndAfterEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{buildFor: time.Minute}
		save, events, stop := start(t, w)
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
		if got := phases(events()); got != "()()" {
			t.Errorf("runs %s", got)
		}
		if want := []string{"Dockerfile", "devloop.yaml", "values.yaml"}; !slices.Equal(w.watched, want) {
			t.Errorf("watched %v, not %v", w.watched, want)
		}
	})
}

func TestMistakeInAChartEndsTheBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{buildFor: time.Hour}
		w.wrong.Store(true)
		save, events, stop := start(t, w)
		defer stop()
		pass(2 * time.Second)
		reported := events()
		if got := phases(reported); got != "(!" || reported[1].Err.Error() != "web.yaml:3: no such function" {
			t.Errorf("runs %s: %v", got, reported)
		}
		w.wrong.Store(false)
		w.buildFor = time.Minute
		save(1)
		pass(2 * time.Minute)
		if got := phases(events()); got != "()" || w.deployed != "worker:1ns" {
			t.Errorf("runs %s, deployed %q", got, w.deployed)
		}
	})
}

func TestImageThatDoesNotPassIsNotDeployed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		save, events, stop := start(t, w)
		defer stop()
		pass(2 * burstGap)
		w.bad.Store(true)
		save(1)
		pass(2 * burstGap)
		if got := phases(events()); got != "()(!" || w.deployed != "worker:0s" || w.followed.Load() != 1 {
			t.Errorf("runs %s, deployed %q, followed %d times", got, w.deployed, w.followed.Load())
		}
		w.bad.Store(false)
		save(2)
		pass(2 * burstGap)
		if got := phases(events()); got != "()" || w.deployed != "worker:2ns" || w.followed.Load() != 2 {
			t.Errorf("runs %s, deployed %q, followed %d times", got, w.deployed, w.followed.Load())
		}
	})
}

// unwatched is a watcher of a loop of one turn.
type unwatched struct{}

func (unwatched) Watch([]watch.Path) (changed bool, err error) { return false, nil }

func TestOnce(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("values.yaml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{node: map[string]bool{}}
	if err := New(w.load, unwatched{}, undiffed{}, nil, func(event.Event) {}).Once(t.Context()); err != nil {
		t.Error(err)
	}
	if w.deployed != w.tag().String() {
		t.Errorf("deployed %q", w.deployed)
	}
}

func TestNewestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{buildFor: time.Minute}
		save, events, stop := start(t, w)
		defer stop()
		for n := range int64(5) {
			pass(2 * burstGap)
			save(n + 1)
			synctest.Wait()
			if len(w.builds) != int(n)+2 {
				t.Errorf("%d builds after %d saves: a change that comes alone does not wait", len(w.builds), n+1)
			}
		}
		pass(2 * time.Minute)
		if got := w.deployed; got != "worker:5ns" {
			t.Errorf("deployed %q, not the newest", got)
		}
		if w.overlap.Load() {
			t.Error("two runs went on at the same time")
		}
		if got := phases(events()); got != "(x(x(x(x(x()" {
			t.Errorf("runs %s", got)
		}
	})
}

// Ten saves in five seconds begin two builds: the first one's and the last one's.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{buildFor: 20 * time.Second}
		save, _, stop := start(t, w)
		defer stop()
		pass(time.Minute)
		w.builds = nil
		for n := range int64(10) {
			save(n + 1)
			pass(burstQuiet / 2)
		}
		pass(burstQuiet / 2)
		if want := []string{"worker:1ns", "worker:10ns"}; !slices.Equal(w.builds, want) {
			t.Errorf("builds begun: %v, not %v", w.builds, want)
		}
		pass(time.Minute)
		if got := w.deployed; got != "worker:10ns" {
			t.Errorf("deployed %q", got)
		}
		// Without an end, some are begun all the same.
		w.builds = nil
		for n := range int64(80) {
			save(n + 100)
			pass(burstQuiet / 2)
		}
		if n := len(w.builds); n < 3 || n > 9 {
			t.Errorf("%d builds begun in 40 s of saves", n)
		}
	})
}

// What holds what it held starts nothing, and stops nothing.
func TestSameContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{buildFor: time.Minute}
		save, events, stop := start(t, w)
		defer stop()
		pass(time.Second)
		save(0)
		pass(2 * time.Minute)
		if got := phases(events()); got != "()()" { // the second one makes sure: a stage may have seen the files halfway
			t.Errorf("runs %s", got)
		}
		save(0)
		pass(time.Minute)
		if got := phases(events()); got != "" {
			t.Errorf("runs %s", got)
		}
		if len(w.builds) != 1 {
			t.Errorf("builds %v", w.builds)
		}
	})
}

func TestNextChangeFixesAFailedRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.broken.Store(true)
		save, events, stop := start(t, w)
		defer stop()
		pass(time.Hour)
		if got := phases(events()); got != "(!" {
			t.Errorf("runs %s", got)
		}
		if len(w.watched) == 0 {
			t.Error("a broken file is not watched, so its fix goes unseen")
		}
		w.broken.Store(false)
		save(0) // the same as before: who saves again after a failure means it
		synctest.Wait()
		if got := phases(events()); got != "()" {
			t.Errorf("runs %s", got)
		}
	})
}

// A transient failure is tried again, and reported once.
func TestTransientFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.flaky.Store(3)
		_, events, stop := start(t, w)
		defer stop()
		pass(time.Minute)
		all := events()
		if got := phases(all); got != "(!(!(!()" {
			t.Fatalf("runs %s", got)
		}
		loud := slices.DeleteFunc(all, func(e event.Event) bool { return e.Repeated })
		if got := phases(loud); got != "(!)" {
			t.Errorf("reported %s", got)
		}
		if got := w.deployed; got != "worker:0s" {
			t.Errorf("deployed %q", got)
		}
	})
}

// How far apart retries start: up to retryMax, however long each of them takes to see that
// something is away.
func TestBackoffCountsFromTheStart(t *testing.T) {
	for took, want := range map[time.Duration][]int{ // seconds from one start to the next
		0:                {1, 2, 4, 8, 16, 30, 30},
		3 * time.Second:  {4, 4, 4, 8, 16, 30, 30},
		20 * time.Second: {21, 21, 21, 21, 21, 30, 30},
		45 * time.Second: {46, 46, 46, 46, 46, 46, 46},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{applyFor: took}
			w.flaky.Store(math.MaxInt32)
			_, events, stop := start(t, w)
			defer stop()
			pass(10 * time.Minute)
			var apart []int
			var last time.Time
			for _, e := range events() {
				if e.Phase != event.Started {
					continue
				}
				if !last.IsZero() {
					apart = append(apart, int(e.Time.Sub(last).Seconds()))
				}
				last = e.Time
			}
			if len(apart) < len(want) || !slices.Equal(apart[:len(want)], want) {
				t.Errorf("tries of %s start after %v, not %v", took, apart, want)
			}
		})
	}
}

// A change does not wait until it is tried again.
func TestChangeDuringBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.flaky.Store(6)
		save, _, stop := start(t, w)
		defer stop()
		pass(retryMin + 2*retryMin + 4*retryMin + 8*retryMin + 16*retryMin + time.Second)
		save(1)
		synctest.Wait()
		if got := w.deployed; got != "worker:1ns" {
			t.Errorf("deployed %q", got)
		}
	})
}

func TestWhatARunBrings(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile("values.yaml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a: 1\n")
	synctest.Test(t, func(t *testing.T) {
		w := &world{node: map[string]bool{}, buildFor: time.Minute}
		changes := make(chan Change)
		var mu sync.Mutex
		var brings []string
		sink := func(e event.Event) {
			if p, ok := e.Payload.(event.RunStart); ok {
				mu.Lock()
				defer mu.Unlock()
				brings = append(brings, fmt.Sprint(p.Why, ": ", p.Changes))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { New(w.load, w, &filediff.Tracker{}, changes, sink).Run(ctx) })
		save := func(text string) {
			write(text)
			w.disk.Add(1)
			changes <- Change{Batch: watch.Batch{Paths: []string{"values.yaml"}}}
		}
		pass(2 * time.Minute)
		save("a: 2\n")
		pass(10 * time.Second) // superseded
		save("a: 2\nb: 1\n")
		pass(2 * time.Minute)
		w.bad.Store(true)
		save("a: 2\nb: 2\n")
		pass(2 * time.Minute) // failed
		w.bad.Store(false)
		changes <- Change{Asked: true}
		pass(2 * time.Minute)
		changes <- Change{Asked: true}
		pass(2 * time.Minute)
		cancel()
		running.Wait()
		want := []string{"start: ", "change: values.yaml  ~ a", "change: values.yaml  ~ a, + b", "change: values.yaml  ~ b",
			"asked: values.yaml  ~ b", "asked: "}
		if !slices.Equal(brings, want) {
			t.Errorf("%q, not %q", brings, want)
		}
	})
}

// The time to ready counts from the save, also where an API server that hangs had the run tried
// again in between.
func TestRetriesCountFromTheSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{node: map[string]bool{}, applyFor: 10 * time.Second}
		changes := make(chan Change)
		var mu sync.Mutex
		var last event.RunStart
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			New(w.load, w, undiffed{}, changes, func(e event.Event) {
				if p, ok := e.Payload.(event.RunStart); ok {
					mu.Lock()
					defer mu.Unlock()
					last = p
				}
			}).Run(ctx)
		}()
		defer func() { cancel(); <-done }()
		save := func(n int64) time.Time {
			w.disk.Store(n)
			now := time.Now()
			changes <- Change{Batch: watch.Batch{Paths: []string{"/project/app.py"}, Since: now, Until: now}}
			return now
		}
		expect := func(why string, since time.Time) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if string(last.Why) != why || !last.Since.Equal(since) || why == "change" && last.Files != "app.py" {
				t.Errorf("%+v, not since %s", last, since)
			}
		}
		began := time.Now()
		w.flaky.Store(1)
		pass(time.Minute)
		expect("retry", began)

		w.flaky.Store(2)
		saved := save(1)
		pass(time.Minute)
		expect("retry", saved)

		w.flaky.Store(1)
		save(2)
		pass(10*time.Second + retryMin/2) // it was told as failed
		saved = save(3)
		pass(time.Minute)
		expect("change", saved)
	})
}

func TestShutdownWaitsForTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{buildFor: time.Hour}
		_, events, stop := start(t, w)
		synctest.Wait()
		stop()
		if got := phases(events()); got != "(." {
			t.Errorf("runs %s", got)
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
		for _, n := range []int64{1, 0, 1} {
			pass(time.Minute)
			save(n)
		}
		synctest.Wait()
		if len(w.builds) != 2 {
			t.Errorf("builds %v", w.builds)
		}
	})
}

func TestTheErrorThatSaysWhatToDoIsShown(t *testing.T) {
	bare := errors.New("exit code 1")
	hinted := event.WithHint(errors.New("no such version"), "choose another one")
	for _, test := range []struct {
		errs []error
		want string
	}{
		{nil, ""},
		{[]error{nil, nil}, ""},
		{[]error{bare, hinted}, "no such version"},
		{[]error{nil, bare}, "exit code 1"},
		{[]error{hinted, hinted}, "no such version\nno such version"},
	} {
		got := ""
		if err := joinHinted(test.errs); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%v: %q, not %q", test.errs, got, test.want)
		}
	}
}

// Helm reads a chart through its links: what is behind them counts, and has to be watched.
func TestLinkedFolders(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("shared/service.yaml", "a")
	write("real/Chart.yaml", "a")
	link("real", "chart")
	link("../shared", "real/templates")
	link("..", "shared/loop")
	chart := []string{filepath.Join(dir, "chart")}
	content := func() string { return sumFiles(t.Context(), walk(t.Context(), chart).files) }
	before := content()
	write("shared/service.yaml", "b")
	if content() == before {
		t.Error("a change behind links is not seen")
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "real", "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	piped := content() // which does not wait for a writer of the pipe
	if again := content(); again != piped {
		t.Error("the same has two sums")
	}
	before = content()
	large := filepath.Join(dir, "real", "dump") // larger than any disk, and not read
	for _, size := range []int64{1 << 40, 2 << 40} {
		write("real/dump", "")
		if err := os.Truncate(large, size); err != nil {
			t.Fatal(err)
		}
		now := content()
		if now == before {
			t.Errorf("a file of %d bytes is not seen", size)
		}
		before = now
	}
	got := walk(t.Context(), chart)
	if want := filepath.Join(dir, "real", "templates"); got.err != nil || !slices.Contains(got.watch, want) {
		t.Errorf("watched %v, without %s (%v)", got.watch, want, got.err)
	}
}

func TestToolFilesAreNoChange(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("chart/values.yaml")
	before := walk(t.Context(), []string{filepath.Join(dir, "chart")})
	for _, name := range []string{".values.yaml.swp", "values.yaml~", ".git/index", "templates/4913"} {
		write("chart/" + name)
	}
	if err := os.Remove(filepath.Join(dir, "chart/templates/4913")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("me@host.42:17", filepath.Join(dir, "chart/templates/.#a.yaml")); err != nil {
		t.Fatal(err)
	}
	if now := walk(t.Context(), []string{filepath.Join(dir, "chart")}); !slices.Equal(now.files, before.files) {
		t.Errorf("it finds %v", now.files)
	}
	named := walk(t.Context(), []string{filepath.Join(dir, "chart/values.yaml~"), filepath.Join(dir, "chart/.git")})
	if len(named.files) != 2 || !named.files[0].exists {
		t.Errorf("of those that are asked for it finds %v", named.files)
	}
}

// A link in a chart may lead to all of the machine's files.
func TestLinkToTooMuch(t *testing.T) {
	many, chart := t.TempDir(), t.TempDir()
	const folders = 200
	for i := range folders {
		folder := filepath.Join(many, strconv.Itoa(i))
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		one := filepath.Join(folder, "one")
		if err := os.WriteFile(one, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for j := range maxWalked / folders {
			if err := os.Link(one, filepath.Join(folder, strconv.Itoa(j))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Symlink(many, filepath.Join(chart, "templates")); err != nil {
		t.Fatal(err)
	}
	linked := walk(t.Context(), []string{chart})
	if linked.err == nil || !strings.HasPrefix(linked.err.Error(), chart) || event.Hint(linked.err) == "" {
		t.Errorf("%v", linked.err)
	}
	if direct := walk(t.Context(), []string{many}); !slices.Equal(linked.watch, []string{chart}) || direct.watch != nil {
		t.Error("what can be watched is the chart without what its link leads to")
	}
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(event.ErrSuperseded)
	if got := walk(ended, []string{chart}); !errors.Is(got.err, event.ErrSuperseded) {
		t.Errorf("after its run was superseded: %v", got.err)
	}
}

// clumsy is a world in which one call panics, once.
type clumsy struct {
	*world
	at   string
	done atomic.Bool
}

func (c *clumsy) step(at string) {
	if at == c.at && c.done.CompareAndSwap(false, true) {
		panic("clumsy " + at)
	}
}

type clumsyImages struct{ *clumsy }

func (c clumsyImages) Hash(ctx context.Context) (*Target, []watch.Path, error) {
	c.step("Hash")
	return c.world.Hash(ctx)
}
func (c clumsyImages) Build(ctx context.Context, s event.Sink, image *Image) (loaded bool, err error) {
	c.step("Build")
	return c.world.Build(ctx, s, image)
}

type clumsyNodes struct{ *clumsy }

func (c clumsyNodes) Missing(ctx context.Context, images []*Image) ([]*Image, error) {
	c.step("Missing")
	return c.world.Missing(ctx, images)
}
func (c clumsyNodes) Load(ctx context.Context, s event.Sink, image *Image) error {
	c.step("Load")
	return c.world.Load(ctx, s, image)
}
func (c clumsyNodes) Report(context.Context, event.Sink, *Target) { c.step("Report") }
func (c clumsyNodes) Prune(context.Context, event.Sink, *Target)  { c.step("Prune") }

type clumsyPlatform struct{ *clumsy }

func (c clumsyPlatform) Files() []string { c.step("Files"); return c.world.Files() }
func (c clumsyPlatform) Validate(ctx context.Context, s event.Sink, target *Target) error {
	c.step("Validate")
	return c.world.Validate(ctx, s, target)
}
func (c clumsyPlatform) Verify(context.Context, event.Sink, *Image) error {
	c.step("Verify")
	return nil
}
func (c clumsyPlatform) Apply(
	ctx context.Context, s event.Sink, target *Target, begin func(context.Context) error,
) error {
	c.step("Apply")
	return c.world.Apply(ctx, s, target, begin)
}
func (c clumsyPlatform) Wait(context.Context, event.Sink) error { c.step("Wait"); return nil }

type clumsyLocal struct{ *clumsy }

func (c clumsyLocal) Sync(*Target) { c.step("Sync") }

type clumsyForwards struct{ *clumsy }

func (c clumsyForwards) Check(context.Context, event.Sink) error { c.step("Forwards"); return nil }

type clumsyProof struct{ *clumsy }

func (c clumsyProof) Check(context.Context, event.Sink, *Target) error {
	c.step("Proof")
	return nil
}
func (c clumsyProof) Follow(*Target) { c.step("Follow") }

func (c *clumsy) Watch(paths []watch.Path) (bool, error) {
	c.step("Watch")
	return c.world.Watch(paths)
}

func (c *clumsy) load(context.Context) (Stages, error) {
	c.step("load")
	return Stages{Files: []string{"devloop.yaml"}, Images: clumsyImages{c}, Nodes: clumsyNodes{c},
		Local: clumsyLocal{c}, Platform: clumsyPlatform{c}, Forwards: clumsyForwards{c}, Proof: clumsyProof{c}}, nil
}

// A panic anywhere below a run fails that run, is reported once, and the next save is deployed.
func TestPanicFailsTheRun(t *testing.T) {
	for _, at := range []string{"load", "Hash", "Files", "Watch", "Missing", "Sync", "Validate", "Build",
		"Load", "Report", "Verify", "Apply", "Wait", "Forwards", "Proof", "Prune", "Follow", "sink"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &clumsy{world: &world{node: map[string]bool{}}, at: at}
				changes, reported := make(chan Change), make(chan event.Event, 1000)
				sink := func(e event.Event) {
					if e.Message == event.InputsHashed {
						c.step("sink")
					}
					reported <- e
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					New(c.load, c, undiffed{}, changes, sink).Run(ctx)
				}()
				pass(2 * burstGap)
				c.disk.Store(1)
				changes <- Change{Batch: watch.Batch{Paths: []string{"/project/requirements.txt"}}}
				pass(2 * burstGap)
				cancel()
				<-done
				if c.deployed != "worker:1ns" {
					t.Errorf("deployed %q", c.deployed)
				}
				close(reported)
				var shown []string
				for e := range reported {
					if e.Level() == event.Error {
						shown = append(shown, fmt.Sprint(e.Message, " ", e.Err, " → ", event.Hint(e.Err)))
					}
				}
				if len(shown) != 1 || !strings.Contains(shown[0], "clumsy "+at) || !strings.Contains(shown[0], "please report") {
					t.Errorf("reported %q", shown)
				}
			})
		})
	}
}

// The look at a change is no part of a run: after a panic there the change counts.
func TestPanicInTheLookAtAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clumsy{world: &world{node: map[string]bool{}}}
		changes := make(chan Change)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			New(c.load, c, undiffed{}, changes, func(event.Event) {}).Run(ctx)
		}()
		pass(2 * burstGap)
		c.disk.Store(1)
		c.at = "Hash"
		changes <- Change{Batch: watch.Batch{Paths: []string{"/project/requirements.txt"}}}
		pass(2 * burstGap)
		cancel()
		<-done
		if c.deployed != "worker:1ns" || !c.done.Load() {
			t.Errorf("deployed %q, panicked %v", c.deployed, c.done.Load())
		}
	})
}
