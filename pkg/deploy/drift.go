package deploy

// Drift is what others have changed in the objects of a release since it was applied. It is looked
// for in a release that is up to date, and reverted object by object, from Helm's record: rendering
// again would change random values, and a new revision would run hooks.

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// maxRestores is how often a field that an unknown program changes is reverted. A program that
	// then sets it again is taken for a controller.
	maxRestores = 2
	// maxConflicts is how often an object may change while it is compared or reverted.
	maxConflicts = 5
	// maxShown limits the fields that a message names.
	maxShown = 5
)

// drift is an object that is not as its release was applied.
type drift struct {
	object
	comparison *comparison
	live       *unstructured.Unstructured // nil if it is gone
	owners     fieldOwners                // of live
	ending     bool                       // it is being deleted
	restored   *unstructured.Unstructured // what has to be written
	result     *unstructured.Unstructured // what would come of that write, if the API server can tell
	changes    []change
	refused    error    // why the API server rejects it
	unmarked   bool     // it no longer has the marks of the release
	mayScale   bool     // an autoscaler may scale it: that could not be found out
	fields     []string // IDs of the fields that were compared
}

// change is a field that was changed.
type change struct {
	difference
	by []fieldManager
}

// isGone tells whether the object has to be created again.
func (f drift) isGone() bool { return f.live == nil || f.ending }

// comparison compares the objects of one revision with the live ones.
type comparison struct {
	*Deployer
	stage    event.Stage
	release  Release
	revision revision
	released time.Time       // what people's tools did until then is part of the release
	only     map[string]bool // fields that count, nil for all

	mu     sync.Mutex
	scaled map[string]func() (map[string]bool, error) // by namespace, what autoscalers scale
}

// drifts returns what others have changed in the objects of a release since its last revision was
// applied.
func (d *Deployer) drifts(ctx context.Context, stage event.Stage, r Release, last revision) ([]drift, error) {
	return d.compare(ctx, &comparison{Deployer: d, stage: stage, release: r, revision: last, released: last.settled.Time})
}

// driftsLeft returns what a new revision has left of the changes that were found before.
func (d *Deployer) driftsLeft(ctx context.Context, stage event.Stage, r Release, now revision, before []drift,
) ([]drift, error) {
	c := &comparison{Deployer: d, stage: stage, release: r, revision: now, only: map[string]bool{}}
	for _, one := range before {
		c.released = one.comparison.released
		for _, field := range one.fields {
			c.only[field] = true
		}
	}
	found, err := d.compare(ctx, c)
	return slices.DeleteFunc(found, func(f drift) bool { return len(f.changes) == 0 }), err
}

func (d *Deployer) compare(ctx context.Context, c *comparison) ([]drift, error) {
	r, last := c.release, c.revision
	made, err := d.contentsOf(ctx, r, last.version)
	if err != nil {
		return nil, err
	}
	c.scaled = map[string]func() (map[string]bool, error){}
	if !made.hooks && len(r.Before)+len(r.After) == 0 {
		c.released = time.Time{}
	}
	all := make([]*drift, len(made.objects))
	group, ctx := event.NewGroup(ctx)
	group.SetLimit(maxRequests)
	for i, o := range made.objects {
		group.Go(func() (err error) {
			if all[i], err = c.compareOne(ctx, o); err != nil {
				return fmt.Errorf("release %s: compare %s with what was applied: %w", r.ID(), o, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var found []drift
	for _, one := range all {
		if one != nil {
			found = append(found, *one)
		}
	}
	return found, nil
}

// compareOne returns the drift of an object, nil if there is none.
func (c *comparison) compareOne(ctx context.Context, o object) (*drift, error) {
	if o.definition && o.kind.Kind == "CustomResourceDefinition" && c.justRead(o.name) != nil {
		return nil, nil
	}
	api, err := c.resource(o)
	if meta.IsNoMatchError(err) { // its kind is gone
		return &drift{object: o, comparison: c}, nil
	}
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		live, err := api.Get(ctx, o.name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) && o.expires:
			return nil, nil
		case apierrors.IsNotFound(err):
			return &drift{object: o, comparison: c}, nil
		case err != nil:
			return nil, err
		case live.GetDeletionTimestamp() != nil:
			return c.ending(o, live), nil
		case o.definition, c.isClean(o, live):
			return nil, nil
		}
		found := c.wanted(ctx, o, live)
		intended := found.owners.differences(nil, live.Object, found.restored.Object)
		if len(intended) == 0 {
			c.markClean(found)
			return nil, nil
		}
		found.result, err = api.Update(ctx, found.restored,
			metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: kube.FieldManager})
		switch {
		case (apierrors.IsConflict(err) || apierrors.IsNotFound(err)) && try < maxConflicts:
			continue
		case refuses(err) && !withoutDryRun(err):
			found.refused = err
		case err != nil && !withoutDryRun(err):
			return nil, err
		}
		return c.confirm(found, intended), nil
	}
}

// wanted returns an object with what it should be.
func (c *comparison) wanted(ctx context.Context, o object, live *unstructured.Unstructured) *drift {
	found := &drift{object: o, comparison: c, live: live, owners: ownersOf(live, c.released)}
	manifest := withOwner(c.release, o.content)
	if !belongsTo(live, c.release) && !wasStripped(live) {
		manifest, found.unmarked = o.content, true
	}
	r := restoration{found.owners, func(path fieldpath.Path, set []fieldManager) bool {
		field := fieldID(o, path)
		if c.only != nil && !c.only[field] || c.leftToOthers(o, path, set) {
			return true
		}
		if path.String() == ".spec.replicas" {
			scaled, err := c.isScaled(ctx, o)
			found.mayScale = err != nil
			if scaled || err != nil { // there may be an autoscaler
				return true
			}
		}
		found.fields = append(found.fields, field)
		return false
	}}
	found.restored = r.restored(live, withEncodedData(manifest))
	return found
}

// wasStripped tells whether an object that devloop wrote has lost the marks of its release, as by
// kubectl replace. Who makes an object anew starts with an empty list of managers.
func wasStripped(live *unstructured.Unstructured) bool {
	return live.GetAnnotations()[kube.AnnotationRelease] == "" && slices.ContainsFunc(live.GetManagedFields(),
		func(entry metav1.ManagedFieldsEntry) bool { return entry.Manager == kube.FieldManager })
}

// confirm returns the drift if the API server would change at least one of the intended fields.
// Values may differ only in their form, and webhooks may set them again.
func (c *comparison) confirm(found *drift, intended []difference) *drift {
	owners := found.owners
	for _, one := range intended {
		set := owners.of(one.path)
		if found.result != nil {
			one.was = owners.walk(found.result.Object, one.path)
			if same := owners.differences(one.path, one.live, one.was); len(same) == 0 {
				continue
			}
		} else if !by(set, person) {
			continue // the API server does not say what it would make of it: only people are held to that
		}
		found.changes = append(found.changes, change{one, set})
	}
	marks := found.live.GetAnnotations()
	switch {
	case len(found.changes) == 0:
		c.markClean(found)
		return nil
	case found.unmarked && marks[kube.AnnotationRelease] != "":
		c.stage.Warn("object is left as it is: another release owns it now", nil, "release", event.Name(c.release.Name),
			"object", found.String(), "owner", marks[kube.AnnotationReleaseNamespace]+"/"+marks[kube.AnnotationRelease])
		return nil
	}
	return found
}

// ending returns the drift of an object that is being deleted. A volume claim that is in use stays
// until its pods end.
func (c *comparison) ending(o object, live *unstructured.Unstructured) *drift {
	if o.expires {
		return nil
	}
	if o.kind.Kind == "PersistentVolumeClaim" {
		c.stage.Warn("volume claim is being deleted: it goes when the pods that use it end", nil,
			"release", event.Name(c.release.Name), "object", o.String())
		return nil
	}
	return &drift{object: o, comparison: c, live: live, ending: true}
}

// leftToOthers tells whether a field is left to a program that set it again each time it was
// reverted.
func (c *comparison) leftToOthers(o object, path fieldpath.Path, set []fieldManager) bool {
	if by(set, person) {
		return false
	}
	field := fieldID(o, path)
	c.Deployer.mu.Lock()
	times := c.restores[field]
	if times == maxRestores {
		c.restores[field]++
	}
	c.Deployer.mu.Unlock()
	if times == maxRestores {
		c.stage.Note("field is left as it is: it changes again each time it is reverted",
			"release", event.Name(c.release.Name), "object", o.String(), "field", fieldText(path), "by", managerNames(set))
	}
	return times >= maxRestores
}

// isScaled tells whether an autoscaler sets the object's replicas, whoever wrote them last.
func (c *comparison) isScaled(ctx context.Context, o object) (bool, error) {
	c.mu.Lock()
	targets := c.scaled[o.namespace]
	if targets == nil {
		targets = sync.OnceValues(func() (map[string]bool, error) {
			list, err := c.cluster.Client.AutoscalingV2().HorizontalPodAutoscalers(o.namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, err
			}
			found := map[string]bool{}
			for _, scaler := range list.Items {
				found[scaler.Spec.ScaleTargetRef.Kind+"/"+scaler.Spec.ScaleTargetRef.Name] = true
			}
			return found, nil
		})
		c.scaled[o.namespace] = targets
	}
	c.mu.Unlock()
	found, err := targets()
	return found[o.kind.Kind+"/"+o.name], err
}

// isClean tells whether that version of the object was compared before, without finding drift.
func (c *comparison) isClean(o object, live *unstructured.Unstructured) bool {
	c.Deployer.mu.Lock()
	defer c.Deployer.mu.Unlock()
	return c.clean[c.cleanID(o)] == versionOf(live)
}

func (c *comparison) markClean(found *drift) {
	if c.only != nil || found.mayScale {
		return
	}
	c.Deployer.mu.Lock()
	defer c.Deployer.mu.Unlock()
	c.clean[c.cleanID(found.object)] = versionOf(found.live)
}

func (c *comparison) cleanID(o object) string {
	return revisionID(c.release, c.revision.version) + " " + objectID(o)
}

func versionOf(live metav1.Object) string {
	return string(live.GetUID()) + "@" + live.GetResourceVersion()
}

func objectID(o object) string {
	return o.kind.GroupKind().String() + " " + o.namespace + "/" + o.name
}

func fieldID(o object, path fieldpath.Path) string { return objectID(o) + " " + path.String() }

// withEncodedData returns a secret as the API server stores it.
func withEncodedData(manifest *unstructured.Unstructured) *unstructured.Unstructured {
	plain, found, _ := unstructured.NestedStringMap(manifest.Object, "stringData")
	if !found || manifest.GetKind() != "Secret" {
		return manifest
	}
	encoded := manifest.DeepCopy()
	data, _, _ := unstructured.NestedMap(encoded.Object, "data")
	if data == nil {
		data = map[string]any{}
	}
	for name, text := range plain {
		data[name] = base64.StdEncoding.EncodeToString([]byte(text))
	}
	encoded.Object["data"] = data
	delete(encoded.Object, "stringData")
	return encoded
}

// refuses tells whether the API server, or a policy, does not take a write for what it is.
func refuses(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err)
}

// withoutDryRun tells whether a webhook does not take part in dry runs.
func withoutDryRun(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "dry run") || strings.Contains(text, "dryrun")
}
