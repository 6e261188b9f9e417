package deploy

import (
	"fmt"
	"slices"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"
)

func markFailed(helm *action.Configuration, r *release.Release) error {
	r.SetStatus(release.StatusFailed, "this write was not ended")
	if err := helm.Releases.Update(r); err != nil {
		return fmt.Errorf("repair the interrupted revision %d: %w", r.Version, err)
	}
	return nil
}

// unfinishedRevisions returns the revisions, of a history that begins with the last one, which were written after one came to its end. What
// they made and the next one does not name is known to nobody else: Helm compares with the last good revision only.
func unfinishedRevisions(history []*release.Release) []*release.Release {
	end := slices.IndexFunc(history, func(r *release.Release) bool {
		return r.Info.Status == release.StatusDeployed || r.Info.Status == release.StatusSuperseded
	})
	if end < 0 {
		return history
	}
	return history[:end]
}
