package deploy

import (
	"context"
	"fmt"
	"slices"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"
)

// upgrade writes the revision that follows last.
func (d *Deployer) upgrade(ctx context.Context, helm *action.Configuration, want desired, last *release.Release,
	output prerendered, made rendered, labels map[string]string,
) (done *release.Release, err error) {
	if last.Info.Status.IsPending() { // an upgrade or rollback that was killed
		if err := markFailed(helm, last); err != nil {
			return nil, err
		}
	}
	for _, label := range []string{labelAfter, labelAfterAll, labelGood, labelTookOver} {
		if _, set := labels[label]; !set && last.Labels[label] != "" {
			labels[label] = labelNone
		}
	}
	upgrade := action.NewUpgrade(helm)
	upgrade.Namespace, upgrade.Labels = want.Namespace, labels
	upgrade.TakeOwnership = want.takesOver
	upgrade.Timeout, upgrade.MaxHistory, upgrade.SkipCRDs = hookTimeout, maxHistory, true
	upgrade.DisableOpenAPIValidation = true // dryRun has asked the API server
	upgrade.ResetValues = true              // ignore the values of earlier revisions
	upgrade.PostRenderer = output
	err = d.watchHooks(ctx, want.Release, last.Version+1, made.hooks, upgradeHooks, func() (err error) {
		done, err = upgrade.RunWithContext(ctx, want.Name, output.chart, made.values)
		return markHelm(err)
	})
	return done, err
}

func markFailed(helm *action.Configuration, r *release.Release) error {
	r.SetStatus(release.StatusFailed, "this write was not ended")
	if err := helm.Releases.Update(r); err != nil {
		return fmt.Errorf("repair the interrupted revision %d: %w", r.Version, err)
	}
	return nil
}

// unfinishedRevisions returns those of a history, the last one first, that follow the last good
// one. Helm compares a new revision only with the good one, so objects that only these name would
// stay.
func unfinishedRevisions(history []*release.Release) []*release.Release {
	good := slices.IndexFunc(history, func(r *release.Release) bool {
		return r.Info.Status == release.StatusDeployed || r.Info.Status == release.StatusSuperseded
	})
	if good < 0 {
		return history
	}
	return history[:good]
}
