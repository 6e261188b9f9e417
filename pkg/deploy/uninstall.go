package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	helmkube "helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/devloop/devloop/pkg/event"
)

// uninstall removes a release of ours; left gets what may go away only later.
func (d *Deployer) uninstall(ctx context.Context, stage event.Stage, r Release, left *remnants) error {
	return stage.Step(ctx, event.ReleaseUninstalled, func(context.Context) ([]any, error) {
		helm, history, err := d.helmFor(ctx, stage, r, knownRecords{}, &writeLog{})
		if err != nil {
			return nil, fmt.Errorf("uninstall release %s: %w", r.ID(), err)
		}
		left.add(ctx, r, history)
		if err := d.helmUninstall(ctx, stage, helm, r, history); err != nil {
			return nil, fmt.Errorf("release %s: %w", r.ID(), err)
		}
		return nil, d.forgetRelease(r)
	}, r.payload(0))
}

// helmUninstall removes a release together with what Helm would leave behind: objects that its
// hooks made, and those that only an unfinished revision names. If the hooks fail, it goes on
// without them.
func (d *Deployer) helmUninstall(
	ctx context.Context, stage event.Stage, helm *action.Configuration, r Release, history []*release.Release,
) error {
	if err := d.recordClaims(ctx, stage, r, history); err != nil { // only the records name them
		return err
	}
	run := func(hooks bool) error {
		uninstall := action.NewUninstall(helm)
		uninstall.Timeout, uninstall.DisableHooks = hookTimeout, !hooks
		_, err := uninstall.Run(r.Name)
		return markHelm(err)
	}
	// What hooks made goes first: once Helm has dropped its records, a process that restarts could
	// not find it.
	if err := d.removeHooks(ctx, r, history, hasRun); err != nil {
		return err
	}
	last := &release.Release{}
	if len(history) > 0 {
		last = history[0]
	}
	if hooks := hooksFor(history, uninstallHooks); len(hooks) > 0 {
		slow := time.AfterFunc(noteAfter, func() {
			stage.Note("waiting for the hooks of a release that is being uninstalled", "release", event.Name(r.Name),
				"hooks", abbreviate(hooks), "at most", hookTimeout.String()+" for each")
		})
		defer slow.Stop()
	}
	withHooks := func() error { return run(true) }
	if err := d.watchHooks(ctx, r, last.Version, last.Hooks, uninstallHooks, withHooks); err != nil {
		stage.Warn("release is uninstalled without its hooks, since they failed", err,
			"release", event.Name(r.Name))
		if err := run(false); err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
			return fmt.Errorf("uninstall: %w", err)
		}
	}
	d.cluster.InvalidateCapabilities()
	err := d.removeHooks(ctx, r, history, func(h *release.Hook) bool { return runsFor(h, uninstallHooks) })
	if err != nil {
		return err
	}
	return d.sweep(ctx, r, history, nil)
}

// hooksFor names the hooks of the last revision that run for one of the events.
func hooksFor(history []*release.Release, events []release.HookEvent) (names []string) {
	if len(history) == 0 {
		return nil
	}
	for _, hook := range history[0].Hooks {
		if runsFor(hook, events) {
			names = append(names, strings.ToLower(hook.Kind)+"/"+hook.Name)
		}
	}
	return names
}

// removeHooks deletes the objects of hooks that match, if the hooks made them.
func (d *Deployer) removeHooks(
	ctx context.Context, r Release, history []*release.Release, match func(*release.Hook) bool,
) error {
	for _, record := range history {
		for _, hook := range record.Hooks {
			if !match(hook) {
				continue
			}
			named, _ := parseObjects(hook.Manifest, r.Namespace) // Helm has parsed it before
			isOurs := func(u *unstructured.Unstructured) bool { return madeByHook(u, r, hasRun(hook)) }
			for _, o := range named {
				if err := d.remove(ctx, o, isOurs); err != nil {
					return fmt.Errorf("remove what a hook made: %s: %w", o, err)
				}
			}
		}
	}
	return nil
}

// sweep deletes objects of a release that its revisions name, except for those in kept.
func (d *Deployer) sweep(ctx context.Context, r Release, revisions []*release.Release, kept []object) error {
	belongs := func(u *unstructured.Unstructured) bool { return belongsTo(u, r) }
	seen, moves := slices.Clone(kept), d.movesFrom(r)
	for _, made := range revisions {
		named, _ := parseObjects(made.Manifest, r.Namespace) // what cannot be parsed was not made
		for _, o := range named {
			if slices.ContainsFunc(seen, o.same) || moves(o) {
				continue
			}
			seen = append(seen, o)
			if err := d.remove(ctx, o, belongs); err != nil {
				return fmt.Errorf("release %s: remove what an unfinished revision made: %s: %w", r.ID(), o, err)
			}
		}
	}
	return nil
}

// remove deletes an object if it is there, ours, and not to be kept. It does not wait for its end.
func (d *Deployer) remove(ctx context.Context, o object, isOurs func(*unstructured.Unstructured) bool) error {
	if o.kind.Kind == "CustomResourceDefinition" || o.isNamespace() { // nor does Helm delete CRDs of hooks
		return nil
	}
	api, err := d.resource(o)
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err != nil {
		return err
	}
	there, err := api.Get(ctx, o.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case there.GetAnnotations()[helmkube.ResourcePolicyAnno] == helmkube.KeepPolicy || !isOurs(there):
		return nil
	}
	background := metav1.DeletePropagationBackground
	err = api.Delete(ctx, o.name,
		metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: onlyUID(there.GetUID())})
	if isGone(err) {
		return nil
	}
	return err
}
