package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/release"

	"github.com/devloop/devloop/pkg/event"
)

// neverInstalled tells whether a release of ours never came to the end of its installation, or of its removal: it is begun anew, since an
// upgrade would leave out its install hooks.
func (d *Deployer) neverInstalled(history []*release.Release) bool {
	if len(history) == 0 || history[0].Labels[labelProject] != d.project {
		return false
	}
	return history[0].Info.Status == release.StatusUninstalling || !slices.ContainsFunc(history, func(r *release.Release) bool {
		return r.Info.Status == release.StatusDeployed || r.Info.Status == release.StatusSuperseded || r.Info.Status == release.StatusUninstalled
	})
}

// awaitTerminating waits until none of the objects that a release is to have is being deleted: Helm takes one that is for its own, and it is gone a
// moment later.
func (d *Deployer) awaitTerminating(ctx context.Context, stage event.Stage, r Release, made rendered) error {
	var manifest strings.Builder
	for _, m := range made.manifests {
		manifest.WriteString("\n---\n" + m.Content)
	}
	objects, err := parse(manifest.String(), r.Namespace)
	if err != nil {
		return nil //nolint:nilerr // Helm reads it its own way
	}
	ending, err := d.terminating(ctx, objects)
	if err != nil || ending == "" {
		return err
	}
	stage.Note("objects of the same names are being deleted, they are waited for", "release", event.Name(r.Name),
		"object", ending)
	return d.untilTerminated(ctx, r, objects)
}

// awaitTerminatingOf is awaitTerminating for what revisions named.
func (d *Deployer) awaitTerminatingOf(ctx context.Context, r Release, history []*release.Release) error {
	var objects []object
	for _, made := range history {
		named, _ := parse(made.Manifest, r.Namespace) // Helm has read it
		objects = append(objects, named...)
	}
	return d.untilTerminated(ctx, r, objects)
}

func (d *Deployer) untilTerminated(ctx context.Context, r Release, objects []object) error {
	ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still being deleted after %s", goneTimeout))
	defer cancel()
	if err := d.until(ctx, func() (string, error) { return d.terminating(ctx, objects) }); err != nil {
		return event.WithHint(fmt.Errorf("release %s: %w", r.ID(), err), "it may have a finalizer that nobody takes away, or a pod that does not end: kubectl describe")
	}
	return nil
}
