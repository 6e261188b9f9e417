package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/release"
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

// Render returns a release rendered for the cluster as it is now: CRDs, objects in their order of
// installation, hooks; each names its template.
func (d *Deployer) Render(ctx context.Context, sink event.Sink, r Release) (string, error) {
	want, last, err := d.readWithRecord(ctx, sink, r)
	if err != nil {
		return "", err
	}
	made, err := d.render(ctx, &want, last)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	write := func(template, text string) {
		if r.isPlain() {
			template = placeOf(template)
		}
		fmt.Fprintf(&out, "---\n# Source: %s\n%s\n", template, strings.TrimSpace(text))
	}
	for _, crd := range made.crds {
		write(crd.Filename, string(crd.File.Data))
	}
	for _, m := range made.manifests {
		write(m.Name, m.Content)
	}
	slices.SortStableFunc(made.hooks, func(a, b *release.Hook) int { return a.Weight - b.Weight })
	for _, hook := range made.hooks {
		write(hook.Path, hook.Manifest)
	}
	return out.String(), nil
}
