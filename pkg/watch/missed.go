package watch

// Changes without an event.

import (
	"bytes"
	"slices"
	"time"
)

const (
	// missedEvery is how often missed changes are looked for: a mount is noticed before its files
	// are worked on, and two wake-ups in three seconds cost nothing that could be measured.
	missedEvery = 1500 * time.Millisecond

	// retryTicks is after how many such looks the kernel is tried again where it had no room:
	// people raise a limit and go on working.
	retryTicks = 20

	// minSleep is how far the time of day has to run ahead of the clock that stops while the
	// machine sleeps, to be taken for a sleep: more than an adjusted clock, less than any sleep in
	// which another machine could change files.
	minSleep = 5 * time.Second
)

// checked is what the world was like when missed changes were last looked for.
type checked struct {
	at     time.Time
	mounts []byte
}

// missedChanges returns what changed without an event since the last call. Only Run calls it.
func (w *Watcher) missedChanges() []string {
	before := w.checked
	w.checked = checked{time.Now(), mountTable()}
	if slept(w.checked.at.Round(0).Sub(before.at.Round(0)), w.checked.at.Sub(before.at)) {
		return w.everything("the machine slept; taking every file as changed")
	}
	if bytes.Equal(w.checked.mounts, before.mounts) {
		return nil
	}
	return w.remounted(changedMounts(before.mounts, w.checked.mounts))
}

// slept tells whether the machine slept, while files on a network or of a virtual machine may have
// changed. A clock that is set ahead looks the same, which does no harm.
func slept(wall, monotonic time.Duration) bool { return wall-monotonic > minSleep }

// remounted returns what changed by mounts and unmounts at these names.
func (w *Watcher) remounted(points []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.kinds) // device numbers are used again
	var paths []string
	for _, point := range points {
		if len(w.plan.touched(point, true)) > 0 || len(w.plan.below(point)) > 0 {
			paths = append(paths, w.rewatch(point)...)
		}
	}
	return paths
}

// revive watches folders again whose kernel watch ended unnoticed: the end of a watch is an event,
// which may come after a new watch is in place.
func (w *Watcher) revive() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var paths []string
	for _, folder := range w.dead() {
		paths = append(paths, w.rewatch(folder)...)
	}
	if len(paths) == 0 || w.mode == Events {
		return paths
	}
	refused := map[string]bool{}
	for _, folder := range w.dead() {
		refused[folder] = true // the kernel knows it by another name: one folder, mounted twice
	}
	if len(refused) > 0 {
		w.pollInstead(refused)
		w.syncOrWarn()
	}
	return paths
}

// rewatch starts over at a name where something else may be now. The caller holds mu.
func (w *Watcher) rewatch(name string) []string {
	paths := w.plan.touched(name, true)
	w.dropBelow(name)
	return append(paths, w.reshape(name)...)
}

// dead returns the folders whose kernel watch has ended. The caller holds mu.
func (w *Watcher) dead() []string {
	if w.kernel == nil {
		return nil
	}
	alive := map[string]bool{}
	for _, folder := range w.kernel.WatchList() {
		alive[folder] = true
	}
	var dead []string
	for folder := range w.folders {
		if !alive[folder] {
			dead = append(dead, folder)
		}
	}
	slices.Sort(dead)
	return dead
}
