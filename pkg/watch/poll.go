package watch

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// minRest is the least time between two polls. With the quiet time, a save is noticed in about
	// half a second on average, which still feels prompt.
	minRest = 500 * time.Millisecond

	// maxRest bounds the wait on slow file systems: after ten seconds people think that a save was
	// missed.
	maxRest = 10 * time.Second

	// restFactor is the rest after a poll, in units of what the poll took: polling takes about 1 %
	// of a core.
	restFactor = 100

	// coarse is the longest step in which file systems keep time (FAT, and what is shared from it).
	// Two writes within a step look alike, so where steps are whole seconds a save is reported once
	// more when the step is over.
	coarse = 2 * time.Second
)

// stat tells one version of a file from another one without reading it. It is zero where there is
// nothing.
type stat struct {
	mode               fs.FileMode
	device, inode      uint64
	size, mtime, ctime int64 // zero for folders, where they change with every entry
	young              bool  // a later write may leave all of the above as it is
}

// isSame tells whether two stats are of one file or folder: not replaced, not gone, not mounted
// over.
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

// snapshot is what a poll saw of a target and below it, by path. Links are followed on the way to
// the target, but not below it.
type snapshot map[string]stat

// look stats a target and all that counts below it. What cannot be looked at stays as it was
// before: a file server that is down changes nothing.
func (t *target) look(before snapshot) snapshot {
	now := make(snapshot, len(before))
	keep := func(top string, err error) {
		for name, s := range before {
			if _, seen := now[name]; !seen && !isGone(err) && holds(top, name) {
				now[name] = s
			}
		}
	}
	info, err := os.Stat(t.Name)
	if err != nil {
		keep(t.Name, err)
		return now
	}
	now[t.Name] = statOf(info)
	if !info.IsDir() {
		return now
	}
	top := t.Name + "/" // follows a link
	_ = filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil: // of listing a folder
			keep(filepath.Clean(name), err)
		case name == top:
		case t.counts(name[len(t.Name):], entry.IsDir()):
			if info, err := entry.Info(); err != nil {
				keep(name, err)
			} else {
				now[name] = statOf(info)
			}
		case entry.IsDir():
			return fs.SkipDir
		}
		return nil
	})
	return now
}

// since returns the paths that differ between two snapshots of a target. Of a folder that appeared,
// went or was replaced it returns only the folder.
func (now snapshot) since(before snapshot) (paths []string) {
	differs := map[string]bool{} // → whether it was replaced
	for name, s := range now {
		if was := before[name]; s != was {
			differs[name] = !s.isSame(was)
		}
	}
	for name := range before {
		if _, exists := now[name]; !exists {
			differs[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(differs)) {
		if differs[filepath.Dir(name)] {
			differs[name] = true // reported by its folder, and so is what is below it
		} else {
			paths = append(paths, name)
		}
	}
	return paths
}

// poll stats all targets that the kernel does not watch, again and again, and sends what differs,
// until ctx ends.
func (w *Watcher) poll(ctx context.Context, send func(context.Context, []string)) {
	rest := time.NewTimer(w.rest)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		}
		var took time.Duration
		for _, t := range w.polled() {
			start := time.Now()
			paths := w.lookAgain(t)
			took += time.Since(start)
			send(ctx, paths)
			if ctx.Err() != nil {
				return
			}
		}
		rest.Reset(min(max(restFactor*took, w.rest), maxRest))
	}
}

func (w *Watcher) polled() (targets []*target) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.targets {
		if t.seen != nil {
			targets = append(targets, t)
		}
	}
	return targets
}

// lookAgain returns what changed in a polled target. It does not hold mu while it looks: a network
// may be slow.
func (w *Watcher) lookAgain(t *target) []string {
	w.mu.Lock()
	before := t.seen
	w.mu.Unlock()
	now := t.look(before)
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.seen == nil { // no longer polled
		return nil
	}
	t.seen = now
	return now.since(before)
}
