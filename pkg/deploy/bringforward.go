package deploy

// A namespace or a kind that one release needs may be brought by another one.

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/devloop/devloop/pkg/event"
)

// lacksKinds tells whether the API server does not have the kinds of all objects of a release.
func (d *Deployer) lacksKinds(want *desired, made rendered) bool {
	return slices.ContainsFunc(made.objects, func(o manifestObject) bool {
		_, _, err := d.endpoint(o.in(want.Namespace))
		return meta.IsNoMatchError(err)
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
	if err := d.applyNamespaces(ctx, stage, r, made.crds, &writeLog{}); err != nil {
		return err
	}
	return d.applyCRDs(ctx, stage, r, made.crds, &writeLog{})
}
