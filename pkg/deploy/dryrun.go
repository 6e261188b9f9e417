package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// Validate finds mistakes in the releases before anything is written: unavailable charts, values
// that a schema forbids, failing templates, invalid YAML, objects that the API server rejects. It
// skips releases that are up to date, and those whose dependencies are not installed yet, since
// their charts may need what these bring. An API server that is away is no mistake.
func (d *Deployer) Validate(ctx context.Context, sink event.Sink, releases []Release) error {
	stage := sink.Stage("deploy")
	d.forgetValidated()
	ctx = kube.ReadOnly(ctx, func() bool { return true })
	err := d.cluster.Ping(ctx)
	if err == nil {
		err = d.cluster.Refresh(ctx)
	}
	if err != nil {
		stage.Detail("charts could not be validated yet", "reason", err.Error())
		return nil //nolint:nilerr // applying reports it
	}
	errs, results := make([]error, len(releases)), make([]validation, len(releases))
	var group sync.WaitGroup
	for i, r := range releases {
		group.Go(func() {
			errs[i] = stage.Guard("validation of a chart", func() (err error) {
				results[i], err = d.validate(ctx, stage, r, releases)
				return err
			})
		})
	}
	group.Wait()
	shared := d.compareReleases(releases, results)
	for i, r := range releases {
		err := markBusy(cmp.Or(errs[i], shared[i], d.mayTakeOver(r, results[i].foreign)))
		if event.IsTransient(err) {
			stage.Detail("chart could not be validated yet", "release", event.Name(r.Name), "reason", err.Error())
			err = nil
		}
		if hint := event.Hint(err); hint != "" {
			err = event.WithHint(err, hint+unwritten)
		}
		errs[i] = err
	}
	return errors.Join(errs...)
}

// validation is what the validation of a release has found out.
type validation struct {
	objects map[string]ownObject // that the release names, by liveID; nil if they are not known
	foreign []foreignObject
}

func (d *Deployer) validate(ctx context.Context, stage event.Stage, r Release, all []Release) (validation, error) {
	want, err := d.readInputs(ctx, stage, r)
	if err != nil {
		return validation{}, err
	}
	last, err := d.last(ctx, r)
	if err != nil {
		return validation{}, err
	}
	upToDate, err := d.upToDate(ctx, last, want)
	if err != nil {
		return validation{}, err
	}
	if upToDate {
		made, err := d.contentsOf(ctx, r, last.version)
		if err != nil {
			return validation{}, err
		}
		return validation{objects: d.objectsIn(made)}, nil
	}
	if err := d.mayWrite(r, last); err != nil {
		return validation{}, err
	}
	for _, other := range all {
		if !slices.Contains(r.DependsOn, other.Name) {
			continue
		}
		if there, err := d.last(ctx, other); err != nil || !there.exists() {
			return validation{}, err
		}
	}
	made, err := d.render(ctx, &want, last)
	if err != nil {
		return validation{}, err
	}
	found := validation{objects: d.objectsOf(&want, made)}
	outcome, err := d.dryRun(ctx, stage, &want, made)
	if err == nil {
		d.keepValidated(ctx, validated{want: want, last: last, made: made, found: outcome})
	}
	found.foreign = outcome.foreign
	return found, err
}

// dryRun asks the API server whether it would accept what Helm is about to write: a refusal in the
// middle of a write leaves half a revision.
func (d *Deployer) dryRun(ctx context.Context, stage event.Stage, want *desired, made rendered) (tried, error) {
	if err := made.checkRecordSize(want); err != nil {
		return tried{}, err
	}
	all, err := d.revisions(ctx, want.Release)
	if err != nil {
		return tried{}, err
	}
	never, kept := d.neverInstalled(all), d.keepsObjects(all)
	next := made.attempt(want)
	next.stage, next.fresh = stage, never && !kept
	events := installHooks
	if len(all) > 0 && all[0].exists() && !never {
		record, err := d.record(ctx, want.Release, comparedWith(all))
		if err != nil {
			return tried{}, err
		}
		next.before, events = manifestObjects(record.Manifest), upgradeHooks
	}
	for _, hook := range made.hooks {
		if runsFor(hook, events) {
			next.hooks = append(next.hooks, decodeObjects(want.file(hook.Path), hook.Manifest)...)
		}
	}
	found, err := d.try(ctx, next)
	found.kept = kept
	return found, err
}

// attempt is what a release is rendered to, as if it were not there.
func (made rendered) attempt(want *desired) attempt {
	return attempt{Release: want.Release, objects: made.objects, crds: made.definitions}
}

// comparedWith returns the revision that Helm compares the next one with.
func comparedWith(all []revision) int {
	for _, known := range all {
		if known.status == release.StatusDeployed {
			return known.version
		}
	}
	return all[0].version
}

var dryRunAll = []string{metav1.DryRunAll}

// attempt is a revision that is about to be written.
type attempt struct {
	Release
	stage   event.Stage
	objects []manifestObject
	hooks   []manifestObject
	crds    []manifestObject // of the chart's folder of that name, and namespaces
	before  []manifestObject // of the revision that Helm compares it with
	fresh   bool             // the release's objects are deleted first
}

// tried is what an attempt has found out about objects that are there.
type tried struct {
	recreate []recreation    // have to be deleted first
	foreign  []foreignObject // are not the release's
	kept     bool            // stay though the release was never fully installed
}

// describes tells whether a CRD of the release describes an object's kind, which may be another one
// once the CRD is written.
func (a attempt) describes(o manifestObject) bool {
	return slices.ContainsFunc(slices.Concat(a.crds, a.objects), func(crd manifestObject) bool {
		if crd.GetKind() != "CustomResourceDefinition" {
			return false
		}
		group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
		return o.GetKind() == kind && o.GroupVersionKind().Group == group
	})
}

// bringsPolicies tells whether the release itself may change what the API server admits.
func (a attempt) bringsPolicies() bool {
	return slices.ContainsFunc(a.objects, func(o manifestObject) bool {
		return o.GroupVersionKind().Group == "admissionregistration.k8s.io"
	})
}

// original returns an object as the revision before has it, nil if it does not.
func (a attempt) original(o object) *unstructured.Unstructured {
	for _, before := range a.before {
		if before.in(a.Namespace).same(o) {
			return before.Unstructured
		}
	}
	return nil
}

// try tries what Helm would write, all of it at once.
func (d *Deployer) try(ctx context.Context, a attempt) (found tried, err error) {
	group, ctx := event.NewGroup(ctx)
	group.SetLimit(maxRequests)
	var mu sync.Mutex
	for _, o := range a.objects {
		if a.describes(o) {
			continue
		}
		group.Go(func() error {
			one, err := d.tryObject(ctx, a, o)
			mu.Lock()
			defer mu.Unlock()
			found.recreate = append(found.recreate, one.recreate...)
			found.foreign = append(found.foreign, one.foreign...)
			return err
		})
	}
	for _, o := range a.crds {
		switch {
		case o.GetKind() == "CustomResourceDefinition":
			group.Go(func() error { return a.outcome(o, d.tryCRD(ctx, o)) })
		case o.GroupVersionKind().GroupKind() == namespaceKind:
			group.Go(func() error { return a.outcome(o, d.sendNamespace(ctx, a.Release, o.Unstructured, dryRunAll)) })
		}
	}
	for _, o := range a.hooks { // Helm deletes what earlier hooks made
		if a.describes(o) {
			continue
		}
		group.Go(func() error {
			if api, err := d.resource(o.in(a.Namespace)); err == nil {
				return a.outcome(o, d.tryNew(ctx, a, api, o))
			}
			return nil
		})
	}
	err = group.Wait()
	return found, err
}

// tryObject tries the very patch that Helm would send, or the creation of an object that is not
// there.
func (d *Deployer) tryObject(ctx context.Context, a attempt, o manifestObject) (found tried, err error) {
	id := o.in(a.Namespace)
	api, err := d.resource(id)
	if err != nil {
		return found, nil //nolint:nilerr // a command of the user's, or another release, may bring its kind
	}
	var live *unstructured.Unstructured
	if id.name != "" { // else the API server says so
		live, err = api.Get(ctx, id.name, metav1.GetOptions{})
	}
	switch {
	case live == nil, apierrors.IsNotFound(err):
		return found, a.outcome(o, d.tryNew(ctx, a, api, o))
	case err != nil:
		return found, a.outcome(o, err)
	case live.GetDeletionTimestamp() != nil:
		return found, nil // its end is awaited
	}
	original := a.original(id)
	if owner, foreign := ownerOf(a.Release, live, original != nil); foreign {
		found.foreign = []foreignObject{{o, owner}}
		if d.mayTakeOver(a.Release, found.foreign) != nil { // or not yet: validation compares the releases later
			return found, nil
		}
	}
	if a.fresh {
		return found, a.outcome(o, d.tryNew(ctx, a, api, o))
	}
	target := withOwner(a.Release, o.Unstructured)
	patch, err := threeWayPatch(original, target, live)
	if err != nil {
		return found, a.refusal(o, err)
	}
	if patch.isEmpty() {
		return found, nil
	}
	err = a.strictly(o, func(validation string) error {
		_, err := api.Patch(ctx, id.name, patch.format, patch.data,
			metav1.PatchOptions{DryRun: dryRunAll, FieldManager: kube.FieldManager, FieldValidation: validation})
		return err
	})
	if err == nil || !a.isMistake(err) && !refusesChange(err) {
		return found, a.outcome(o, err)
	}
	change := immutableChange{object: id, cause: err, changed: changedFields(cmp.Or(original, live), target)}
	recreate, err := d.refusedChange(ctx, a, o, api, live, change)
	if recreate != nil {
		found.recreate = append(found.recreate, *recreate)
	}
	return found, err
}

// refusedChange returns a live object that has to be deleted first, since the API server refuses to
// change it, or why that ends the attempt.
func (d *Deployer) refusedChange(ctx context.Context, a attempt, o manifestObject, api dynamic.ResourceInterface,
	live *unstructured.Unstructured, change immutableChange,
) (*recreation, error) {
	// The API server validates a new object before it looks for one of that name. So if it finds
	// one, only the change is at fault.
	_, asNew := api.Create(ctx, o.Unstructured,
		metav1.CreateOptions{DryRun: dryRunAll, FieldValidation: metav1.FieldValidationIgnore})
	switch {
	case !apierrors.IsAlreadyExists(asNew):
		return nil, a.outcome(o, change.cause)
	case strings.Contains(change.cause.Error(), "cannot patch resource"): // by its authorizer
		return nil, event.WithHint(fmt.Errorf("release %s: %s: %s: %w", a.ID(), o.file, change.object, change.cause),
			"the user of your kubeconfig may not change it: ask for that permission, or undo the change")
	case safeToRecreate(live) && belongsTo(live, a.Release):
		return &recreation{object: change.object, uid: live.GetUID(), fields: change.fields()}, nil
	}
	return nil, event.WithHint(fmt.Errorf("release %s: %s: %w", a.ID(), o.file, change),
		change.hint(d.isNamespaced(change.object)))
}

// tryNew tries to create an object, so only its content counts: one of that name may be there.
func (d *Deployer) tryNew(ctx context.Context, a attempt, api dynamic.ResourceInterface, o manifestObject) error {
	return a.strictly(o, func(validation string) error {
		_, err := api.Create(ctx, o.Unstructured,
			metav1.CreateOptions{DryRun: dryRunAll, FieldValidation: validation})
		return err
	})
}

// tryCRD tries to apply a CRD of a chart's own folder for them.
func (d *Deployer) tryCRD(ctx context.Context, crd manifestObject) error {
	before, ours, err := d.findCRD(ctx, crd.GetName())
	if err != nil || !ours {
		return err
	}
	_, err = d.sendCRD(ctx, crd.Unstructured, before, dryRunAll)
	return err
}

// strictly tries a write. Unknown fields, which Helm ignores, are mostly typos: they are reported.
func (a attempt) strictly(o manifestObject, write func(fieldValidation string) error) error {
	err := write(metav1.FieldValidationStrict)
	if err == nil {
		return nil
	}
	_, unknown, found := strings.Cut(err.Error(), "strict decoding error: ")
	if !found {
		return err
	}
	a.stage.Warn("the API server will ignore some fields", errors.New(unknown),
		"release", event.Name(a.Name), "template", o.file, "object", o.in(a.Namespace).String())
	return write(metav1.FieldValidationIgnore)
}

// outcome returns what ends the attempt: a mistake, or an API server that is too busy to tell.
func (a attempt) outcome(o manifestObject, err error) error {
	switch {
	case err == nil:
		return nil
	case a.isMistake(err):
		return a.refusal(o, err)
	case apierrors.IsInternalError(err): // dry runs may not be supported
		return nil
	}
	if err := markBusy(err); event.IsTransient(err) {
		return fmt.Errorf("release %s: try %s: %w", a.ID(), o.in(a.Namespace), err)
	}
	return nil
}

func (a attempt) refusal(o manifestObject, err error) error {
	return event.WithHint(fmt.Errorf("release %s: %s: %s %s: the API server rejects it: %w", a.ID(), o.file,
		o.GetKind(), o.GetName(), briefly(err, o.GetKind())), a.hintFix())
}

// isMistake tells whether an object was refused for its content. Not every admission webhook
// supports dry runs, and one may consider more than the object; a policy does not, unless the
// release brings it or what it asks for. A port or an address may be free by the time of the write.
func (a attempt) isMistake(err error) bool {
	text := strings.ToLower(err.Error())
	policy := strings.Contains(text, "validatingadmissionpolicy")
	switch {
	case policy && a.bringsPolicies(), !policy && strings.Contains(text, "admission"):
		return false
	case withoutDryRun(err), strings.Contains(text, "webhook"), strings.Contains(text, "already allocated"),
		strings.Contains(text, "no params found"):
		return false
	case strings.Contains(text, wrongTypes):
		return true
	}
	return apierrors.IsBadRequest(err) || apierrors.IsInvalid(err)
}

// refusesChange tells whether an error may be about the change of an object that is there, such as
// the size of a claim. A quota may have room by the time of the write.
func refusesChange(err error) bool {
	text := strings.ToLower(err.Error())
	return apierrors.IsForbidden(err) && !strings.Contains(text, "quota") && !strings.Contains(text, "admission") &&
		!strings.Contains(text, "webhook")
}

// isNamespaced tells whether objects of that kind lie in a namespace.
func (d *Deployer) isNamespaced(o object) bool {
	_, namespace, err := d.endpoint(o)
	return err == nil && namespace != ""
}
