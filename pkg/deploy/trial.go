package deploy

import (
	"maps"
	"time"
)

// trial is a release as Validate has rendered and tried it. The Apply that follows at once need not
// do that again: beside it, images are built, on the same processors.
type trial struct {
	at    time.Time // by the wall clock
	want  desired
	last  revision
	made  rendered
	found tried
}

// keepTrial keeps the trial of a release for the next Apply, unless that may find more in it.
func (d *Deployer) keepTrial(t trial) {
	// What it depends on, its commands and its first installation may bring kinds and namespaces.
	// Which objects it takes from other releases is known once all are validated.
	r := t.want.Release
	if !t.last.exists() || len(r.DependsOn)+len(r.Before) > 0 || len(t.found.foreign) > 0 {
		return
	}
	t.at = time.Now().Round(0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trials[r.ID()] = t
}

// takeTrial returns what Validate has found out about a release, if nothing has changed since then.
// Helm's write changes what was rendered, so it is handed out once.
func (d *Deployer) takeTrial(want *desired, last revision) (t trial, ok bool) {
	d.mu.Lock()
	t, ok = d.trials[want.ID()]
	delete(d.trials, want.ID())
	d.mu.Unlock()
	ok = ok && len(want.around.Before) == 0 && time.Since(t.at) < preparedFor &&
		t.want.inputs == want.inputs && maps.Equal(t.want.Images.refs, want.Images.refs) &&
		t.last.version == last.version && t.last.status == last.status
	if ok {
		want.name = t.want.name
	}
	return t, ok
}
