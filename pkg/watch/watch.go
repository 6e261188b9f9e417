// Package watch turns what happens to files into settled batches of changed paths.
//
// Folders are watched, never files: editors save by writing beside a file and renaming, and a watch on the file would go
// with the old one. What has to be watched for a path to be noticed is worked out in plan.go, by looking at the file
// system; except.go knows what of it does not count. What one event means is decided in events.go; settle.go waits until a
// burst is over.
//
// Events are the kernel's where it can be relied on. Where it cannot, poll.go makes them by looking again and again: on
// file systems that others change behind the kernel's back, and for folders beyond the kernel's limits. What no event
// tells (a mount, a sleep, a watch that ended) is found by doubts.go. To the rest all of this is one.
//
// Its rules:
//   - A folder is looked at only after its watch is in place, so nothing can appear unseen in between.
//   - A change is told only after the watches that it makes necessary are in place.
//   - Nothing is lost while nobody listens: batches wait and merge. When events were lost, every path has changed.
package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/fsnotify/fsnotify"
)

// Path is what to watch: a file, or a folder with all that is below it but for what Except leaves out. The same Name may
// stand in several Paths; then what counts for one of them counts.
type Path struct {
	Name   string   // absolute
	Base   string   // folder, absolute, that Except's patterns are relative to; unused if there are none
	Except []string // in the syntax of .dockerignore, as ignorefile.ReadAll returns it; Name itself is never left out
}

// Mode is how changes are noticed.
type Mode string

const (
	Auto   Mode = "auto"   // by the kernel's events; by polling where these are not to be had
	Events Mode = "events" // by events only: what cannot be watched is an error
	Poll   Mode = "poll"   // by polling only
)

// Options are set once; zero values mean Auto, DefaultQuiet and DefaultLimit.
type Options struct {
	Mode         Mode
	Quiet, Limit time.Duration
}

// Watcher watches one set of paths. It belongs to Run: a Watcher that is made has to be run, if only to end.
type Watcher struct {
	say     event.Stage
	mode    Mode
	batches chan Batch
	pause   pause
	rest    time.Duration              // what polling rests at least between two looks
	asks    time.Duration              // how often it is asked whether events tell the truth
	opaque  func(folder string) string // the name of a file system that gives no reliable events, or ""
	trust   trust                      // Run's own
	polls   chan struct{}              // a folder is polled, since a moment ago

	mu      sync.Mutex        // Watch is called by the loop while Run takes events
	kernel  *fsnotify.Watcher // nil while there is none
	paths   []Path            // what is watched, sorted
	targets []root            // the same, with patterns parsed
	failed  bool              // some of it could not be: the next Watch tries again
	plan    plan              // what paths came to when they were last looked at
	folders map[string]*sight // those that are watched, by their real names; nil: by the kernel
	kinds   map[uint64]string // device → what opaque said of it
	said    map[string]bool   // what the user has been told, and need not be told again
}

// New returns a Watcher that watches nothing yet.
func New(sink event.Sink, o Options) (*Watcher, error) {
	w := &Watcher{
		say: sink.For("watch"), mode: cmp.Or(o.Mode, Auto), batches: make(chan Batch), polls: make(chan struct{}, 1), rest: leastRest, asks: doubtEvery, opaque: opaque,
		trust:   trust{time.Now(), mountTable()},
		folders: map[string]*sight{}, kinds: map[uint64]string{}, said: map[string]bool{},
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
		w.warn("instances", "the kernel has no file events left for devloop; polling the files until it has", err, instancesHint)
	default:
		return nil, event.WithHint(fmt.Errorf("watch files: %w", err), instancesHint)
	}
	return w, nil
}

// What raises the limits.
const (
	instancesHint = "too many programs watch files on this machine; on Linux raise the limit: sudo sysctl fs.inotify.max_user_instances=1024"
	foldersHint   = "the kernel's limit of watched folders is reached; raise it: sudo sysctl fs.inotify.max_user_watches=1048576"
)

// scarce tells whether an error is about one of the kernel's limits, so that trying again later may help.
func scarce(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// isGone tells whether an error says that there is nothing at a name.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) }

// warn tells the user something once.
func (w *Watcher) warn(key, message string, err error, hint string) {
	if !w.said[key] {
		w.said[key] = true
		w.say.Warn(message, event.WithHint(err, hint))
	}
}

// Settle changes how long nothing may change until a batch is complete, and how long one may be held back by changes that
// do not end. Zero means the default. It holds from the next change on, and may be called from any goroutine.
func (w *Watcher) Settle(quiet, limit time.Duration) { w.pause.set(quiet, limit) }

// Batches delivers changed paths: those given to Watch, and for watched folders also what is below them. Each batch is
// sorted, without duplicates, and belongs to the receiver.
func (w *Watcher) Batches() <-chan Batch { return w.batches }

// Watch replaces the set of watched paths. They need not exist. What stays in the set is watched without a gap; what
// happened to a new path before Watch returned may go unseen. It may be called from any goroutine, and costs little when
// nothing changed. After an error everything that can be watched is.
func (w *Watcher) Watch(paths []Path) error {
	paths = slices.Clone(paths)
	for i := range paths {
		abs, err := filepath.Abs(paths[i].Name)
		if err != nil {
			return fmt.Errorf("watch %s: %w", paths[i].Name, err)
		}
		paths[i].Name = abs
		if len(paths[i].Except) == 0 {
			paths[i].Base = "" // unused
		}
	}
	slices.SortFunc(paths, comparePaths)
	paths = slices.CompactFunc(paths, equalPaths)

	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.EqualFunc(paths, w.paths, equalPaths) && !w.failed {
		return nil
	}
	w.paths, w.targets = paths, make([]root, len(paths))
	type list struct {
		except []string
		filter *filter
	}
	lists := map[string]list{} // an image's paths have one between them
	for i, p := range paths {
		key := strings.Join(append([]string{p.Base}, p.Except...), "\x00")
		l, known := lists[key]
		if !known {
			l.except = slices.Clone(p.Except) // ours to keep
			l.filter = newFilter(p.Base, l.except)
			lists[key] = l
		}
		paths[i].Except = l.except
		w.targets[i] = root{p.Name, l.filter}
	}
	return w.sync()
}

func comparePaths(a, b Path) int {
	if c := cmp.Compare(a.Name, b.Name); c != 0 {
		return c // nearly always
	}
	return cmp.Or(cmp.Compare(a.Base, b.Base), slices.Compare(a.Except, b.Except))
}

func equalPaths(a, b Path) bool {
	return a.Name == b.Name && a.Base == b.Base && slices.Equal(a.Except, b.Except)
}

// Run takes events until ctx ends, and then returns nil; every goroutine of the Watcher has ended by then.
func (w *Watcher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer w.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	changes := make(chan []string)
	overflow := make(chan struct{}, 1)
	// What a part knew is lost with a panic: then every path counts as changed.
	keep := func(what string, part func(context.Context)) {
		again := false
		running.Go(func() {
			w.say.Keep(ctx, what, func(ctx context.Context) {
				if again {
					lose(overflow)
				}
				again = true
				part(ctx)
			})
		})
	}
	keep("settling", func(ctx context.Context) { settle(ctx, changes, w.batches, &w.pause) })
	tell := func(paths []string) {
		if len(paths) == 0 {
			return
		}
		select {
		case changes <- paths:
		case <-ctx.Done():
		}
	}
	lost := false // a look has panicked: all begins anew, but not at once, since the same may come of it
	look := func(see func() []string) {
		var paths []string
		if w.say.Contain("events", func() { paths = see() }) != nil {
			lost = true
		}
		tell(paths)
	}
	if w.mode != Events {
		keep("polling", func(ctx context.Context) { w.poll(ctx, tell) })
	}

	var events <-chan fsnotify.Event
	listen := func() {
		if w.kernel == nil {
			return
		}
		// Errors need a reader of their own: fsnotify holds its lock while it sends some of them, and the lock is needed
		// to add a watch, which is done below.
		failures := w.kernel.Errors
		keep("errors", func(context.Context) { w.readErrors(failures, overflow) })
		events = w.kernel.Events
	}
	listen()

	ticker := time.NewTicker(w.asks)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return errors.New("watch files: the kernel's events ended")
			}
			look(func() []string { return w.changed(e) })
		case <-overflow:
			look(func() []string { return w.everything("the kernel lost file events; taking every file as changed") })
		case <-ticker.C:
			if events == nil && w.reconnect() {
				listen()
			}
			if lost {
				lost = false
				look(func() []string { return w.everything("looking at every file anew") })
			}
			look(w.doubt)
			look(w.revive)
			look(w.handBack)
		}
	}
}

func (w *Watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kernel != nil {
		_ = w.kernel.Close()
	}
}

func (w *Watcher) readErrors(failures <-chan error, overflow chan<- struct{}) {
	for err := range failures {
		if !errors.Is(err, fsnotify.ErrEventOverflow) {
			w.say.Warn("watching files failed", err)
			continue
		}
		lose(overflow)
	}
}

// lose says that events were lost.
func lose(overflow chan<- struct{}) {
	select {
	case overflow <- struct{}{}:
	default: // that was said
	}
}

// rounds bounds how often a part of the file system is looked at that changes all the while. Each round follows what
// appeared during the one before; what happens after the last is told by events.
const rounds = 10

// sync makes the watches those that the paths need. The caller holds mu.
func (w *Watcher) sync() (failed error) {
	for range rounds {
		w.plan = newPlan(w.targets)
		grew, err := w.add(w.plan.folders)
		if failed = err; !grew {
			break
		}
	}
	for folder := range w.folders {
		if _, needed := w.plan.folders[folder]; !needed {
			w.drop(folder)
		}
	}
	w.failed = failed != nil
	return failed
}

// add watches folders; grew says that some were not watched before. The caller holds mu.
func (w *Watcher) add(folders map[string][]string) (grew bool, failed error) {
	for _, folder := range slices.Sorted(maps.Keys(folders)) { // in order, so that the uppermost is the one that messages name
		names := folders[folder]
		if seen, watched := w.folders[folder]; watched {
			if seen != nil {
				seen.extend(folder, names)
			}
			continue
		}
		switch err := w.begin(folder, names); {
		case err == nil:
			grew = true
		case isGone(err):
			grew = true // it has changed since it was looked at: look again
		case failed == nil:
			failed = fmt.Errorf("watch folder %s: %w", folder, err)
			if scarce(err) {
				failed = event.WithHint(failed, foldersHint)
			}
		}
	}
	return grew, failed
}

// begin watches one folder, by events if that is possible. The caller holds mu.
func (w *Watcher) begin(folder string, names []string) error {
	if w.mode == Events {
		err := w.kernel.Add(folder)
		if err == nil {
			w.folders[folder] = nil
		}
		return err
	}
	wanting := w.kernel == nil && w.mode == Auto
	if w.kernel != nil && !w.isOpaque(folder) {
		err := w.kernel.Add(folder)
		switch {
		case err == nil:
			w.folders[folder] = nil
			return nil
		case scarce(err):
			wanting = true
			w.warn("folders", "too many folders for the kernel's file events; polling the rest until there is room", err, foldersHint)
		case errors.Is(err, fs.ErrPermission): // a folder that may be entered but not listed: polling can look at names that it knows
		default:
			return err
		}
	}
	seen, err := look(folder, names)
	if err == nil {
		seen.wanting = wanting
		w.polled(folder, seen)
	}
	return err
}

// isOpaque tells whether a folder is on a file system without reliable events. The caller holds mu.
func (w *Watcher) isOpaque(folder string) bool {
	device, known := deviceOf(folder)
	if !known {
		return false
	}
	kind, known := w.kinds[device]
	if !known {
		kind = w.opaque(folder)
		w.kinds[device] = kind
	}
	if key := fmt.Sprint("device ", device, kind); kind != "" && !w.said[key] {
		w.said[key] = true
		w.say.Note("this file system gives no reliable file events; polling it", "folder", event.Name(folder),
			"filesystem", kind)
	}
	return kind != ""
}

// drop ends the watch of a folder. That it may have ended by itself, with the folder, is why no error counts.
func (w *Watcher) drop(folder string) {
	if seen := w.folders[folder]; seen == nil && w.kernel != nil {
		_ = w.kernel.Remove(folder)
	}
	delete(w.folders, folder)
}
