package watch

// What one kernel event means.

import (
	"io/fs"
	"os"

	"github.com/fsnotify/fsnotify"
)

// changed returns the watched paths that an event changed, after it has put watches where they are needed now.
func (w *Watcher) changed(e fsnotify.Event) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := e.Name
	paths := w.plan.touched(name)
	if len(paths) == 0 && !w.folders[name] {
		return nil // of something beside what is watched
	}
	before := w.plan.modes[name]
	var after fs.FileMode
	if info, err := os.Lstat(name); err == nil {
		after = info.Mode()
	}
	if e.Op == fsnotify.Chmod && before == after {
		// A touch, a backup, an indexer: neither content nor mode changed. A real chmod counts: an image with a script
		// that became executable is another image.
		return nil
	}
	if after == 0 {
		delete(w.plan.modes, name)
	} else {
		w.plan.modes[name] = after
	}
	if !e.Has(fsnotify.Create) && !e.Has(fsnotify.Remove) && !e.Has(fsnotify.Rename) {
		return paths
	}
	const shape = fs.ModeDir | fs.ModeSymlink
	if (before|after)&shape == 0 && !w.folders[name] {
		return paths // files come and go below the same watches
	}
	return append(paths, w.reshape(name)...)
}

// reshape follows a folder or link that appeared, went, or was replaced, and returns the watched paths that hung on it,
// or do now. The caller holds mu.
func (w *Watcher) reshape(name string) []string {
	paths := w.plan.below(name)
	// A watch belongs to an inode and stays with it under the old name when the folder is moved. So all watches from here
	// on end, and begin anew for what is there now.
	if w.folders[name] {
		for folder := range w.folders {
			if holds(name, folder) {
				w.drop(folder)
			}
		}
	}
	var err error
	if len(w.plan.names[name]) == 0 && w.plan.inRoot(name) {
		err = w.addTree(name)
	} else {
		err = w.sync()
	}
	if err != nil {
		w.say.Warn("some files cannot be watched", err)
	}
	return append(append(paths, w.plan.touched(name)...), w.plan.below(name)...)
}

// addTree watches a folder that appeared below a watched one: cheaper than sync where thousands do. The caller holds mu.
func (w *Watcher) addTree(root string) (failed error) {
	for range rounds {
		part := plan{folders: map[string]bool{}, modes: w.plan.modes}
		part.walk(root)
		for folder := range part.folders {
			w.plan.folders[folder] = true
		}
		grew, err := w.add(part.folders)
		if failed = err; !grew {
			break
		}
	}
	w.failed = w.failed || failed != nil
	return failed
}

// everything follows a loss of events: no watch and no knowledge can be trusted, all begins anew.
func (w *Watcher) everything() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for folder := range w.folders {
		w.drop(folder)
	}
	if err := w.sync(); err != nil {
		w.say.Warn("some files cannot be watched", err)
	}
	w.say.Detail("the kernel lost file events; taking every file as changed")
	return append([]string(nil), w.paths...)
}
