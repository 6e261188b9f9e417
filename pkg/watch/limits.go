package watch

// How much the kernel lets one process watch.

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"syscall"

	"github.com/devloop/devloop/pkg/event"
)

// limits are the kernel's for this process.
type limits struct {
	// descriptors is how many files the process may have open, where each entry of a watched folder
	// takes one (kqueue). It is 0 where a watched folder is one watch (inotify).
	descriptors int

	text      string // the limit, as a person reads it; "" if it is not known
	folders   string // hint for too many folders
	instances string // hint for too many watchers
}

// Limit returns how much the kernel lets one process watch, as a person reads it; "" if it is not
// known.
func Limit() string { return kernelLimits().text }

// inotifyLimits are those of Linux: the contents of its files max_user_watches and
// max_user_instances, 0 for one that cannot be read.
func inotifyLimits(watches, instances int) limits {
	hint := func(what, key string, now, enough int) string {
		is := key
		if now > 0 {
			is += fmt.Sprint(" is ", now)
		}
		return fmt.Sprintf("the kernel's limit of %s for one user is reached (%s); raise it: sudo sysctl %s=%d",
			what, is, key, max(enough, 2*now))
	}
	l := limits{
		folders:   hint("watched folders", "fs.inotify.max_user_watches", watches, 1<<20),
		instances: hint("programs that watch files", "fs.inotify.max_user_instances", instances, 1<<10),
	}
	if watches > 0 {
		l.text = fmt.Sprintf("%d folders", watches)
	}
	return l
}

// kqueueLimits are those of macOS: the process's own limit of open files, which Go's runtime has
// raised as far as it may; the hard limit that its parent left to it; and the kernel's
// kern.maxfilesperproc, 0 if it cannot be read.
func kqueueLimits(own, hard, kernel uint64) limits {
	const most = 1 << 30 // also of "unlimited"
	l := limits{descriptors: int(min(own, most))}
	raise := fmt.Sprintf("raise it: sudo sysctl kern.maxfilesperproc=%d", 2*max(min(own, most), kernel))
	if hard < kernel {
		raise = fmt.Sprintf("macOS allows %d (sysctl kern.maxfilesperproc): "+
			"raise the limit that this shell has (ulimit -Hn)", kernel)
	}
	l.text = fmt.Sprintf("%d open files", l.descriptors)
	l.folders = fmt.Sprintf("each file in a watched folder needs an open file, and devloop may have %s; "+
		"exclude in .dockerignore what no image needs, or %s", l.text, raise)
	l.instances = fmt.Sprintf("devloop may have %s; %s", l.text, raise)
	return l
}

// cost is how much of the limit a folder takes.
func (w *Watcher) cost(folder string) int {
	if w.limits.descriptors == 0 {
		return 1
	}
	open, err := os.Open(folder)
	if err != nil {
		return 1
	}
	names, err := open.Readdirnames(-1) // as many as it could read, with an error
	_ = errors.Join(err, open.Close())
	return 1 + len(names)
}

// hasRoom tells whether more can be watched. Half of the open files stays for connections, builds
// and files that appear: without any left, nothing would work. The caller holds mu.
func (w *Watcher) hasRoom(more int) bool {
	fits := func() bool { return w.limits.descriptors == 0 || w.taken+more <= w.limits.descriptors/2 }
	if fits() {
		return true
	}
	w.taken = 0 // fsnotify reports a socket as new whenever its folder changes: count anew
	for folder := range w.folders {
		w.folders[folder] = w.cost(folder)
		w.taken += w.folders[folder]
	}
	return fits()
}

// isBlind tells whether a folder has an entry that kqueue cannot open. There, fsnotify reports no
// new file whose name comes after that entry's. The caller holds mu.
func (w *Watcher) isBlind(folder string) bool {
	if w.limits.descriptors == 0 {
		return false
	}
	entries, _ := os.ReadDir(folder) // as many as it could read, with an error
	for _, entry := range entries {
		if cannotOpen(filepath.Join(folder, entry.Name())) {
			if w.reported.Changed("blind "+folder, entry.Name()) {
				w.stage.Note("this folder gives no reliable file events; polling it", "folder", event.Name(folder),
					"cannot open", event.Name(entry.Name()))
			}
			return true
		}
	}
	return false
}

// cannotOpen tells whether something is a link to nothing, or may not be read.
func cannotOpen(name string) bool {
	const read = 4 // R_OK of access(2)
	if syscall.Access(name, read) == nil {
		return false
	}
	_, err := os.Lstat(name)
	return err == nil
}

// start has the kernel watch a folder. The caller holds mu.
func (w *Watcher) start(folder string, cost int) error {
	if err := w.kernel.Add(folder); err != nil {
		_ = w.kernel.Remove(folder) // kqueue keeps open what it has opened
		return err
	}
	w.folders[folder] = cost
	w.taken += cost
	for above := range parents(folder) {
		w.below[above]++
	}
	return nil
}

// drop ends the watch of a folder. It may have ended by itself, with the folder, so errors do not
// count. The caller holds mu.
func (w *Watcher) drop(folder string) {
	if w.kernel != nil {
		_ = w.kernel.Remove(folder)
	}
	w.taken -= w.folders[folder]
	delete(w.folders, folder)
	for above := range parents(folder) {
		if w.below[above]--; w.below[above] == 0 {
			delete(w.below, above)
		}
	}
}

// parents yields the folders that hold a folder.
func parents(folder string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for above := filepath.Dir(folder); above != folder && yield(above); above = filepath.Dir(above) {
			folder = above
		}
	}
}

// grow counts an entry that appeared in a watched folder, or went. The caller holds mu.
func (w *Watcher) grow(folder string, by int) {
	if cost := w.folders[folder]; w.limits.descriptors > 0 && cost > 0 {
		by = max(by, 1-cost)
		w.folders[folder] += by
		w.taken += by
	}
}

// scarce tells whether an error is about one of the kernel's limits, so that a retry may help.
func scarce(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
