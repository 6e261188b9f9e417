package deploy

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"helm.sh/helm/v3/pkg/action"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
)

// rollback takes the release back to the last revision whose pods came up, unless that is the one which is there: then what troubles
// it is no change of ours. It returns cause with what came of that, as final: another try would only do the same.
func (d *Deployer) rollback(stage event.Stage, r Release, cause error) error {
	ctx := context.Background()
	result := ""
	good, last, err := d.lastGood(ctx, r)
	switch {
	case err != nil:
		result = "whether there is a revision to go back to is not known: " + err.Error()
	case good == 0:
		result = "it stays as it is, since no revision of it was ever up"
	case good == last.version:
		result = fmt.Sprintf("it stays as it is: revision %d was up before", good)
	case !d.owns(r, last):
		result = "it stays as it is: a devloop of another user or machine made it"
	default:
		result = fmt.Sprintf("rolled back to revision %d", good)
		err = stage.Step(ctx, event.ReleaseRolledBack, func(ctx context.Context) ([]any, error) {
			return nil, d.helmRollback(ctx, stage, r, good, last.version+1)
		}, "namespace", event.Name(r.Namespace), "release", event.Name(r.Name), "revision", good)
		if err != nil {
			result = fmt.Sprintf("roll back to revision %d: %v", good, err)
		}
	}
	return event.WithHint(finalError{fmt.Errorf("%v\n%s", cause, result)}, event.Hint(cause)) //nolint:errorlint // no longer transient
}

// helmRollback makes a revision, of that number, which is the same as an earlier good one, and as good.
func (d *Deployer) helmRollback(ctx context.Context, stage event.Stage, r Release, to, version int) error {
	helm, err := d.helm(ctx, r.Namespace)
	if err != nil {
		return err
	}
	history, err := helm.Releases.History(r.Name)
	if err != nil {
		return fmt.Errorf("read Helm's records: %w", err)
	}
	guardDeletions(stage, helm, r, history)
	if err := d.journal.Record(journal.Revision, revisionID(r, version)); err != nil {
		return err
	}
	err = d.watchHooks(ctx, r, version, rollbackHooks, func() error {
		rollback := action.NewRollback(helm)
		rollback.Version, rollback.Timeout, rollback.MaxHistory = to, hookTimeout, maxHistory
		return rollback.Run(r.Name)
	})
	if err != nil {
		// Helm does not mark it failed when a hook does.
		if last, lastErr := helm.Releases.Last(r.Name); lastErr == nil && last.Version == version && last.Info.Status.IsPending() {
			err = errors.Join(err, markFailed(helm, last))
		}
		return errors.Join(err, d.forgetUnwritten(ctx, r, version))
	}
	return errors.Join(d.setLabel(ctx, r, version, labelGood, strconv.Itoa(version)), d.journal.Forget(journal.Revision, revisionID(r, version)))
}
