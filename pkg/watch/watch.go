// Package watch turns what happens to files into settled batches of changed paths.
//
// It watches folders, never files: editors save by writing beside a file and renaming, and a watch
// on the file would follow the old one. plan.go works out which folders a path needs; kernel.go has
// the kernel watch them; events.go decides what an event means; settle.go waits for the end of a
// burst.
//
// Where the kernel's events cannot be relied on (file systems that others change behind the
// kernel's back, folders beyond the kernel's limits, see limits.go), poll.go stats everything again
// and again. missed.go finds what no event reports: a mount, a sleep, a watch that ended.
//
// Its rules:
//   - A folder is walked only after its watch is in place, so nothing can appear unseen in between.
//   - A change is reported only after the watches that it makes necessary are in place.
//   - Nothing is lost while no one receives: batches wait and merge. When events were lost, every
//     path has changed.
package watch

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// Path is what to watch: a file, or a folder with everything below it except what Exclude names,
// and files that exist only while a program has another one open (files.IsEphemeral). Several Paths
// may have the same Name; a change counts if it does for one of them.
type Path struct {
	Name    string   // absolute
	Base    string   // folder, absolute, that the patterns are relative to; unused if there are none
	Exclude []string // in the syntax of .dockerignore, as ignorefile.ReadAll returns it; Name itself is never left out
}

// Root returns the Path of a file, of a folder without what belongs to editors and other tools, or
// of what a glob (see files.SplitGlob) leads to.
func Root(name string) Path {
	folder, glob := files.SplitGlob(name)
	exclude := files.ToolFiles()
	if glob != "" {
		exclude = append([]string{"**", "!" + glob}, exclude...)
	}
	return Path{Name: folder, Base: folder, Exclude: exclude}
}

// Filter returns a function that tells whether a path below p.Name does not count. A folder counts
// if something in it may.
func (p Path) Filter() func(path string, folder bool) bool {
	f := newFilter(p.Base, p.Exclude)
	return func(path string, folder bool) bool {
		return f.excludes(path) && !(folder && f.includesBelow(path))
	}
}

// Mode is how changes are noticed.
type Mode string

const (
	Auto   Mode = "auto"   // by the kernel's events; by polling where there are none
	Events Mode = "events" // by events only: what cannot be watched is an error
	Poll   Mode = "poll"   // by polling only
)

// Options are set once; zero values mean Auto, DefaultQuiet and DefaultLimit.
type Options struct {
	Mode         Mode
	Quiet, Limit time.Duration
}

// Watcher watches one set of paths. It belongs to Run: a Watcher that is made has to be run, if
// only to end.
type Watcher struct {
	stage    event.Stage
	mode     Mode
	batches  chan Batch
	debounce debounce
	rest     time.Duration              // the least time between two polls
	tick     time.Duration              // how often missed changes are looked for
	opaque   func(folder string) string // the name of a file system that gives no reliable events, or ""
	limits   limits
	checked  checked // Run's own

	mu       sync.Mutex        // Watch is called by the loop while Run takes events
	kernel   *fsnotify.Watcher // nil while there is none
	targets  []*target         // sorted by path
	full     bool              // the kernel had no room for some
	failed   bool              // some could not be watched: the next Watch tries again
	plan     plan              // of the targets that are not polled
	folders  map[string]int    // that the kernel watches, by their real names → what each takes of the limit
	below    map[string]int    // folder → how many of folders are below it, at any depth
	taken    int               // by all folders
	missed   []string          // paths whose changes may have gone unseen
	kinds    map[uint64]string // device → what opaque returned
	reported event.Changes
}

// target is a watched path.
type target struct {
	Path
	filter  *filter
	poll    bool     // the kernel cannot watch a folder that it needs
	watched bool     // not only since this Watch
	seen    snapshot // by the last poll; nil if it is not polled
}

// New returns a Watcher that watches nothing yet. Its errors carry a hint.
func New(sink event.Sink, o Options) (*Watcher, error) {
	w := &Watcher{
		stage: sink.Stage("watch"), mode: cmp.Or(o.Mode, Auto), batches: make(chan Batch),
		rest: minRest, tick: missedEvery, opaque: opaque, limits: kernelLimits(), checked: checked{time.Now(), mountTable()},
		folders: map[string]int{}, below: map[string]int{}, kinds: map[uint64]string{},
	}
	w.Settle(o.Quiet, o.Limit)
	switch w.mode {
	case Poll:
		return w, nil
	case Auto, Events:
	default:
		return nil, fmt.Errorf("watch files: unknown mode %q: auto, events and poll are known", w.mode)
	}
	kernel, err := fsnotify.NewWatcher()
	switch {
	case err == nil:
		w.kernel = kernel
	case w.mode == Auto && scarce(err):
		w.warn("instances", "the kernel has no file events left for devloop; polling the files until it has",
			err, w.limits.instances)
	default:
		return nil, event.WithHint(fmt.Errorf("watch files: %w", err), w.limits.instances)
	}
	return w, nil
}

// isGone tells whether an error says that there is nothing at a path.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// warn warns the user once.
func (w *Watcher) warn(key, message string, err error, hint string) {
	if w.reported.Changed(key, true) {
		w.stage.Warn(message, event.WithHint(err, hint))
	}
}

// Settle sets how long nothing may change until a batch is complete, and how long changes that do
// not end may delay one. Zero means the default. It applies from the next change on, and may be
// called from any goroutine.
func (w *Watcher) Settle(quiet, limit time.Duration) { w.debounce.set(quiet, limit) }

// Batches delivers changed paths: those given to Watch, and paths below watched folders. Each batch
// is sorted, without duplicates, and belongs to the receiver.
func (w *Watcher) Batches() <-chan Batch { return w.batches }

// Watch replaces the set of watched paths, which need not exist, and tells whether it was another
// one. Those that stay in the set are watched without a gap; changes of new ones before Watch
// returned may go unseen. It may be called from any goroutine, and costs little if the set is the
// same. After an error everything that can be watched is.
func (w *Watcher) Watch(paths []Path) (changed bool, err error) {
	paths = slices.Clone(paths)
	for i := range paths {
		abs, err := filepath.Abs(paths[i].Name)
		if err != nil {
			return false, fmt.Errorf("watch %s: %w", paths[i].Name, err)
		}
		paths[i].Name = abs
		if len(paths[i].Exclude) == 0 {
			paths[i].Base = "" // unused
		}
	}
	slices.SortFunc(paths, comparePaths)
	paths = slices.CompactFunc(paths, equalPaths)

	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.EqualFunc(w.targets, paths, func(t *target, p Path) bool { return equalPaths(t.Path, p) }) && !w.failed {
		return false, nil
	}
	old := w.targets
	w.targets = make([]*target, len(paths))
	shared := &target{} // an image's paths share their patterns
	for i, p := range paths {
		for len(old) > 0 && comparePaths(old[0].Path, p) < 0 {
			old[0].seen = nil // no longer polled
			old = old[1:]
		}
		if len(old) > 0 && equalPaths(old[0].Path, p) {
			w.targets[i], old = old[0], old[1:]
			continue
		}
		if p.Base != shared.Base || !slices.Equal(p.Exclude, shared.Exclude) {
			shared = &target{Path: Path{Base: p.Base, Exclude: slices.Clone(p.Exclude)}, filter: newFilter(p.Base, p.Exclude)}
		}
		p.Exclude = shared.Exclude
		w.targets[i] = &target{Path: p, filter: shared.filter}
	}
	for _, t := range old {
		t.seen = nil
	}
	return true, w.sync()
}

func comparePaths(a, b Path) int {
	if c := cmp.Compare(a.Name, b.Name); c != 0 {
		return c // fast path
	}
	return cmp.Or(cmp.Compare(a.Base, b.Base), slices.Compare(a.Exclude, b.Exclude))
}

func equalPaths(a, b Path) bool {
	return a.Name == b.Name && a.Base == b.Base && slices.Equal(a.Exclude, b.Exclude)
}
