package deploy

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/devloop/devloop/pkg/event"
)

// Objects returns the objects that a release renders to for the cluster as it is now, hooks
// included. Each says its namespace. Nothing is written.
func (d *Deployer) Objects(ctx context.Context, sink event.Sink, r Release) (
	objects []*unstructured.Unstructured, err error) {
	want, last, err := d.readWithRecord(ctx, sink, r)
	if err != nil {
		return nil, markBusy(err)
	}
	made, err := d.render(ctx, &want, last)
	if err != nil {
		return nil, markBusy(err)
	}
	add := func(manifest string) {
		for _, o := range manifestObjects(manifest) {
			if o.GetNamespace() == "" {
				o.SetNamespace(r.Namespace)
			}
			objects = append(objects, o.Unstructured)
		}
	}
	for _, m := range made.manifests {
		add(m.Content)
	}
	for _, hook := range made.hooks {
		add(hook.Manifest)
	}
	return objects, nil
}
