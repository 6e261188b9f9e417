package watch

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"

	"github.com/devloop/devloop/pkg/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// project is a folder that is watched. Paths of its methods are relative to it.
type project struct {
	t   testing.TB
	w   *Watcher
	dir string

	mu   sync.Mutex
	sent []event.Event
}

// open runs a Watcher for the test's life; the folder is empty and nothing is watched yet. Prepare,
// if not nil, sees the Watcher before it runs.
func open(t testing.TB, o Options, prepare func(*Watcher)) *project {
	t.Helper()
	p := &project{t: t, dir: t.TempDir()}
	w, err := New(func(e event.Event) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sent = append(p.sent, e)
	}, o)
	if err != nil {
		t.Fatal(err)
	}
	p.w = w
	w.rest, w.tick = 2*time.Millisecond, 20*time.Millisecond // tests are in a hurry
	if o.Mode == Poll {
		w.tick = time.Hour // polls see mounts by themselves; a second report could be taken for the next change
	}
	if prepare != nil {
		prepare(w)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
		for _, e := range p.events(event.Warned) {
			t.Errorf("%s: %v %v", e.Message, e.Err, e.Fields)
		}
	})
	return p
}

// eachMode runs a test by events and by polling.
func eachMode(t *testing.T, test func(*project)) {
	for _, mode := range []Mode{Auto, Poll} {
		t.Run(string(mode), func(t *testing.T) {
			test(open(t, Options{Mode: mode, Quiet: 30 * time.Millisecond}, nil))
		})
	}
}

// events returns those of this phase, and forgets them.
func (p *project) events(phase event.Phase) (of []event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = slices.DeleteFunc(p.sent, func(e event.Event) bool {
		if e.Phase == phase {
			of = append(of, e)
		}
		return e.Phase == phase
	})
	return of
}

func (p *project) path(name string) string { return filepath.Join(p.dir, name) }

func (p *project) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) write(names ...string) {
	p.t.Helper()
	for _, name := range names {
		p.must(os.MkdirAll(filepath.Dir(p.path(name)), 0o755))
		p.must(os.WriteFile(p.path(name), []byte(name), 0o644))
	}
}

func (p *project) rename(from, to string) { p.t.Helper(); p.must(os.Rename(p.path(from), p.path(to))) }
func (p *project) remove(name string)     { p.t.Helper(); p.must(os.RemoveAll(p.path(name))) }
func (p *project) link(target, name string) {
	p.t.Helper()
	p.must(os.Symlink(target, p.path(name)))
}

// bell is a file whose change marks the end of what expect looks at: the kernel keeps the order of
// events. A look at all that is polled takes its time, so what was done before the bell rang is
// surely seen when it rings for the third time.
const bell = "bell"

func (p *project) watch(names ...string) {
	p.t.Helper()
	p.watchPaths(paths(p.dir, names...)...)
}

// watchPaths watches these paths and the bell.
func (p *project) watchPaths(paths ...Path) {
	p.t.Helper()
	p.set(append(paths, Path{Name: p.path(bell)}))
}

func (p *project) set(paths []Path) {
	p.t.Helper()
	_, err := p.w.Watch(paths)
	p.must(err)
}

// paths are plain ones in a folder.
func paths(dir string, names ...string) (paths []Path) {
	for _, name := range names {
		paths = append(paths, Path{Name: filepath.Join(dir, name)})
	}
	return paths
}

// expect does something and fails unless exactly these paths are reported as changed. A poll may
// see only the end of it: a folder that is gone includes what was in it.
func (p *project) expect(what string, do func(), want ...string) {
	p.t.Helper()
	got := p.changed(what, do)
	slices.Sort(want)
	if p.w.mode == Poll {
		maps.DeleteFunc(got, func(name string, _ bool) bool { // it may have looked in the middle of it
			return !slices.Contains(want, name) &&
				slices.ContainsFunc(want, func(folder string) bool { return got[folder] && holds(folder, name) })
		})
		want = slices.DeleteFunc(want, func(name string) bool {
			return !got[name] &&
				slices.ContainsFunc(slices.Collect(maps.Keys(got)), func(other string) bool { return holds(other, name) })
		})
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		p.t.Errorf("%s: got %q, want %q", what, names, want)
	}
}

// changed does something and returns the paths that are reported as changed.
func (p *project) changed(what string, do func()) map[string]bool {
	p.t.Helper()
	do()
	got := map[string]bool{}
	deadline := time.After(time.Minute)
	rings := 1
	if p.w.mode == Poll {
		rings = 3
	}
	for range rings {
		delete(got, bell)
		p.write(bell)
		for !got[bell] {
			select {
			case settled := <-p.w.Batches():
				batch := settled.Paths
				if !slices.IsSorted(batch) {
					p.t.Errorf("%s: not sorted: %q", what, batch)
				}
				for _, path := range batch {
					got[strings.TrimPrefix(path, p.dir+"/")] = true
				}
			case <-deadline:
				p.t.Fatalf("%s: the bell did not ring; until then %v", what, got)
			}
		}
	}
	delete(got, bell)
	return got
}

func TestWaysToSave(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("req.txt", "other.txt")
		p.watch("req.txt")
		for range 2 { // the second time shows that the watch outlived the first
			p.expect("write in place", func() { p.write("req.txt") }, "req.txt")
			p.expect("vim", func() {
				p.write(".req.txt.swp", "4913")
				p.remove("4913")
				p.rename("req.txt", "req.txt~")
				p.write("req.txt")
				p.remove("req.txt~")
			}, "req.txt")
			p.expect("Emacs", func() {
				p.link("user@host.42:1700000000", ".#req.txt")
				p.write("#req.txt#")
				p.rename("req.txt", "req.txt~")
				p.write("req.txt")
				p.remove(".#req.txt")
				p.remove("#req.txt#")
				p.remove("req.txt~")
			}, "req.txt")
			p.expect("cp -p of an older file", func() {
				p.write("req.txt")
				old := time.Now().Add(-time.Hour)
				p.must(os.Chtimes(p.path("req.txt"), old, old))
			}, "req.txt")
			p.expect("temporary file and rename (VS Code, sed -i)", func() {
				p.write("sedXYZ")
				p.rename("sedXYZ", "req.txt")
			}, "req.txt")
			p.expect("delete", func() { p.remove("req.txt") }, "req.txt")
			p.expect("create", func() { p.write("req.txt") }, "req.txt")
			p.expect("another file", func() { p.write("other.txt", "new/other.txt") })
			p.remove("new")
		}
	})
}

func TestChmod(t *testing.T) {
	p := open(t, Options{}, nil)
	p.write("req.txt", "ctx/run.sh", "ctx/new.sh")
	p.watch("req.txt", "ctx")
	p.expect("touch", func() {
		now := time.Now()
		p.must(os.Chtimes(p.path("req.txt"), now, now))
		p.must(os.Chmod(p.path("req.txt"), 0o644))
		p.must(os.Chtimes(p.path("ctx"), now, now))
	})
	p.expect("chmod +x", func() { p.must(os.Chmod(p.path("ctx/run.sh"), 0o755)) }, "ctx/run.sh")
	p.expect("the same again", func() { p.must(os.Chmod(p.path("ctx/run.sh"), 0o755)) })
}

func TestPathsThatComeLater(t *testing.T) {
	eachMode(t, func(p *project) {
		p.watch("a/b/c.txt", "folder/deep")
		var onTheWay []string // an event on the way to a path counts; a poll sees that nothing is there still
		if p.w.mode == Auto {
			onTheWay = []string{"a/b/c.txt", "folder/deep"}
		}
		p.expect("beside", func() { p.write("a/x.txt", "a/b/x.txt", "folder/x") }, onTheWay...)
		p.expect("beside, the way being there", func() { p.write("a/y.txt", "a/b/y.txt", "folder/y") })
		p.expect("the file", func() { p.write("a/b/c.txt") }, "a/b/c.txt")
		p.expect("the folder", func() { p.must(os.Mkdir(p.path("folder/deep"), 0o755)) }, "folder/deep")
		p.expect("in the folder", func() { p.write("folder/deep/f") }, "folder/deep/f")
	})
}

func TestFolder(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("ctx/a/f", "ctx/b/f")
		p.watch("ctx")
		p.expect("deep", func() { p.write("ctx/a/f") }, "ctx/a/f")
		p.expect("a tree appears", func() { p.write("new/d/e/f"); p.rename("new", "ctx/c") }, "ctx/c")
		p.expect("deep in it", func() { p.write("ctx/c/d/e/f") }, "ctx/c/d/e/f")
		p.expect("a tree moves away", func() { p.rename("ctx/c", "gone") }, "ctx/c")
		p.expect("where it is now", func() { p.write("gone/d/e/f") })
		p.expect("a tree moves within", func() { p.rename("ctx/a", "ctx/z") }, "ctx/a", "ctx/z")
		p.expect("under its new name", func() { p.write("ctx/z/f") }, "ctx/z/f")
		p.expect("a tree goes", func() { p.remove("ctx/b") }, "ctx/b", "ctx/b/f")

		p.expect("all of it replaced", func() { p.write("new/n/f"); p.rename("ctx", "old"); p.rename("new", "ctx") }, "ctx")
		p.expect("in the old one", func() { p.write("old/z/f") })
		p.expect("in the new one", func() { p.write("ctx/n/f") }, "ctx/n/f")
		p.expect("removed", func() { p.remove("ctx") }, "ctx", "ctx/n", "ctx/n/f")
		p.expect("made again", func() { p.must(os.Mkdir(p.path("ctx"), 0o755)) }, "ctx")
		p.expect("in it", func() { p.write("ctx/g") }, "ctx/g")
		// Step by step, what is reported depends on timing; what is watched in the end does not.
		p.changed("another tree", func() { p.must(os.MkdirAll(p.path("ctx/x/y/z"), 0o755)) })
		p.expect("deep in that", func() { p.write("ctx/x/y/z/f") }, "ctx/x/y/z/f")
	})
}

func TestFolderOnTheWay(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("deploy/gateway/values.yaml", "other/gateway/values.yaml")
		p.watch("deploy/gateway/values.yaml")
		p.expect("moved away", func() { p.rename("deploy", "old") }, "deploy/gateway/values.yaml")
		p.expect("where it is now", func() { p.write("old/gateway/values.yaml") })
		p.expect("another takes its place", func() { p.rename("other", "deploy") }, "deploy/gateway/values.yaml")
		p.expect("saved there", func() { p.write("deploy/gateway/values.yaml") }, "deploy/gateway/values.yaml")
	})
}

func TestProjectFolderIsReplaced(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("proj/f")
		p.set(paths(p.dir, "proj/f"))
		p.rename("proj", "gone")
		p.next("proj/f")
		p.write("proj/f")
		p.next("proj/f")
		p.remove("proj/f")
		p.next("proj/f")
	})
}

// next waits for the path to be reported.
func (p *project) next(want string) {
	p.t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case settled := <-p.w.Batches():
			batch := settled.Paths
			if slices.Contains(batch, p.path(want)) {
				return
			}
		case <-deadline:
			p.t.Fatalf("%s was not reported as changed", want)
		}
	}
}

// A user's settings beside the project are watched, and not all that happens in the home folder.
func TestHomeFolder(t *testing.T) {
	p := open(t, Options{Quiet: 30 * time.Millisecond}, nil)
	t.Setenv("HOME", p.path("home"))
	p.write("home/work/project/f", "home/.docker/config.json")
	p.watch("home/work/project/f", "home/.docker/config.json", "home/.config/helm/repositories.yaml")
	p.expect("both", func() { p.write("home/work/project/f", "home/.docker/config.json") },
		"home/work/project/f", "home/.docker/config.json")
	p.expect("a folder that is replaced", func() {
		p.rename("home/work/project", "home/work/old")
		p.write("home/work/project/f")
	}, "home/work/project/f")
	p.changed("settings appear", func() { p.write("home/.config/helm/repositories.yaml") })
	p.expect("settings", func() { p.write("home/.config/helm/repositories.yaml") }, "home/.config/helm/repositories.yaml")
	if got := p.below("home"); slices.Contains(got, "home") || !slices.Contains(got, "home/.docker") {
		t.Errorf("watched folders: %q", got)
	}
}

func TestLinks(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("shared/v1/req.txt", "shared/v2/req.txt", "proj/own.txt")
		p.link("../shared/v1/req.txt", "proj/req.txt")
		p.link(p.path("shared/v1"), "proj/ctx")
		p.watch("proj/req.txt", "proj/ctx", "proj/own.txt")
		p.expect("the target", func() { p.write("shared/v1/req.txt") }, "proj/req.txt", "proj/ctx/req.txt")
		p.expect("beside the target", func() { p.write("shared/v2/req.txt") })
		p.expect("the link", func() {
			p.link("../shared/v2/req.txt", "proj/tmp")
			p.rename("proj/tmp", "proj/req.txt")
		}, "proj/req.txt")
		p.expect("the old target", func() { p.write("shared/v1/req.txt") }, "proj/ctx/req.txt")
		p.expect("the new target", func() { p.write("shared/v2/req.txt") }, "proj/req.txt")
		p.expect("a target that is gone", func() { p.remove("shared/v2/req.txt") }, "proj/req.txt")
		p.expect("and is back", func() { p.write("shared/v2/req.txt") }, "proj/req.txt")
		p.expect("a file instead of the link", func() { p.remove("proj/req.txt"); p.write("proj/req.txt") }, "proj/req.txt")
		p.expect("the former target", func() { p.write("shared/v2/req.txt") })
		p.expect("a link to itself", func() { p.remove("proj/own.txt"); p.link("own.txt", "proj/own.txt") }, "proj/own.txt")
	})
}

// Kubernetes, Nix and release folders publish by swapping a link in the middle of the way.
func TestLinkInTheMiddle(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("v1/conf", "v2/conf")
		p.link("v1", "current")
		p.link("current/conf", "conf")
		p.watch("conf")
		p.expect("swap", func() { p.link("v2", "tmp"); p.rename("tmp", "current") }, "conf")
		p.expect("old", func() { p.write("v1/conf") })
		p.expect("new", func() { p.write("v2/conf") }, "conf")
	})
}

func TestProjectBehindALink(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("real/ctx/f", "real/req.txt")
		p.link("real", "proj")
		p.dir = p.path("proj")
		p.watch("req.txt", "ctx")
		p.expect("by the watched name", func() { p.write("req.txt", "ctx/f", "ctx/g") }, "req.txt", "ctx/f", "ctx/g")
	})
}

func TestWatchReplacesTheSet(t *testing.T) {
	p := open(t, Options{}, nil)
	p.write("a/f", "b/f", "c/f")
	p.watch("a/f", "b/f")
	p.watch("b/f", "c")
	p.expect("a is out, b stayed, c is in", func() { p.write("a/f", "b/f", "c/f") }, "b/f", "c/f")
	p.watch()
	p.expect("all out", func() { p.write("a/f", "b/f", "c/f") })
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if list := p.w.kernel.WatchList(); len(list) != 1 || len(p.w.folders) != 1 {
		t.Errorf("folders left: %q, %v", list, p.w.folders)
	}
}

func TestOverflow(t *testing.T) {
	p := open(t, Options{}, nil)
	p.write("ctx/f", "req.txt")
	p.watch("ctx", "req.txt", "missing")
	p.expect("every path", func() {
		p.w.kernel.Errors <- fsnotify.ErrEventOverflow
		p.next("missing") // the bell does not wait for errors
	})
	p.expect("it goes on", func() { p.write("ctx/f", "req.txt") }, "ctx/f", "req.txt")
}

func TestUnchangedSet(t *testing.T) {
	p := open(t, Options{}, nil)
	p.write("a/f", "b/f")
	set := func() []Path {
		return []Path{p.exclude("b", ".", "x", "y"), p.exclude("a", ".", "x"), {Name: p.path(bell)}, {Name: p.path(bell)}}
	}
	p.set(set())
	before := p.w.targets
	if changed, err := p.w.Watch(set()); err != nil || changed || &p.w.targets[0] != &before[0] {
		t.Error("planned again")
	}
	given := set()
	p.set(given)
	given[0].Exclude[0] = "f" // the caller's own
	if changed, err := p.w.Watch(given); err != nil || !changed || &p.w.targets[0] == &before[0] {
		t.Error("not planned again")
	}
}

func TestUnknownMode(t *testing.T) {
	if _, err := New(nil, Options{Mode: "inotify"}); err == nil {
		t.Error("no error")
	}
}

// A storm of everything at once, while the set changes: what exists in the end is watched, all of
// it.
func TestStorm(t *testing.T) {
	eachMode(t, func(p *project) {
		files := p.storm()
		p.changed("what the storm left", func() {})
		p.expect("every file", func() { p.write(files...) }, files...)
	})
}

// storm returns the files that it leaves.
func (p *project) storm() (files []string) {
	for i := range 3 {
		for j := range 3 {
			files = append(files, fmt.Sprintf("ctx/%d/%d/f", i, j))
		}
	}
	stormed := make(chan struct{})
	go func() {
		defer close(stormed)
		for round := range 21 { // the last one removes nothing
			for _, f := range files {
				if os.MkdirAll(filepath.Dir(p.path(f)), 0o755) != nil || os.WriteFile(p.path(f), nil, 0o644) != nil {
					p.t.Error("cannot write", f)
				}
			}
			switch round % 3 {
			case 0:
				_ = os.Rename(p.path("ctx/1"), p.path("ctx/moved"))
				_ = os.RemoveAll(p.path("ctx/moved"))
			case 1:
				_ = os.RemoveAll(p.path("ctx"))
			}
		}
	}()
	for {
		p.watch("ctx", "ctx/0/1/f", "x")
		p.watch("ctx", "ctx/0/1/f")
		select {
		case <-p.w.Batches():
		case <-stormed:
			return files
		}
	}
}

// A panic while an event is looked at is reported once, loses no change, and the watch goes on.
func TestPanicInALook(t *testing.T) {
	p := open(t, Options{Mode: Auto, Quiet: 30 * time.Millisecond}, nil)
	p.write("src/a")
	p.set(paths(p.dir, "src"))
	var panicked bool
	p.w.mu.Lock()
	clear(p.w.kinds)
	p.w.opaque = func(string) string {
		if !panicked {
			panicked = true
			panic("no such device")
		}
		return ""
	}
	p.w.mu.Unlock()
	p.write("src/new/b") // a folder that has to be watched, too
	p.next("src")        // everything has changed
	p.must(os.WriteFile(p.path("src/new/b"), []byte("again"), 0o644))
	p.next("src/new/b")
	reported := p.events(event.Failed)
	if len(reported) != 1 || reported[0].Level() != event.Error ||
		!strings.Contains(event.Hint(reported[0].Err), "please report") {
		t.Errorf("reported %+v", reported)
	}
}

// byEvents counts the folders that the kernel watches, and returns the paths that are polled.
func (p *project) byEvents() (folders int, polled []string) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	for _, t := range p.w.targets {
		if t.seen != nil {
			polled = append(polled, t.Name[len(p.dir)+1:])
		}
	}
	return len(p.w.folders), polled
}

// until polls for a condition.
func (p *project) until(what string, is func() bool) {
	p.t.Helper()
	deadline := time.After(time.Minute)
	for !is() {
		select {
		case <-p.w.Batches():
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			p.t.Fatal("timed out:", what)
		}
	}
}

// warnedOnce expects one warning whose advice has this in it.
func (p *project) warnedOnce(part string) {
	p.t.Helper()
	events := p.events(event.Warned)
	if len(events) != 1 {
		p.t.Fatalf("%d warnings: %v", len(events), events)
	}
	if text := event.Hint(events[0].Err); !strings.Contains(text, part) {
		p.t.Errorf("hint %q", text)
	}
}

// seen writes a file until that is reported.
func (p *project) seen(name string) { p.t.Helper(); p.seenAs(name, name) }

// seenAs writes a file, again and again, until all of wants were reported as changed. Once would
// not do: a mount may be reported twice, by the look of polling and by the table of mounts, and
// what was written in between is reported with it, by the name of the folder.
func (p *project) seenAs(name string, wants ...string) {
	p.t.Helper()
	reported := map[string]bool{}
	deadline := time.After(time.Minute)
	for {
		p.write(name)
		again := time.After(500 * time.Millisecond)
	listening:
		for {
			select {
			case settled := <-p.w.Batches():
				batch := settled.Paths
				for _, path := range batch {
					reported[path] = true
				}
				if !slices.ContainsFunc(wants, func(want string) bool { return !reported[p.path(want)] }) {
					return
				}
			case <-again:
				break listening
			case <-deadline:
				p.t.Fatalf("%s was written, and not all of %v were reported", name, wants)
			}
		}
	}
}
