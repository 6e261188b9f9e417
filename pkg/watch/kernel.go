package watch

// Which folders the kernel watches.

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/fsnotify/fsnotify"

	"github.com/devloop/devloop/pkg/event"
)

// rounds bounds how often a part of the file system is walked that changes all the while. Each
// round follows what appeared during the one before; events report what happens after the last.
const rounds = 10

// sync makes the watched folders those that the targets need. The caller holds mu.
func (w *Watcher) sync() (failed error) {
	for range rounds + len(w.targets) { // each refusal may take a round
		var byEvents []*target
		for _, t := range w.targets {
			if t.poll = t.poll || w.kernel == nil; !t.poll {
				byEvents = append(byEvents, t)
			}
		}
		w.plan = newPlan(byEvents, cachedLstat())
		for folder := range w.folders { // before others are added: there may be no room for both
			if _, needed := w.plan.folders[folder]; !needed {
				w.drop(folder)
			}
		}
		grew, refused, full, err := w.add(w.plan.folders)
		w.pollInstead(refused)
		if full {
			w.pollLargest()
		}
		if failed = err; !grew && len(refused) == 0 && !full {
			break
		}
	}
	for _, t := range w.targets {
		if polled := t.seen != nil; t.poll != polled {
			t.seen = nil
			if t.poll {
				t.seen = t.look(nil)
			}
			if t.watched { // changes may have gone unseen
				w.missed = append(w.missed, t.Name)
			}
		}
		t.watched = true
	}
	w.failed = failed != nil
	return failed
}

func (w *Watcher) syncOrWarn() {
	if err := w.sync(); err != nil {
		w.stage.Warn("some files cannot be watched", err)
	}
}

// add watches folders. Grew says that some were not watched before. Refused are those whose events
// cannot be had. Full says that the kernel has no room for more. The caller holds mu.
func (w *Watcher) add(folders map[string]bool) (grew bool, refused map[string]bool, full bool, failed error) {
	refused = map[string]bool{}
	costs, more := map[string]int{}, 0
	for folder := range folders {
		if w.folders[folder] == 0 {
			costs[folder] = w.cost(folder)
			more += costs[folder]
		}
	}
	if !w.hasRoom(more) {
		err := fmt.Errorf("%d files and folders: %w", w.taken+more, syscall.EMFILE)
		if w.mode == Auto {
			w.tooMany(err)
			return false, nil, true, nil
		}
		return false, nil, false, event.WithHint(fmt.Errorf("watch files: %w", err), w.limits.folders)
	}
	for _, folder := range slices.Sorted(maps.Keys(costs)) { // messages name the uppermost
		err := errUnreliable
		if w.mode == Events || !w.isOpaque(folder) && !w.isBlind(folder) {
			err = w.start(folder, costs[folder])
		}
		switch {
		case err == nil:
			grew = true
		case isGone(err):
			grew = true // it has changed since the walk: walk again
		case w.mode == Auto && scarce(err):
			w.tooMany(err)
			return grew, refused, true, failed
		case w.mode == Auto && (errors.Is(err, errUnreliable) || errors.Is(err, fs.ErrPermission)):
			refused[folder] = true // without permission to list it, names in it that are known can be polled
		case failed == nil:
			failed = fmt.Errorf("watch folder %s: %w", folder, err)
			if scarce(err) {
				failed = event.WithHint(failed, w.limits.folders)
			}
		}
	}
	return grew, refused, false, failed
}

func (w *Watcher) tooMany(err error) {
	w.full = true
	w.warn("folders", "too many folders for the kernel's file events; polling the rest until there is room",
		err, w.limits.folders)
}

// errUnreliable says that a folder's events cannot be relied on.
var errUnreliable = errors.New("the file system gives no reliable events")

// pollInstead has all targets polled that need one of these folders. The caller holds mu.
func (w *Watcher) pollInstead(refused map[string]bool) {
	for folder := range refused {
		for t, rest := range w.plan.holding(folder) {
			t.poll = t.poll || t.counts(rest, true)
		}
	}
	for name, targets := range w.plan.names {
		for _, t := range targets {
			t.poll = t.poll || refused[filepath.Dir(name)]
		}
	}
}

// pollLargest has the target polled that needs the most, so that the others can keep their events.
// The caller holds mu.
func (w *Watcher) pollLargest() {
	needs := map[*target]int{}
	costs := map[string]int{}
	for folder := range w.plan.folders {
		costs[folder] = w.cost(folder)
		for t, rest := range w.plan.holding(folder) {
			if !t.poll && t.counts(rest, true) {
				needs[t] += costs[folder]
			}
		}
	}
	for name, targets := range w.plan.names {
		folder := filepath.Dir(name)
		for _, t := range targets {
			if !t.poll && (w.folders[folder] == 0 || w.limits.descriptors > 0) { // it may have grown
				needs[t] += costs[folder]
			}
		}
	}
	var largest *target
	for _, t := range w.targets { // in one order
		if needs[t] > 0 && (largest == nil || needs[t] > needs[largest]) {
			largest = t
		}
	}
	if largest != nil {
		largest.poll = true
	}
}

// takeMissed returns the paths whose changes may have gone unseen since it was last called.
func (w *Watcher) takeMissed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	missed := w.missed
	w.missed = nil
	return missed
}

// isOpaque tells whether a folder is on a file system without reliable events. The caller holds mu.
func (w *Watcher) isOpaque(folder string) bool {
	info, err := os.Lstat(folder)
	if err != nil {
		return false
	}
	device, _, _ := system(info)
	kind, known := w.kinds[device]
	if !known {
		kind = w.opaque(folder)
		w.kinds[device] = kind
	}
	if kind != "" && w.reported.Changed(fmt.Sprint("device ", device), kind) {
		w.stage.Note("this file system gives no reliable file events; polling it", "folder", event.Name(folder),
			"filesystem", kind)
	}
	return kind != ""
}

// reconnect asks the kernel again for the events that it refused to New.
func (w *Watcher) reconnect() bool {
	kernel, err := fsnotify.NewWatcher()
	if err != nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kernel, w.full = kernel, true
	return true
}

// retry has the kernel watch what it had no room for, if it has now.
func (w *Watcher) retry() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.full {
		return nil
	}
	w.full = false
	for _, t := range w.targets {
		t.poll = false
	}
	w.syncOrWarn()
	if !w.full {
		w.stage.Detail("the kernel has room for file events again")
	}
	return nil
}
