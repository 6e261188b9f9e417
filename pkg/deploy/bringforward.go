package deploy

// A namespace or a kind that one release needs may be brought by another one.

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/devloop/devloop/pkg/event"
)

// bringMissing writes what a release needs and is not there: the namespaces that releases ask for,
// then those of its own manifests, then what other releases bring. It returns whether anything was
// missing, and an error if a namespace is missing even then.
func (d *Deployer) bringMissing(
	ctx context.Context, stage event.Stage, want *desired, made rendered, w *writeLog,
) (wasMissing bool, err error) {
	missing := d.checkNamespaces(ctx, want, made)
	if missing == nil && !d.lacksKinds(want, made) {
		return false, nil
	}
	if err := want.around.begin(); err != nil {
		return false, want.moved(err)
	}
	if err := d.applyNamespaces(ctx, stage, want.Release, made.definitions, w); err != nil {
		return false, err
	}
	if missing = d.checkNamespaces(ctx, want, made); missing != nil || d.lacksKinds(want, made) {
		d.bringForward(ctx, stage, want.around)
		missing = d.checkNamespaces(ctx, want, made)
	}
	return true, missing
}

// lacksKinds tells whether the API server does not have the kinds of all objects of a release,
// those that it brings itself excepted.
func (d *Deployer) lacksKinds(want *desired, made rendered) bool {
	next := made.attempt(want)
	return slices.ContainsFunc(made.objects, func(o manifestObject) bool {
		_, _, err := d.endpoint(o.in(want.Namespace))
		return meta.IsNoMatchError(err) && !next.describes(o)
	})
}

// bringForward applies the namespaces and CRDs of all releases of an Apply, once. A release that
// needs some which another one brings does not wait for that one's pods: these may need its own.
func (d *Deployer) bringForward(ctx context.Context, stage event.Stage, all *around) {
	all.brought.Do(func() {
		for _, r := range all.releases {
			if len(r.Before) > 0 { // commands come before all else
				continue
			}
			if err := d.applyFirst(ctx, stage, r); err != nil { // which its own turn reports
				stage.Detail("namespaces and CRDs of a release could not be brought forward", "release", event.Name(r.Name),
					"reason", err.Error())
			}
		}
	})
}

// applyFirst applies the namespaces and CRDs of a release.
func (d *Deployer) applyFirst(ctx context.Context, stage event.Stage, r Release) error {
	want, err := d.readInputs(ctx, stage, r)
	if err != nil {
		return err
	}
	last, err := d.last(ctx, r)
	if err == nil {
		err = d.mayWrite(r, last)
	}
	if err != nil {
		return err
	}
	made, err := d.render(ctx, &want, last)
	if err != nil {
		return err
	}
	if err := d.applyNamespaces(ctx, stage, r, made.definitions, &writeLog{}); err != nil {
		return err
	}
	return d.applyCRDs(ctx, stage, r, made.definitions, &writeLog{})
}
