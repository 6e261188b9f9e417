package watch

// What one event means.

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"

	"github.com/devloop/devloop/pkg/files"
)

// changed returns the watched paths that an event changed, after moving the watches to where they
// are needed now.
func (w *Watcher) changed(e fsnotify.Event) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := e.Name
	watched := w.folders[name] > 0
	switch {
	case e.Has(fsnotify.Create):
		w.grow(filepath.Dir(name), 1)
	case e.Has(fsnotify.Remove), e.Has(fsnotify.Rename):
		w.grow(filepath.Dir(name), -1)
	}
	if w.mode == Auto && !w.hasRoom(0) {
		w.syncOrWarn()
	}
	if folder := filepath.Dir(name); w.mode == Auto && w.limits.descriptors > 0 && w.folders[folder] > 0 &&
		e.Has(fsnotify.Create) && !files.IsEphemeral(filepath.Base(name)) && cannotOpen(name) {
		return w.rewatch(folder) // as one that isBlind
	}
	if paths := w.plan.touched(name, true); len(paths) == 0 && !watched {
		return nil // beside what is watched
	}
	before := w.plan.modes[name]
	var after fs.FileMode
	if info, err := os.Lstat(name); err == nil {
		after = info.Mode()
	}
	if e.Op == fsnotify.Chmod && before == after {
		// A touch, a backup, an indexer: neither content nor mode changed. A real chmod counts: a
		// script that became executable makes another image.
		return nil
	}
	if after == 0 {
		delete(w.plan.modes, name)
	} else {
		w.plan.modes[name] = after
	}
	folder := watched || (before | after).IsDir()
	paths := w.plan.touched(name, folder)
	if !e.Has(fsnotify.Create) && !e.Has(fsnotify.Remove) && !e.Has(fsnotify.Rename) {
		return paths
	}
	if !folder && (before|after)&fs.ModeSymlink == 0 {
		return paths // files come and go below the same watches
	}
	return append(paths, w.reshape(name)...)
}

// reshape moves the watches after a folder or link appeared, went, or was replaced. It returns the
// watched paths that depended on it, or do now. The caller holds mu.
func (w *Watcher) reshape(name string) []string {
	paths := w.plan.below(name)
	if w.folders[name] > 0 {
		w.dropBelow(name)
	}
	var err error
	if len(w.plan.names[name]) == 0 && len(w.plan.touched(name, true)) > 0 {
		err = w.addTree(name)
	} else {
		err = w.sync()
	}
	if err != nil {
		w.stage.Warn("some files cannot be watched", err)
	}
	return append(append(paths, w.plan.touched(name, w.plan.modes[name].IsDir())...), w.plan.below(name)...)
}

// dropBelow ends all watches from a folder on: they belong to inodes, and follow a folder that is
// moved, under its old name. The caller holds mu.
func (w *Watcher) dropBelow(top string) {
	if w.below[top] == 0 { // as for each folder of a tree that is removed
		if w.folders[top] > 0 {
			w.drop(top)
		}
		return
	}
	for folder := range w.folders {
		if holds(top, folder) {
			w.drop(folder)
		}
	}
}

// addTree watches a folder that appeared below a watched one. For thousands of them it is cheaper
// than sync. The caller holds mu.
func (w *Watcher) addTree(top string) (failed error) {
	for range rounds {
		part := plan{roots: w.plan.roots, folders: map[string]bool{}, modes: w.plan.modes}
		part.walk(top)
		maps.Copy(w.plan.folders, part.folders)
		grew, refused, full, err := w.add(part.folders)
		if full || len(refused) > 0 {
			w.pollInstead(refused)
			return w.sync()
		}
		if failed = err; !grew {
			break
		}
	}
	w.failed = w.failed || failed != nil
	return failed
}

// everything starts over after a loss of events, when no watch can be trusted. It returns all
// watched paths.
func (w *Watcher) everything(why string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropBelow("/")
	w.syncOrWarn()
	w.stage.Detail(why)
	paths := make([]string, len(w.targets))
	for i, t := range w.targets {
		paths[i] = t.Name
	}
	return paths
}
