package watch

// Noticing changes without the kernel, by looking again and again.

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// leastRest is what lies at least between two looks: with the quiet time a save is noticed in about half a second on
	// average, which still feels prompt.
	leastRest = 500 * time.Millisecond

	// mostRest bounds the wait on slow file systems: after ten seconds people save once more, thinking that it was missed.
	mostRest = 10 * time.Second

	// restFactor times what a look took is rested after it, so that polling takes about 1 % of a core.
	restFactor = 100

	// coarse is the longest step in which file systems keep time (FAT, and what is shared from it). Two writes within a
	// step look alike, so where steps are whole seconds a save is told once more when the step is over.
	coarse = 2 * time.Second
)

// sight is what was last seen of a folder that is polled.
type sight struct {
	self    stat
	entries map[string]stat // by name; zero where a name that counts does not exist
	all     bool            // of the folder, not only of names that count
	wanting bool            // the kernel should watch it, and had no room
}

// stat is what tells one version of a file from another one without reading it.
type stat struct {
	mode               fs.FileMode
	device, inode      uint64
	size, mtime, ctime int64 // zero for folders: there they move with every entry, and entries are told by themselves
	young              bool  // a later write may leave all of the above as it is
}

// isSame tells whether two stats are of one thing: not replaced, not gone, not mounted over.
func (s stat) isSame(other stat) bool {
	return s.mode.Type() == other.mode.Type() && s.device == other.device && s.inode == other.inode
}

func statOf(info fs.FileInfo) stat {
	s := stat{mode: info.Mode()}
	s.device, s.inode, s.ctime = system(info)
	if info.IsDir() {
		s.ctime = 0
		return s
	}
	s.size, s.mtime = info.Size(), info.ModTime().UnixNano()
	s.young = s.mtime%int64(time.Second) == 0 && time.Since(info.ModTime()) < coarse
	return s
}

func deviceOf(name string) (device uint64, known bool) {
	info, err := os.Lstat(name)
	if err != nil {
		return 0, false
	}
	device, _, _ = system(info)
	return device, true
}

// look sees a folder's names, or all that is in it if there are none. An error means that nothing is known, not that
// nothing is there.
func look(folder string, names []string) (*sight, error) {
	info, err := os.Lstat(folder)
	if err != nil {
		return nil, err
	}
	s := &sight{self: statOf(info), entries: map[string]stat{}, all: names == nil}
	if !s.all {
		for _, name := range names {
			info, err := os.Lstat(filepath.Join(folder, name))
			switch {
			case err == nil:
				s.entries[name] = statOf(info)
			case isGone(err):
				s.entries[name] = stat{}
			default:
				return nil, err
			}
		}
		return s, nil
	}
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrPermission) { // a folder that may not be listed counts as an empty one
		return nil, err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		switch {
		case err == nil:
			s.entries[entry.Name()] = statOf(info)
		case isGone(err), errors.Is(err, fs.ErrPermission):
		default:
			return nil, err
		}
	}
	return s, nil
}

// extend looks at what has begun to count: from now on its changes are told.
func (s *sight) extend(folder string, names []string) {
	if s.all || !slices.ContainsFunc(names, s.isNew) && names != nil {
		return
	}
	fresh, err := look(folder, names)
	if err != nil {
		return // the next look will tell what is there as new
	}
	for name, now := range fresh.entries {
		if s.isNew(name) {
			s.entries[name] = now
		}
	}
	s.all = fresh.all
}

func (s *sight) isNew(name string) bool {
	_, known := s.entries[name]
	return !known
}

// since returns the events that lie between two sights of a folder.
func (s *sight) since(folder string, before *sight) []fsnotify.Event {
	if !s.self.isSame(before.self) {
		return []fsnotify.Event{{Name: folder, Op: fsnotify.Create}} // another folder: all in it begins anew
	}
	var events []fsnotify.Event
	tell := func(name string, op fsnotify.Op) {
		events = append(events, fsnotify.Event{Name: filepath.Join(folder, name), Op: op})
	}
	for name, now := range s.entries {
		switch was := before.entries[name]; {
		case now == was:
		case now == stat{}:
			tell(name, fsnotify.Remove)
		case !now.isSame(was):
			tell(name, fsnotify.Create)
		default:
			tell(name, fsnotify.Write)
		}
	}
	for name, was := range before.entries {
		if _, there := s.entries[name]; !there && was != (stat{}) {
			tell(name, fsnotify.Remove)
		}
	}
	return events
}

// news returns the events that lie between two sights of a folder. A folder in it is news, too, if it should be watched and
// is not: it was gone while the plan was made, and came back with the same inode. The caller holds mu.
func (w *Watcher) news(folder string, now, before *sight) []fsnotify.Event {
	events := now.since(folder, before)
	for name, s := range now.entries {
		if !s.mode.IsDir() {
			continue
		}
		name = filepath.Join(folder, name)
		_, watched := w.folders[name]
		all := watched && w.plan.folders[name] == nil
		if !all && w.plan.wants(name) || !watched && len(w.plan.names[name]) > 0 {
			events = append(events, fsnotify.Event{Name: name, Op: fsnotify.Create})
		}
	}
	return events
}

// poll tells the changes of all folders that the kernel does not watch, until ctx ends.
func (w *Watcher) poll(ctx context.Context, tell func([]string)) {
	rest := time.NewTimer(w.rest)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.polls:
			rest.Reset(w.rest)
			continue
		case <-rest.C:
		}
		var took time.Duration
		for _, folder := range w.allPolled() {
			start := time.Now()
			events := w.lookAgain(folder)
			took += time.Since(start)
			for _, e := range events {
				tell(w.changed(e))
			}
			if ctx.Err() != nil {
				return
			}
		}
		next := min(max(restFactor*took, w.rest), mostRest)
		if took == 0 { // nothing is polled, until w.polls tells
			next = mostRest
		}
		rest.Reset(next)
	}
}

// polled has a folder polled from now on. The caller holds mu.
func (w *Watcher) polled(folder string, seen *sight) {
	w.folders[folder] = seen
	select {
	case w.polls <- struct{}{}:
	default: // that was told
	}
}

// allPolled returns the folders that are polled, each after the one that holds it: if that one is gone, one event tells it.
func (w *Watcher) allPolled() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var folders []string
	for folder, seen := range w.folders {
		if seen != nil {
			folders = append(folders, folder)
		}
	}
	slices.Sort(folders)
	return folders
}

// lookAgain returns what happened in a polled folder. It does not hold mu while it looks: a network may be slow.
func (w *Watcher) lookAgain(folder string) []fsnotify.Event {
	w.mu.Lock()
	before, names := w.folders[folder], w.plan.folders[folder]
	w.mu.Unlock()
	if before == nil {
		return nil // no longer polled
	}
	now, err := look(folder, names)
	if err != nil && !isGone(err) {
		return nil // a file server that is down changes nothing
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.folders[folder] != before: // begun anew meanwhile
		return nil
	case err != nil:
		return []fsnotify.Event{{Name: folder, Op: fsnotify.Remove}}
	case now.all != before.all: // what counts has changed meanwhile
		return nil
	}
	events := w.news(folder, now, before)
	before.self, before.entries = now.self, now.entries
	return events
}

// reconnect asks the kernel again for the events that it refused to New.
func (w *Watcher) reconnect() bool {
	if w.mode != Auto {
		return false
	}
	kernel, err := fsnotify.NewWatcher()
	if err != nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kernel = kernel
	return true
}

// handBack gives folders back to the kernel as soon as it has room, and returns what changed in them meanwhile.
func (w *Watcher) handBack() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kernel == nil {
		return nil
	}
	var paths []string
	given := 0
	for folder, seen := range w.folders {
		if seen == nil || !seen.wanting {
			continue
		}
		if w.isOpaque(folder) {
			seen.wanting = false
			continue
		}
		err := w.kernel.Add(folder)
		if scarce(err) {
			break
		}
		if err != nil {
			continue // gone; the next look tells so
		}
		w.folders[folder] = nil
		given++
		now, err := look(folder, w.plan.folders[folder])
		if err != nil {
			paths = append(paths, w.change(fsnotify.Event{Name: folder, Op: fsnotify.Remove})...)
			continue
		}
		for _, e := range w.news(folder, now, seen) {
			paths = append(paths, w.change(e)...)
		}
	}
	if given > 0 {
		w.say.Detail("the kernel has room for file events again", "folders", given)
	}
	return paths
}
