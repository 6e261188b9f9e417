// Package watch turns what happens to files into settled batches of changed paths.
//
// The kernel watches folders, never files: editors save by writing beside a file and renaming, and a watch on the file
// would go with the old one. What has to be watched for a path to be noticed is worked out in plan.go, by looking at the
// file system; what one kernel event means is decided in events.go; settle.go waits until a burst is over.
//
// Its rules:
//   - A folder is looked at only after its kernel watch is in place, so nothing can appear unseen in between.
//   - A change is told only after the watches that it makes necessary are in place.
//   - Nothing is lost while nobody listens: batches wait and merge. When the kernel lost events, every path has changed.
package watch

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/devloop/devloop/pkg/event"
	"github.com/fsnotify/fsnotify"
)

// Watcher watches one set of paths. It belongs to Run: a Watcher that is made has to be run, if only to end.
type Watcher struct {
	say     event.Stage
	kernel  *fsnotify.Watcher
	batches chan []string

	mu      sync.Mutex      // Watch is called by the loop while Run takes events
	paths   []string        // what is watched: absolute, sorted
	failed  bool            // some of it could not be: the next Watch tries again
	plan    plan            // what paths came to when they were last looked at
	folders map[string]bool // those that have a kernel watch, by their real names
}

// New returns a Watcher that watches nothing yet.
func New(sink event.Sink) (*Watcher, error) {
	kernel, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("watch files: %w", err),
			"too many programs watch files on this machine; on Linux raise the limit: sudo sysctl fs.inotify.max_user_instances=1024")
	}
	return &Watcher{say: sink.For("watch"), kernel: kernel, batches: make(chan []string), folders: map[string]bool{}}, nil
}

// Batches delivers changed paths: those given to Watch, and for watched folders also what is below them. Each batch is
// sorted, without duplicates, and belongs to the receiver.
func (w *Watcher) Batches() <-chan []string { return w.batches }

// Watch replaces the set of watched paths: files, and folders with all that is below them. Paths need not exist. What
// stays in the set is watched without a gap; what happened to a new path before Watch returned may go unseen. It may be
// called from any goroutine. After an error everything that can be watched is.
func (w *Watcher) Watch(paths []string) error {
	set := make([]string, 0, len(paths))
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return fmt.Errorf("watch %s: %w", p, err)
		}
		set = append(set, abs)
	}
	slices.Sort(set)
	set = slices.Compact(set)

	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Equal(set, w.paths) && !w.failed {
		return nil
	}
	w.paths = set
	return w.sync()
}

// Run takes events until ctx ends, and then returns nil; every goroutine of the Watcher has ended by then.
func (w *Watcher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer func() { _ = w.kernel.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	changes := make(chan []string)
	running.Go(func() { settle(ctx, changes, w.batches) })

	// Errors need a reader of their own: fsnotify holds its lock while it sends some of them, and the lock is needed to
	// add a watch, which is done below.
	overflow := make(chan struct{}, 1)
	running.Go(func() { w.readErrors(overflow) })

	for {
		var changed []string
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.kernel.Events:
			if !ok {
				return errors.New("watch files: the kernel's events ended")
			}
			changed = w.changed(e)
		case <-overflow:
			changed = w.everything()
		}
		if len(changed) == 0 {
			continue
		}
		select {
		case changes <- changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *Watcher) readErrors(overflow chan<- struct{}) {
	for err := range w.kernel.Errors {
		if !errors.Is(err, fsnotify.ErrEventOverflow) {
			w.say.Warn("watching files failed", err)
			continue
		}
		select {
		case overflow <- struct{}{}:
		default: // one is waiting already
		}
	}
}

// rounds bounds how often a part of the file system is looked at that changes all the while. Each round follows what
// appeared during the one before; what happens after the last is told by events.
const rounds = 10

// sync makes the kernel's watches those that the paths need. The caller holds mu.
func (w *Watcher) sync() (failed error) {
	for range rounds {
		w.plan = newPlan(w.paths)
		grew, err := w.add(w.plan.folders)
		if failed = err; !grew {
			break
		}
	}
	for folder := range w.folders {
		if !w.plan.folders[folder] {
			w.drop(folder)
		}
	}
	w.failed = failed != nil
	return failed
}

// add watches folders; grew says that some were not watched before. The caller holds mu.
func (w *Watcher) add(folders map[string]bool) (grew bool, failed error) {
	for folder := range folders {
		if w.folders[folder] {
			continue
		}
		switch err := w.kernel.Add(folder); {
		case err == nil:
			w.folders[folder] = true
			grew = true
		case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
			grew = true // it has changed since it was looked at: look again
		case failed == nil:
			failed = fmt.Errorf("watch folder %s: %w", folder, err)
			if errors.Is(err, syscall.ENOSPC) {
				failed = event.WithHint(failed,
					"the kernel's limit of watched folders is reached; raise it: sudo sysctl fs.inotify.max_user_watches=1048576")
			}
		}
	}
	return grew, failed
}

// drop ends the watch of a folder. That it may have ended by itself, with the folder, is why no error counts.
func (w *Watcher) drop(folder string) {
	_ = w.kernel.Remove(folder)
	delete(w.folders, folder)
}
