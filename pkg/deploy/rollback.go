package deploy

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
)

// rollback takes a release back to the last revision whose pods came up. If that is the current
// one, no change of ours broke it, and it stays. The error is cause with the outcome; it is final,
// since a retry would only do the same.
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
		}, r.payload(good))
		if err != nil {
			result = fmt.Sprintf("roll back to revision %d: %v", good, err)
		}
	}
	err = fmt.Errorf("%v\n%s", cause, result) //nolint:errorlint // no longer transient
	return event.WithHint(err, event.Hint(cause))
}

// helmRollback writes a revision, of that version, that equals an earlier good one, and counts as
// good too.
func (d *Deployer) helmRollback(ctx context.Context, stage event.Stage, r Release, to, version int) error {
	w := &writeLog{}
	helm, history, err := d.helmFor(ctx, stage, r, knownRecords{}, w)
	if err != nil {
		return err
	}
	found, err := d.try(ctx, returnTo(r, history, to))
	if err == nil {
		err = d.mayTakeOver(r, found.foreign)
	}
	if err == nil {
		err = d.deleteToRecreate(ctx, stage, r, found.recreate, w)
	}
	if err != nil {
		return w.explain(err)
	}
	if err := d.journal.Record(journal.Revision, revisionID(r, version)); err != nil {
		return err
	}
	var hooks []*release.Hook
	for _, record := range history {
		if record.Version == to {
			hooks = record.Hooks
		}
	}
	err = d.watchHooks(ctx, r, version, hooks, rollbackHooks, func() error {
		rollback := action.NewRollback(helm)
		rollback.Version, rollback.Timeout, rollback.MaxHistory = to, hookTimeout, maxHistory
		return markHelm(rollback.Run(r.Name))
	})
	if err != nil {
		// Helm does not mark the revision failed when a hook fails.
		last, lastErr := helm.Releases.Last(r.Name)
		if lastErr == nil && last.Version == version && last.Info.Status.IsPending() {
			err = errors.Join(err, markFailed(helm, last))
		}
		return errors.Join(w.explain(withoutListFrame(err)), d.forgetUnwritten(ctx, r, version))
	}
	return errors.Join(d.setLabel(ctx, r, version, labelGood, strconv.Itoa(version)),
		d.journal.Forget(journal.Revision, revisionID(r, version)))
}

// returnTo is a rollback as Helm writes it: an earlier revision's objects, compared with the last
// one's.
func returnTo(r Release, history []*release.Release, to int) attempt {
	next := attempt{Release: r}
	if len(history) > 0 {
		next.before = manifestObjects(history[0].Manifest)
	}
	for _, record := range history {
		if record.Version == to {
			next.objects = manifestObjects(record.Manifest)
		}
	}
	return next
}
