package deploy

import (
	"context"
	"maps"
	"time"
)

// validatedFor is how long an Apply may count on what Validate has found out.
const validatedFor = 10 * time.Second

// validated is a release as Validate has rendered and tried it. The Apply that follows at once need
// not do that again, which would slow the builds beside it.
type validated struct {
	at    time.Time // by the wall clock
	want  desired
	last  revision
	made  rendered
	found tried
}

// keepValidated keeps a release for the next Apply, unless that may find more in it.
func (d *Deployer) keepValidated(ctx context.Context, v validated) {
	r := v.want.Release
	switch {
	case !v.last.exists(): // the first Apply reports fields that the API server ignores
		return
	case len(r.DependsOn)+len(r.Before) > 0: // what comes before it may bring kinds
		return
	case d.lacksKinds(&v.want, v.made), d.checkNamespaces(ctx, &v.want, v.made) != nil: // objects were not tried
		return
	case len(v.found.foreign) > 0: // whose they are is known once all releases are validated
		return
	}
	v.at = time.Now().Round(0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.validated[r.ID()] = v
}

// takeValidated returns what Validate has found out about a release, if nothing has changed since
// then. Helm changes the chart while it writes, so that is used once.
func (d *Deployer) takeValidated(want *desired, last revision) (v validated, ok bool) {
	d.mu.Lock()
	v, ok = d.validated[want.ID()]
	delete(d.validated, want.ID())
	d.mu.Unlock()
	ok = ok && len(want.around.Before) == 0 && isRecent(v.at) && v.last.record == last.record &&
		v.want.inputs == want.inputs && maps.Equal(v.want.Images.refs, want.Images.refs)
	if ok {
		want.name = v.want.name
		d.setImages(want.Release, v.made.images)
	}
	return v, ok
}

// isRecent tells whether what was found out at a time of the wall clock still counts.
func isRecent(at time.Time) bool {
	age := time.Since(at)
	return 0 <= age && age < validatedFor
}

// forgetValidated frees what no Apply has used. The next one reads all CRDs again.
func (d *Deployer) forgetValidated() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.validated)
	for name, known := range d.settled {
		known.readAt = time.Time{}
		d.settled[name] = known
	}
}
