package watch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/devloop/devloop/pkg/event"
)

// isolated runs the calling test again, in namespaces of its own: there limits can be set and file
// systems mounted without effects on the machine, also by users who are not root. It returns true
// in there.
func isolated(t *testing.T) bool {
	t.Helper()
	return again(t, 0, syscall.CLONE_NEWUSER|syscall.CLONE_NEWNS)
}

// unprivileged does the same for a test that must not be root, also where root runs it: its files
// are its own, and their permissions hold for it.
func unprivileged(t *testing.T) bool { t.Helper(); return again(t, 65534, syscall.CLONE_NEWUSER) }

// again runs the calling test in new namespaces, in which its user has this id.
func again(t *testing.T, id int, namespaces uintptr) bool {
	t.Helper()
	const here = "DEVLOOP_TEST_ISOLATED"
	if os.Getenv(here) == t.Name() {
		return true
	}
	t.Parallel() // it waits only
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), here+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  namespaces,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: id, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: id, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if os.Getuid() != 0 && (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC)) {
		t.Skip("this system does not let its users make namespaces:", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func (p *project) mount(from, to, kind string, flags uintptr) {
	p.t.Helper()
	if err := syscall.Mount(from, p.path(to), kind, flags, ""); err != nil {
		p.t.Fatalf("mount %s%s over %s: %v", kind, from, to, err)
	}
	p.t.Cleanup(func() { _ = syscall.Unmount(p.path(to), syscall.MNT_DETACH) }) // or the folder could not be removed
}

func (p *project) bind(from, to string) { p.t.Helper(); p.mount(p.path(from), to, "", syscall.MS_BIND) }

// unmount asks again while a look of the watcher has a folder of the mount open, which takes a
// moment.
func (p *project) unmount(name string) {
	p.t.Helper()
	deadline := time.Now().Add(time.Minute)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := syscall.Unmount(p.path(name), 0)
		if err == nil {
			return
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			p.t.Fatalf("unmount %s: %v", name, err)
		}
		<-again.C
	}
}

func limit(t *testing.T, what string, n int) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/user/max_inotify_"+what, []byte(fmt.Sprint(n)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTooManyFolders(t *testing.T) {
	if !isolated(t) {
		return
	}
	limit(t, "watches", 4)
	p := open(t, Options{Quiet: 30 * time.Millisecond}, nil)
	var files []string
	for i := range 10 {
		files = append(files, fmt.Sprintf("ctx/%d/f", i))
	}
	p.write(files...)
	p.watch("ctx")
	if folders, polled := p.byEvents(); folders != 1 || !slices.Equal(polled, []string{"ctx"}) {
		t.Errorf("%d folders by events, polled %q", folders, polled)
	}
	p.warnedOnce("max_user_watches")
	change := func() {
		t.Helper()
		for _, f := range files {
			p.seen(f)
		}
	}
	change()
	p.write("ctx/new/g")
	p.next("ctx/new")

	limit(t, "watches", 1000)
	p.until("all by events again", func() bool { _, polled := p.byEvents(); return len(polled) == 0 })
	change()
	p.seen("ctx/new/g")

	// In mode Events, the error about the limit is the caller's to report.
	limit(t, "watches", 4)
	strict := open(t, Options{Mode: Events}, nil)
	strict.write("a/f", "b/f", "c/f", "d/f", "e/f")
	_, err := strict.w.Watch(paths(strict.dir, "a", "b", "c", "d", "e"))
	if !errors.Is(err, syscall.ENOSPC) || event.Hint(err) == "" {
		t.Errorf("Watch = %v", err)
	}
}

// Where not all folders have room, the one path that needs the most is polled. The others keep
// their events, also those that come after it.
func TestSmallPathsKeepTheirEvents(t *testing.T) {
	if !isolated(t) {
		return
	}
	limit(t, "watches", 8)
	p := open(t, Options{Quiet: 30 * time.Millisecond}, nil)
	p.write("a/f", "z/f")
	for i := range 10 {
		p.write(fmt.Sprintf("ctx/%d/f", i))
	}
	p.watch("a", "a/f", "ctx", "z", "z/f")
	if folders, polled := p.byEvents(); folders < 2 || !slices.Equal(polled, []string{"ctx"}) {
		t.Errorf("%d folders by events, polled %q", folders, polled)
	}
	p.warnedOnce("max_user_watches")
	p.expect("before it", func() { p.write("a/f") }, "a/f")
	p.expect("after it", func() { p.write("z/f") }, "z/f")
	p.seen("ctx/3/f")
}

// What the kernel watches and what is polled changes all the while.
func TestStormAtTheLimit(t *testing.T) {
	if !isolated(t) {
		return
	}
	limit(t, "watches", 5)
	p := open(t, Options{Quiet: 30 * time.Millisecond}, nil)
	files := p.storm()
	p.warnedOnce("max_user_watches")
	for range 2 {
		for _, f := range files {
			// What the storm left may still report a folder instead, so the file is saved until it
			// is reported itself.
			p.until(f, func() bool {
				p.write(f)
				select {
				case settled := <-p.w.Batches():
					batch := settled.Paths
					return slices.Contains(batch, p.path(f))
				case <-time.After(DefaultQuiet):
					return false
				}
			})
		}
		limit(t, "watches", 9)
	}
}

func TestTooManyInstances(t *testing.T) {
	if !isolated(t) {
		return
	}
	limit(t, "instances", 0)
	_, err := New(nil, Options{Mode: Events})
	if !errors.Is(err, syscall.EMFILE) || !strings.Contains(event.Hint(err), "max_user_instances") {
		t.Errorf("New = %v", err)
	}
	p := open(t, Options{Quiet: 30 * time.Millisecond}, nil)
	p.warnedOnce("max_user_instances")
	p.write("ctx/a/f")
	p.watch("ctx")
	p.seen("ctx/a/f")

	limit(t, "instances", 10)
	p.until("by events again", func() bool { _, polled := p.byEvents(); return len(polled) == 0 })
	p.seen("ctx/a/f")
}

func TestPollNeedsNoInstance(t *testing.T) {
	if !isolated(t) {
		return
	}
	limit(t, "instances", 0)
	p := open(t, Options{Mode: Poll}, nil)
	p.write("ctx/f")
	p.watch("ctx")
	p.expect("a save", func() { p.write("ctx/f") }, "ctx/f")
}

func TestOpaqueFileSystem(t *testing.T) {
	if !isolated(t) {
		return
	}
	p := open(t, Options{Quiet: 30 * time.Millisecond}, func(w *Watcher) {
		w.opaque = func(folder string) string {
			if strings.Contains(folder, "/shared") {
				return "test"
			}
			return ""
		}
	})
	p.must(os.MkdirAll(p.path("shared"), 0o755))
	p.mount("", "shared", "tmpfs", 0)
	p.write("shared/a/f", "shared/b/f", "local/a/f")
	p.watch("shared", "local")
	events := p.events(event.Noted)
	want := []any{"folder", event.Name(p.path("shared")), "filesystem", "test"}
	if len(events) != 1 || !slices.Equal(events[0].Fields, want) {
		t.Errorf("reported %v", events)
	}
	if _, polled := p.byEvents(); !slices.Equal(polled, []string{"shared"}) {
		t.Errorf("polled %q", polled)
	}
	for _, f := range []string{"shared/a/f", "local/a/f", "shared/b/f"} {
		p.seen(f)
	}
	p.write("shared/c/d/f")
	p.next("shared/c")
	p.seen("shared/c/d/f")
	if events := p.events(event.Noted); len(events) > 0 {
		t.Errorf("reported %v", events)
	}
}

func TestOpaque(t *testing.T) {
	for _, local := range []string{t.TempDir(), "/proc", "/dev/shm", "/missing"} {
		if kind := opaque(local); kind != "" {
			t.Errorf("%s is taken for %s", local, kind)
		}
	}
}

// A mount makes no event, and what it hides goes on to exist.
func TestMount(t *testing.T) {
	if !isolated(t) {
		return
	}
	eachMode(t, func(p *project) {
		p.write("v1/a b/f", "v2/a b/f", "ctx/a b/f", "new.txt", "req.txt", "other/f")
		p.watch("ctx", "req.txt")
		for range 2 {
			p.bind("v1", "ctx")
			p.next("ctx")
			p.seenAs("v1/a b/f", "ctx/a b/f")
			p.bind("v2", "ctx")
			p.next("ctx")
			p.seenAs("v2/a b/f", "ctx/a b/f")
			p.changed("what seenAs has written again", func() {})
			p.expect("what is hidden", func() { p.write("v1/a b/f") })
			p.unmount("ctx")
			p.next("ctx")
			p.unmount("ctx")
			p.next("ctx")
			p.seen("ctx/a b/f")
		}
		p.bind("v1/a b", "ctx/a b")
		p.next("ctx/a b")
		p.seenAs("v1/a b/f", "ctx/a b/f")
		p.bind("new.txt", "req.txt")
		p.next("req.txt")
		p.expect("elsewhere", func() { p.bind("v1", "other") })
	})
}

// A file system that is mounted and goes takes its watches with it.
func TestFileSystemGoes(t *testing.T) {
	if !isolated(t) {
		return
	}
	eachMode(t, func(p *project) {
		p.write("ctx/f")
		p.watch("ctx/f")
		for range 2 {
			p.mount("", "ctx", "tmpfs", 0)
			p.next("ctx/f")
			p.seen("ctx/f")
			p.unmount("ctx")
			p.next("ctx/f")
			p.seen("ctx/f")
		}
	})
}

// The kernel knows a folder by one name only, wherever it is mounted.
func TestFolderMountedTwice(t *testing.T) {
	if !isolated(t) {
		return
	}
	eachMode(t, func(p *project) {
		p.write("ctx/a/f", "ctx/b/f")
		p.bind("ctx/a", "ctx/b")
		p.watch("ctx")
		if p.w.mode == Auto {
			p.until("they are polled", func() bool { _, polled := p.byEvents(); return slices.Equal(polled, []string{"ctx"}) })
		}
		for range 2 {
			p.seenAs("ctx/a/f", "ctx/a/f", "ctx/b/f")
		}
	})
}

func TestChangedMounts(t *testing.T) {
	before := []byte("36 35 98:0 / /a\\040b rw - ext3 /dev/root rw\n37 35 0:5 / /proc rw - proc proc rw\n")
	after := []byte("37 35 0:5 / /proc rw - proc proc rw\n38 35 98:0 /x /back\\134slash rw - ext3 /dev/root rw\n")
	if got := changedMounts(before, after); !slices.Equal(got, []string{"/a b", `/back\slash`}) {
		t.Errorf("%q", got)
	}
	if table := mountTable(); !bytes.Contains(table, []byte(" / ")) {
		t.Errorf("no root in the table: %q", table)
	}
}

// A folder that may be entered but not listed gives no events, and yet its files can be watched.
func TestUnlistedFolder(t *testing.T) {
	if !unprivileged(t) {
		return
	}
	eachMode(t, func(p *project) {
		p.write("closed/req.txt")
		p.must(os.Chmod(p.path("closed"), 0o311))
		p.t.Cleanup(func() { _ = os.Chmod(p.path("closed"), 0o755) }) // or it could not be removed
		if _, err := os.ReadDir(p.path("closed")); !errors.Is(err, fs.ErrPermission) {
			p.t.Fatalf("the folder can be listed: %v", err)
		}
		p.watch("closed/req.txt")
		for range 2 {
			p.write("closed/req.txt")
			p.next("closed/req.txt")
		}
	})
}

// What a poll cannot see has not changed.
func TestPollOfAnUnreadableFolder(t *testing.T) {
	if !unprivileged(t) {
		return
	}
	p := open(t, Options{Mode: Poll, Quiet: 30 * time.Millisecond}, nil)
	p.write("ctx/a/f", "ctx/a/b/f")
	p.watch("ctx")
	p.t.Cleanup(func() { _ = os.Chmod(p.path("ctx/a"), 0o755) }) // or it could not be removed
	p.expect("unreadable", func() { p.must(os.Chmod(p.path("ctx/a"), 0)) }, "ctx/a")
	p.expect("readable", func() { p.must(os.Chmod(p.path("ctx/a"), 0o755)) }, "ctx/a")
	p.expect("a save in it", func() { p.write("ctx/a/f") }, "ctx/a/f")
}

const manyFolders, manyFiles = 200, 100

// watchMany watches that many files, and returns the set of them.
func watchMany(t testing.TB, mode Mode) (*project, []Path) {
	t.Helper()
	p := open(t, Options{Mode: mode}, func(w *Watcher) { w.rest, w.tick = minRest, missedEvery })
	for i := range manyFolders {
		folder := p.path(fmt.Sprintf("ctx/%d", i))
		p.must(os.MkdirAll(folder, 0o755))
		for j := range manyFiles {
			p.must(os.WriteFile(filepath.Join(folder, fmt.Sprintf("module_%d.py", j)), nil, 0o644))
		}
	}
	set := []Path{p.exclude("ctx", "ctx", "**/node_modules", "**/*.pyc", "!**/keep")}
	p.set(set)
	return p, set
}

// What is watched takes little memory, and an unchanged set no second look at its files.
func TestCost(t *testing.T) {
	for _, mode := range []Mode{Auto, Poll} {
		t.Run(string(mode), func(t *testing.T) {
			before := heap()
			p, set := watchMany(t, mode)
			memory := heap() - before
			t.Logf("%d files: %d KiB", manyFolders*manyFiles, memory/1024)
			if memory > 20<<20 {
				t.Errorf("%d bytes", memory)
			}
			targets := p.w.targets
			p.set(set)
			if &p.w.targets[0] != &targets[0] { // what a look at the files begins with
				t.Error("an unchanged set is planned again")
			}
		})
	}
}

// What watching costs a second while nothing happens.
func BenchmarkRest(b *testing.B) {
	for _, mode := range []Mode{Auto, Poll} {
		b.Run(string(mode), func(b *testing.B) {
			watchMany(b, mode)
			begin, used := time.Now(), cpu()
			for b.Loop() {
				<-time.After(time.Second)
			}
			b.ReportMetric(float64((cpu()-used).Milliseconds())/time.Since(begin).Seconds(), "cpu-ms/s")
		})
	}
}

// The unchanged set of a project that names all its files one by one.
func BenchmarkWatchUnchanged(b *testing.B) {
	w, err := New(nil, Options{Mode: Poll})
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	var set []Path
	for i := range 20_000 {
		set = append(set, Path{filepath.Join(dir, fmt.Sprint(i)), dir, []string{".git", "**/node_modules"}})
	}
	for b.Loop() {
		if _, err := w.Watch(set); err != nil {
			b.Fatal(err)
		}
	}
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// cpu returns what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A tree of folders goes, as node_modules does: its folders one by one, the deepest first.
func BenchmarkFoldersGo(b *testing.B) {
	for _, count := range []int{1000, 2000, 4000} {
		b.Run(fmt.Sprintf("%d folders", count), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				for i := range count {
					if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755); err != nil {
						b.Fatal(err)
					}
				}
				w, err := New(nil, Options{Mode: Events})
				if err == nil {
					_, err = w.Watch([]Path{{Name: dir}})
				}
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				for i := range count {
					name := filepath.Join(dir, fmt.Sprint(i))
					if err := os.Remove(name); err != nil {
						b.Fatal(err)
					}
					w.changed(fsnotify.Event{Name: name, Op: fsnotify.Remove})
				}
				b.StopTimer()
				if len(w.folders) != 2 || len(w.below) == 0 {
					b.Fatalf("left: %v", w.folders)
				}
				w.close()
				b.StartTimer()
			}
		})
	}
}
