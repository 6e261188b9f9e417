package deploy

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// restore reverts drift, and says so. It interrupts no write: a canceled ctx only keeps the next
// one from starting.
func (d *Deployer) restore(ctx context.Context, stage event.Stage, r Release, last revision, found []drift) error {
	done, err := d.revert(ctx, stage, r, last, found)
	d.report(ctx, stage, r, last, done)
	return err
}

// revert is restore without the report. It returns what it has reverted.
func (d *Deployer) revert(ctx context.Context, stage event.Stage, r Release, last revision, found []drift,
) ([]drift, error) {
	if slices.ContainsFunc(found, func(f drift) bool { return f.definition }) {
		for _, one := range found {
			if one.definition && one.ending {
				if err := d.awaitToRecreate(ctx, stage, one); err != nil {
					return nil, err
				}
			}
		}
		record, err := d.record(ctx, r, last.version)
		if err != nil {
			return nil, err
		}
		made, err := parseDefinitions(crdsOf(record), func(name string) string { return name })
		if err != nil {
			return nil, fmt.Errorf("release %s: %w", r.ID(), err)
		}
		if err := d.applyNamespaces(ctx, stage, r, made, &writeLog{}); err != nil {
			return nil, err
		}
		if err := d.applyCRDs(ctx, stage, r, made, &writeLog{}); err != nil {
			return nil, err
		}
	}
	for i, one := range found {
		if ctx.Err() != nil {
			return found[:i], context.Cause(ctx)
		}
		if err := d.restoreOne(ctx, stage, one); err != nil {
			return found[:i], err
		}
	}
	return found, nil
}

// restoreOne reverts one object. If it changes in the meantime, it is compared again.
func (d *Deployer) restoreOne(ctx context.Context, stage event.Stage, one drift) error {
	r := one.comparison.release
	for try := 1; ; try++ {
		err := d.writeOne(ctx, stage, one)
		changes := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
		if changes && try < maxConflicts && ctx.Err() == nil {
			var again *drift
			if again, err = one.comparison.compareOne(ctx, one.object); again != nil {
				one = *again
				continue
			}
			if err == nil {
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("release %s: revert %s: %w", r.ID(), one.object, err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, change := range one.changes {
			d.restores[fieldID(one.object, change.path)]++
		}
		return nil
	}
}

func (d *Deployer) writeOne(ctx context.Context, stage event.Stage, one drift) error {
	r := one.comparison.release
	switch {
	case one.definition:
		return nil // applied before
	case one.unmarked:
		return event.WithHint(fmt.Errorf("it differs from what was applied (%s), and is no longer marked as the release's",
			one.fieldNames()), d.recreateHint(one, "give yours another name"))
	case one.refused != nil:
		return event.WithHint(fmt.Errorf("the API server rejects it (%s): %w", one.fieldNames(),
			briefly(one.refused, one.kind.Kind)), d.recreateHint(one, "write the change into the chart"))
	case one.ending:
		if err := d.awaitToRecreate(ctx, stage, one); err != nil {
			return err
		}
	}
	api, err := d.resource(one.object)
	if meta.IsNoMatchError(err) {
		return event.WithHint(fmt.Errorf("the cluster no longer knows its kind: %w", err),
			"reinstall what provides that kind")
	}
	if err != nil {
		return err
	}
	write := context.WithoutCancel(ctx) // never interrupted; each request has a deadline
	if !one.isGone() {
		_, err = api.Update(write, one.restored, metav1.UpdateOptions{FieldManager: kube.FieldManager})
		return err
	}
	_, err = api.Create(write, withOwner(r, one.content), metav1.CreateOptions{FieldManager: kube.FieldManager})
	if err == nil && one.kind.Kind == "CustomResourceDefinition" {
		d.cluster.InvalidateCapabilities()
		err = d.awaitKind(ctx, one.content)
	}
	return err
}

// recreateHint says what to do about an object that cannot be reverted. It never suggests deleting
// what holds more than the chart does.
func (d *Deployer) recreateHint(one drift, instead string) string {
	switch one.kind.Kind {
	case "PersistentVolumeClaim", "PersistentVolume", "Namespace", "CustomResourceDefinition":
		return instead
	}
	return instead + "; or, if it can go, delete it and run again to recreate it as the chart has it: " +
		kubectlDelete(one.object, d.isNamespaced(one.object), "")
}

// awaitToRecreate waits until an object that is being deleted is gone.
func (d *Deployer) awaitToRecreate(ctx context.Context, stage event.Stage, one drift) error {
	stage.Note("waiting for an object that is being deleted, to recreate it",
		"release", event.Name(one.comparison.release.Name), "object", one.String())
	return d.awaitEnd(ctx, stage, one.comparison.release, []object{one.object})
}

// withoutKept leaves out what is as it was found: the chart has it by now.
func (d *Deployer) withoutKept(ctx context.Context, found []drift) (left []drift) {
	for _, one := range found {
		api, err := d.resource(one.object)
		if err != nil {
			continue
		}
		live, err := api.Get(ctx, one.name, metav1.GetOptions{})
		if err != nil {
			continue
		}
		one.changes = slices.DeleteFunc(one.changes, func(c change) bool {
			return len(one.owners.differences(c.path, c.live, one.owners.walk(live.Object, c.path))) == 0
		})
		if len(one.changes) > 0 {
			left = append(left, one)
		}
	}
	return left
}
