package deploy

// Helm installs the CRDs in a chart's crds folder once and never updates them. Here changes are
// applied to those that devloop made. The others are left alone, as by Helm.

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1",
	Resource: "customresourcedefinitions"}

// isOurCRD tells whether devloop made a CRD for this project. The field manager alone does not say
// so: another project's devloop has the same.
func (d *Deployer) isOurCRD(there metav1.Object) bool {
	name := there.GetName()
	written := slices.ContainsFunc(there.GetManagedFields(),
		func(f metav1.ManagedFieldsEntry) bool { return f.Manager == kube.FieldManager })
	return written && d.journal.Has(journal.CRD, name) && d.matchesUID(journal.CRD, name, there.GetUID())
}

// establishTimeout is how long the API server may take to serve a new kind.
const establishTimeout = 30 * time.Second

// applyCRDs applies a chart's CRDs, and waits until the API server serves them.
func (d *Deployer) applyCRDs(
	ctx context.Context, stage event.Stage, r Release, definitions []manifestObject, w *writeLog,
) error {
	crds := slices.DeleteFunc(slices.Clone(definitions),
		func(o manifestObject) bool { return o.GetKind() != "CustomResourceDefinition" })
	if len(crds) == 0 {
		return nil
	}
	ours := make([]bool, len(crds))
	group, groupCtx := event.NewGroup(ctx)
	group.SetLimit(maxRequests)
	for i, crd := range crds {
		group.Go(func() (err error) {
			if ours[i], err = d.applyCRD(groupCtx, stage, crd.Unstructured, w); err != nil {
				return fmt.Errorf("release %s: CRD %s: %w", r.ID(), crd.GetName(), err)
			}
			return nil
		})
	}
	err := group.Wait()
	n := w.count(appliedCRD)
	if n > 0 || err != nil {
		d.cluster.InvalidateCapabilities()
	}
	if n > 0 {
		stage.Note(event.CRDsApplied, "release", event.Name(r.Name), "count", n)
	}
	if err != nil {
		return err
	}
	for i, crd := range crds {
		if ours[i] {
			if err := d.awaitKind(ctx, crd.Unstructured); err != nil {
				return fmt.Errorf("release %s: CRD %s: %w", r.ID(), crd.GetName(), err)
			}
		}
	}
	return nil
}

// findCRD returns the live CRD of a name, nil if there is none, and whether devloop may write it.
func (d *Deployer) findCRD(
	ctx context.Context, name string,
) (live *metav1.PartialObjectMetadata, ours bool, err error) {
	live, err = d.cluster.Metadata.Resource(definitions).Get(ctx, name, metav1.GetOptions{})
	d.noteRead(name, live, err)
	if apierrors.IsNotFound(err) {
		return nil, true, nil
	}
	return live, err == nil && d.isOurCRD(live), err
}

// sendCRD writes a CRD in the place of before, which is nil for a new one. It sends nothing where
// the same patch is known to change nothing: merging a schema takes the API server long.
func (d *Deployer) sendCRD(
	ctx context.Context, crd *unstructured.Unstructured, before *metav1.PartialObjectMetadata, dryRun []string,
) (*metav1.PartialObjectMetadata, error) {
	patch, err := crdPatch(crd, before)
	if err != nil {
		return nil, err
	}
	if before != nil && d.isSettled(before, patch) {
		return before, nil
	}
	force := true // a user may have changed it by hand
	after, err := d.cluster.Metadata.Resource(definitions).Patch(ctx, crd.GetName(), types.ApplyPatchType, patch,
		metav1.PatchOptions{FieldManager: kube.FieldManager, Force: &force, DryRun: dryRun})
	if err != nil {
		return nil, mistyped(err)
	}
	if len(dryRun) == 0 { // what another chart's CRD of that name was settled in is no more
		d.noteRead(crd.GetName(), after, nil)
	}
	// A change of the schema shows in the generation, in a dry run as well.
	if before != nil && equality.Semantic.DeepEqual(before.ObjectMeta, after.ObjectMeta) {
		d.settle(before, patch)
	}
	return after, nil
}

// crdPatch is what is sent to write a CRD in the place of before.
func crdPatch(crd *unstructured.Unstructured, before *metav1.PartialObjectMetadata) ([]byte, error) {
	content := crd.DeepCopy()
	if before != nil {
		content.SetUID(before.GetUID()) // makes the API server refuse it for another one of that name
	}
	return json.Marshal(content)
}

// settledCRD is a live CRD, and the sum of a patch that changes nothing in it.
type settledCRD struct {
	live   *metav1.PartialObjectMetadata
	patch  [sha256.Size]byte
	readAt time.Time // by the wall clock; zero once that was too long ago
}

// isSettled tells whether a patch is known to change nothing in that version of a CRD.
func (d *Deployer) isSettled(live *metav1.PartialObjectMetadata, patch []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	known, ok := d.settled[live.GetName()]
	return ok && versionOf(known.live) == versionOf(live) && known.patch == sha256.Sum256(patch)
}

// noteRead notes when a settled CRD was last read, or that it is not as it was any more.
func (d *Deployer) noteRead(name string, live *metav1.PartialObjectMetadata, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	known, ok := d.settled[name]
	switch {
	case !ok:
	case apierrors.IsNotFound(err), err == nil && versionOf(known.live) != versionOf(live):
		delete(d.settled, name)
	case err == nil:
		known.live, known.readAt = live, time.Now().Round(0)
		d.settled[name] = known
	}
}

func (d *Deployer) settle(live *metav1.PartialObjectMetadata, patch []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled[live.GetName()] = settledCRD{live, sha256.Sum256(patch), time.Now().Round(0)}
}

// justRead returns a CRD that Validate, or an earlier step of this Apply, has read a moment ago and
// found settled; nil if there is none, or if it is being deleted. A chart may have dozens. What
// somebody changes within that moment is found when the release is written the next time.
func (d *Deployer) justRead(name string) *metav1.PartialObjectMetadata {
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.settled[name]
	if !isRecent(known.readAt) || known.live.GetDeletionTimestamp() != nil {
		return nil
	}
	return known.live
}

// justSettled returns devloop's own CRD if it was just read and writing crd would change nothing in
// it, else nil.
func (d *Deployer) justSettled(crd *unstructured.Unstructured) *metav1.PartialObjectMetadata {
	live := d.justRead(crd.GetName())
	if live == nil || !d.isOurCRD(live) {
		return nil
	}
	if patch, err := crdPatch(crd, live); err != nil || !d.isSettled(live, patch) {
		return nil
	}
	return live
}

// wrongTypes is how the API server refuses an apply with fields of wrong types.
const wrongTypes = "failed to create typed patch object"

// mistyped returns an error without what it is not: for fields of wrong types, the API server calls
// it an internal error, as if it might pass.
func mistyped(err error) error {
	if err != nil && strings.Contains(err.Error(), wrongTypes) {
		return errors.New(err.Error())
	}
	return err
}

// awaitKind waits until the API server lists a CRD's kind, which it does a moment after it has
// established the CRD: before that, Helm cannot write an object of it.
func (d *Deployer) awaitKind(ctx context.Context, crd *unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeoutCause(ctx, establishTimeout, fmt.Errorf("not listed after %s", establishTimeout))
	defer cancel()
	var made schema.GroupKind
	made.Group, _, _ = unstructured.NestedString(crd.Object, "spec", "group")
	made.Kind, _, _ = unstructured.NestedString(crd.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	return d.until(ctx, func() (string, error) {
		if _, err := d.cluster.Capabilities(ctx); err != nil { // asks again after Wrote
			return "", err
		}
		for _, version := range versions {
			if v, ok := version.(map[string]any); ok && v["served"] == true {
				_, err := d.cluster.Mapper.RESTMapping(made, fmt.Sprint(v["name"]))
				if meta.IsNoMatchError(err) {
					d.cluster.InvalidateCapabilities()
					return "the API server", nil
				}
				if err != nil {
					return "", err
				}
			}
		}
		return "", nil
	})
}

// appliedCRD is the verb of writeLog for a CRD.
const appliedCRD = "applied the CRD"

// applyCRD applies a CRD unless it is someone else's.
func (d *Deployer) applyCRD(
	ctx context.Context, stage event.Stage, crd *unstructured.Unstructured, w *writeLog,
) (ours bool, err error) {
	if live := d.justSettled(crd); live != nil {
		return true, d.recordCRD(live)
	}
	before, ours, err := d.findCRD(ctx, crd.GetName())
	if err != nil {
		return false, err
	}
	if !ours {
		stage.Detail("CRD stays as it is, devloop did not make it", "crd", crd.GetName())
		return false, nil
	}
	if before == nil {
		if err := d.journal.Record(journal.CRD, crd.GetName()); err != nil {
			return false, err
		}
	}
	after, err := d.sendCRD(ctx, crd, before, nil)
	if err != nil {
		return false, err
	}
	if err := d.recordCRD(after); err != nil {
		return false, err
	}
	if before == nil || before.GetGeneration() != after.GetGeneration() {
		w.add(appliedCRD, crd.GetName())
		stage.Detail("CRD applied", "crd", crd.GetName())
	}
	return true, nil
}

// recordCRD records which CRD of its name devloop may delete, and whose it is.
func (d *Deployer) recordCRD(live *metav1.PartialObjectMetadata) error {
	return errors.Join(d.recordUID(journal.CRD, live.GetName(), live.GetUID()),
		d.recordFolder(journal.CRD, live.GetName()))
}

// removeCRDs deletes the CRDs that devloop made, or reports that they stay.
func (d *Deployer) removeCRDs(ctx context.Context, stage event.Stage, remove bool) error {
	var (
		stay []string
		errs []error
	)
	api := d.cluster.Dynamic.Resource(definitions)
	for _, name := range d.journal.Names(journal.CRD) {
		if folder, other := d.otherFolder(journal.CRD, name); other {
			if remove {
				stage.Warn("CRD left alone, it was made from another folder", nil, "crd", name, "folder", folder, "remove it with",
					"devloop delete --crds there")
			}
			continue
		}
		there, err := api.Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && !d.isOurCRD(there): // someone else's of that name
			errs = append(errs, d.forgetEntry(journal.CRD, name))
			continue
		case err != nil:
			errs = append(errs, fmt.Errorf("CRD %s: %w", name, err))
			continue
		case !remove:
			stay = append(stay, name)
			continue
		}
		errs = append(errs, stage.Step(ctx, "CRD deleted", func(ctx context.Context) ([]any, error) {
			return nil, d.removeCRD(ctx, stage, there)
		}, "crd", name))
	}
	if len(stay) > 0 {
		stage.Note("CRDs stay, with all objects of their kinds", "crds", abbreviate(stay), "remove them with",
			"devloop delete --crds")
	}
	d.cluster.InvalidateCapabilities()
	return errors.Join(errs...)
}

// removeCRD deletes a CRD, and waits until it and all objects of its kind are gone.
func (d *Deployer) removeCRD(ctx context.Context, stage event.Stage, crd *unstructured.Unstructured) error {
	api, name := d.cluster.Dynamic.Resource(definitions), crd.GetName()
	err := api.Delete(ctx, name, metav1.DeleteOptions{Preconditions: onlyUID(crd.GetUID())})
	if err != nil && !isGone(err) {
		return fmt.Errorf("delete CRD %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still there after %s", goneTimeout))
	defer cancel()
	err = d.awaitGone(ctx, stage, func() ([]ending, error) {
		now, err := api.Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && now.GetUID() != crd.GetUID():
			return nil, nil
		case err != nil:
			return nil, err
		}
		left := d.objectsOfCRD(ctx, now)
		return append(left, endingObject(definitions.GroupResource(), now)), nil
	})
	if err != nil {
		return err
	}
	return d.forgetEntry(journal.CRD, name)
}

// objectsOfCRD returns the objects of a CRD's kind that are left, none if they cannot be listed.
func (d *Deployer) objectsOfCRD(ctx context.Context, crd *unstructured.Unstructured) (left []ending) {
	stored, _, _ := unstructured.NestedStringSlice(crd.Object, "status", "storedVersions")
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	for _, version := range stored {
		resource := schema.GroupVersionResource{Group: group, Version: version, Resource: plural}
		objects, err := d.cluster.Dynamic.Resource(resource).List(ctx, metav1.ListOptions{})
		if err != nil { // not served
			continue
		}
		for i := range objects.Items {
			left = append(left, endingObject(resource.GroupResource(), &objects.Items[i]))
		}
		return left
	}
	return nil
}
