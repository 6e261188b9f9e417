package watch

// What happens to files and no event tells of.

import (
	"bytes"
	"slices"
	"time"
)

const (
	// doubtEvery is how often it is asked whether events can be trusted: a mount is noticed before its files are worked
	// on, and two wake-ups in three seconds cost nothing that could be measured.
	doubtEvery = 1500 * time.Millisecond

	// nap is by how much the time of day runs ahead of the clock that stands still while the machine sleeps, until it is
	// taken for a sleep: more than what adjusting the clock does, less than any sleep in which somebody else could work.
	nap = 5 * time.Second
)

// trust is how the world was when events were last found to tell the truth.
type trust struct {
	at     time.Time
	mounts []byte
}

// doubt returns what changed without an event since it was last asked. Only Run asks.
func (w *Watcher) doubt() []string {
	before := w.trust
	w.trust = trust{time.Now(), mountTable()}
	if slept(w.trust.at.Round(0).Sub(before.at.Round(0)), w.trust.at.Sub(before.at)) {
		return w.everything("the machine slept; taking every file as changed")
	}
	if bytes.Equal(w.trust.mounts, before.mounts) {
		return nil
	}
	return w.remounted(changedMounts(before.mounts, w.trust.mounts))
}

// slept tells a sleep of the machine, in which others may have changed the files of a network or of a virtual machine,
// from time that simply went by. A clock that is set ahead looks the same, which does no harm.
func slept(wall, monotonic time.Duration) bool { return wall-monotonic > nap }

// remounted follows mounts and unmounts at these names: something else is there now.
func (w *Watcher) remounted(points []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.kinds) // devices' numbers are used again
	var paths []string
	for _, point := range points {
		if !w.concerns(point) {
			continue
		}
		paths = append(paths, w.plan.touched(point, true)...)
		w.dropBelow(point)
		paths = append(paths, w.reshape(point)...)
	}
	return paths
}

// revive begins anew with folders whose kernel watch has ended unnoticed: what is known of the end of a watch comes with
// the events, and where some folders are polled and others are not, it may come after a new watch is in place.
func (w *Watcher) revive() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var paths []string
	for _, folder := range w.dead() {
		paths = append(paths, w.plan.touched(folder, true)...)
		w.dropBelow(folder)
		paths = append(paths, w.reshape(folder)...)
	}
	if len(paths) == 0 || w.mode == Events {
		return paths
	}
	for _, folder := range w.dead() {
		// The kernel knows it by another name already: one folder, mounted twice.
		if seen, err := look(folder, w.plan.folders[folder]); err == nil {
			w.polled(folder, seen)
		}
	}
	return paths
}

// dead returns the folders that the kernel should watch and does not. The caller holds mu.
func (w *Watcher) dead() []string {
	if w.kernel == nil {
		return nil
	}
	alive := map[string]bool{}
	for _, folder := range w.kernel.WatchList() {
		alive[folder] = true
	}
	var dead []string
	for folder, seen := range w.folders {
		if seen == nil && !alive[folder] {
			dead = append(dead, folder)
		}
	}
	slices.Sort(dead)
	return dead
}

// concerns tells whether something at name or below is watched. The caller holds mu.
func (w *Watcher) concerns(name string) bool {
	if len(w.plan.touched(name, true)) > 0 || len(w.plan.below(name)) > 0 {
		return true
	}
	for folder := range w.folders {
		if holds(name, folder) {
			return true
		}
	}
	return false
}
