package deploy

import (
	"context"
	"fmt"
	"slices"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"

	"github.com/devloop/devloop/pkg/event"
)

// install writes a revision of a release that is not there, or was uninstalled.
func (d *Deployer) install(ctx context.Context, helm *action.Configuration, want desired, version int,
	output prerendered, made rendered, labels map[string]string,
) (done *release.Release, err error) {
	install := action.NewInstall(helm)
	install.ReleaseName, install.Namespace, install.Labels = want.Name, want.Namespace, labels
	install.TakeOwnership = want.takesOver
	install.Timeout, install.Replace, install.SkipCRDs = hookTimeout, version > 1, true
	install.DisableOpenAPIValidation = true // dryRun has asked the API server
	install.PostRenderer = output
	err = d.watchHooks(ctx, want.Release, version, made.hooks, installHooks, func() (err error) {
		done, err = install.RunWithContext(ctx, output.chart, made.values)
		return markHelm(err)
	})
	return done, err
}

// neverInstalled tells whether no installation of a release of ours, or not its removal, was
// completed. It has to be installed from scratch: an upgrade would skip its install hooks.
func (d *Deployer) neverInstalled(history []revision) bool {
	if len(history) == 0 || !d.labelled(history[0]) {
		return false
	}
	return history[0].status == release.StatusUninstalling ||
		!slices.ContainsFunc(history, func(r revision) bool {
			return slices.Contains([]release.Status{
				release.StatusDeployed, release.StatusSuperseded, release.StatusUninstalled,
			}, r.status)
		})
}

// keepsObjects tells whether a release that was never fully installed is installed over its
// objects: it took some of them over, and with them would go data that was there before.
func (d *Deployer) keepsObjects(history []revision) bool {
	return d.neverInstalled(history) && history[0].status != release.StatusUninstalling &&
		slices.ContainsFunc(history, revision.tookOver)
}

// forgetInstallation removes what is left of a release that was never fully installed, except for
// the objects that it is about to have.
func (d *Deployer) forgetInstallation(
	ctx context.Context, helm *action.Configuration, r Release, history []*release.Release, made rendered,
) error {
	if err := d.removeHooks(ctx, r, history, hasRun); err != nil {
		return err
	}
	var kept []object
	for _, o := range made.objects {
		kept = append(kept, o.in(r.Namespace))
	}
	if err := d.sweep(ctx, r, history, kept); err != nil {
		return err
	}
	for _, record := range history {
		if _, err := helm.Releases.Delete(record.Name, record.Version); err != nil {
			return fmt.Errorf("delete Helm's record of revision %d: %w", record.Version, err)
		}
	}
	return nil
}

// awaitTerminating waits for the end of objects that manifests name and that are being deleted:
// Helm would adopt them, and lose them a moment later.
func (d *Deployer) awaitTerminating(ctx context.Context, stage event.Stage, r Release, manifests []string) error {
	var objects []object
	for _, manifest := range manifests {
		named, _ := parseObjects(manifest, r.Namespace) // an error is left to Helm
		objects = append(objects, named...)
	}
	if left, err := d.terminating(ctx, objects); err != nil || len(left) == 0 {
		return err
	}
	if err := d.awaitEnd(ctx, stage, r, objects); err != nil {
		return fmt.Errorf("release %s: %w", r.ID(), err)
	}
	return nil
}
