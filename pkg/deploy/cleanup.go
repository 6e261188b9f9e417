// Cleaning up: what users made through the platform first, then releases in reverse order, then namespaces that devloop made and
// that hold nothing else. Only what the journal names is deleted.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

// Deadlines of a clean-up's waits. Pods may take their grace period (traefik's is 60 s) to end.
const (
	goneTimeout = 60 * time.Second
	// shownNames is how many names a line of the log has at most.
	shownNames = 5
	// finalizerTimeout is how long the controller of what users made may take to do its part: Dask's pods have 30 s to end.
	finalizerTimeout = 40 * time.Second
)

// Removal says what a clean-up removes.
type Removal struct {
	Before  []string // resources ("daskclusters.gateway.dask.org") of which all objects in the namespaces of our releases go first
	CRDs    bool     // definitions that devloop made, and with them all objects of their kinds
	Volumes bool     // claims that stateful sets of our releases made
}

// Cleanup removes what was deployed: first objects that users made, the releases in reverse order, then empty namespaces. Releases that
// are ours and no longer in devloop.yaml go, too, if they were made from its folder. It continues after an error, so that one trouble does not keep the rest.
func (d *Deployer) Cleanup(ctx context.Context, sink event.Sink, releases []Release, what Removal) error {
	stage := sink.For("cleanup")
	var (
		ours       []Release
		namespaces []string
		unsure     []string // namespaces in which something of ours may still be
		errs       = []error{d.RemoveTrials(ctx)}
	)
	recorded, elsewhere := d.recorded(ordered(releases))
	errs = append(errs, d.reportOtherFolders(ctx, stage, elsewhere))
	for _, r := range recorded {
		owned, err := d.stillOurs(ctx, r)
		if err != nil {
			errs = append(errs, err)
			unsure = append(unsure, r.Namespace)
		}
		if !owned {
			continue
		}
		ours = append(ours, r)
		if !slices.Contains(namespaces, r.Namespace) {
			namespaces = append(namespaces, r.Namespace)
		}
	}
	for _, resource := range what.Before {
		for _, namespace := range namespaces {
			errs = append(errs, d.deleteAll(ctx, stage, resource, namespace, ours))
		}
	}
	for _, r := range slices.Backward(ours) {
		if err := d.uninstall(ctx, stage, r); err != nil {
			errs = append(errs, err)
			unsure = append(unsure, r.Namespace)
		}
	}
	errs = append(errs, d.removeClaims(ctx, stage, what.Volumes), d.removeCRDs(ctx, stage, what.CRDs))
	for _, namespace := range d.journal.Names(journal.Namespace) {
		if !slices.Contains(unsure, namespace) {
			errs = append(errs, d.deleteNamespace(ctx, stage, namespace))
		}
	}
	return errors.Join(errs...)
}

// ordered puts releases behind those that they depend on.
func ordered(releases []Release) []Release {
	var done []Release
	in := func(name string) bool {
		return slices.ContainsFunc(done, func(r Release) bool { return r.Name == name })
	}
	for len(done) < len(releases) {
		before := len(done)
		for _, r := range releases {
			if !in(r.Name) && !slices.ContainsFunc(r.DependsOn, func(name string) bool { return !in(name) }) {
				done = append(done, r)
			}
		}
		if len(done) == before {
			return releases // they depend on each other, or on one that is not there: devloop.yaml's check is for that
		}
	}
	return done
}

// recorded returns the releases that the journal permits to delete: first those that are no longer in devloop.yaml, then the
// others in devloop.yaml's order. Those in elsewhere, by ID, are of another folder's devloop.yaml with the same project name.
func (d *Deployer) recorded(releases []Release) (ours []Release, elsewhere []string) {
	for _, id := range d.journal.Names(journal.Release) {
		if slices.ContainsFunc(releases, func(r Release) bool { return r.ID() == id }) {
			continue
		}
		if _, other := d.otherFolder(journal.Release, id); other {
			elsewhere = append(elsewhere, id)
			continue
		}
		namespace, name, _ := strings.Cut(id, "/")
		ours = append(ours, Release{Name: name, Namespace: namespace})
	}
	for _, r := range releases {
		if d.journal.Has(journal.Release, r.ID()) {
			ours = append(ours, r)
		}
	}
	return ours, elsewhere
}

// reportOtherFolders says which releases of another folder are left alone.
func (d *Deployer) reportOtherFolders(ctx context.Context, stage event.Stage, ids []string) error {
	var there, folders []string
	var errs []error
	for _, id := range ids {
		folder, _ := d.otherFolder(journal.Release, id)
		namespace, name, _ := strings.Cut(id, "/")
		still, err := d.stillOurs(ctx, Release{Name: name, Namespace: namespace})
		if errs = append(errs, err); !still {
			continue
		}
		there = append(there, id)
		if !slices.Contains(folders, folder) {
			folders = append(folders, folder)
		}
	}
	if len(there) > 0 {
		stage.Warn("releases left alone, they were made from another folder", nil, "releases", abbreviate(there), "folder", strings.Join(folders, " "),
			"remove them with", "devloop delete there, or helm uninstall")
	}
	return errors.Join(errs...)
}

// stillOurs looks whether the release is there and ours; if not, the journal forgets it.
func (d *Deployer) stillOurs(ctx context.Context, r Release) (bool, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, kube.AnswerTimeout, fmt.Errorf("no answer after %s", kube.AnswerTimeout))
	defer cancel()
	var last revision
	err := d.until(ctx, func() (_ string, err error) {
		last, err = d.last(ctx, r)
		return "", err
	})
	if err != nil {
		return false, err
	}
	if last.version == 0 || !d.owns(r, last) {
		return false, d.forgetRelease(r)
	}
	return true, nil
}

// deleteAll deletes the objects of a resource in a namespace and waits until they and the pods that belong to them are gone. In a
// namespace that devloop made these are all, unless a release of another folder is in it; elsewhere those that are of its releases.
func (d *Deployer) deleteAll(ctx context.Context, stage event.Stage, name, namespace string, releases []Release) error {
	mapping, err := d.cluster.Mapper.ResourceFor(schema.ParseGroupResource(name).WithVersion(""))
	if meta.IsNoMatchError(err) { // so there is none
		stage.Detail("the cluster knows no such kind", "resource", name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up %s: %w", name, err)
	}
	kind, err := d.cluster.Mapper.KindFor(mapping)
	if err != nil {
		return fmt.Errorf("clean up %s: %w", name, err)
	}
	if scope, err := d.cluster.Mapper.RESTMapping(kind.GroupKind(), kind.Version); err == nil && scope.Scope.Name() != meta.RESTScopeNameNamespace {
		stage.Warn("objects stay, since their kind is in no namespace", nil, "resource", name)
		return nil
	}
	objects := d.cluster.Dynamic.Resource(mapping).Namespace(namespace)
	list, err := objects.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || err == nil && len(list.Items) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up %s in %s: %w", name, namespace, err)
	}
	deleted, others, err := d.partition(ctx, list.Items, namespace, releases)
	if err != nil {
		return fmt.Errorf("clean up %s in %s: %w", name, namespace, err)
	}
	if len(others) > 0 {
		stage.Warn("objects left alone, they are of none of devloop's releases", nil, "resource", name,
			"namespace", event.Name(namespace), "count", len(others), "objects", abbreviate(others))
	}
	if len(deleted) == 0 {
		return nil
	}
	names := make([]string, len(deleted))
	ours := map[types.UID]bool{}
	for i, object := range deleted {
		names[i] = object.GetName()
		ours[object.GetUID()] = true
	}
	return stage.Step(ctx, "objects deleted", func(ctx context.Context) ([]any, error) {
		for _, object := range deleted {
			err := objects.Delete(ctx, object.GetName(), metav1.DeleteOptions{Preconditions: onlyUID(object.GetUID())})
			if err != nil && !isGone(err) {
				return nil, fmt.Errorf("delete %s %s/%s: %w", mapping.Resource, namespace, object.GetName(), err)
			}
		}
		gone := func(wait time.Duration) error {
			ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("still there after %s", wait))
			defer cancel()
			return d.until(ctx, func() (string, error) { return d.remaining(ctx, objects, mapping.Resource, namespace, ours) })
		}
		err := gone(finalizerTimeout)
		if err == nil || ctx.Err() != nil {
			return nil, err
		}
		freed, freeErr := d.removeFinalizers(ctx, objects, ours)
		if freeErr != nil || len(freed) == 0 {
			return nil, errors.Join(err, freeErr)
		}
		stage.Warn("finalizers taken away, their controller did not do so", err, "resource", name, "objects", strings.Join(freed, " "))
		return nil, gone(finalizerTimeout)
	}, "resource", name, "namespace", event.Name(namespace), "objects", strings.Join(names, " "))
}

// partition separates the objects that may be deleted from the names of the others.
func (d *Deployer) partition(
	ctx context.Context, objects []unstructured.Unstructured, namespace string, releases []Release,
) (ours []unstructured.Unstructured, others []string, err error) {
	there, err := d.cluster.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return nil, nil, err
	}
	_, elsewhere := d.recorded(releases)
	shared := slices.ContainsFunc(elsewhere, func(id string) bool { return strings.HasPrefix(id, namespace+"/") })
	if d.isOurNamespace(there) && !shared {
		return objects, nil, nil
	}
	owners, err := d.ownersIn(ctx, namespace, releases)
	if err != nil {
		return nil, nil, err
	}
	for i := range objects {
		isOurs, err := owners.isOurs(ctx, &objects[i])
		switch {
		case err != nil:
			return nil, nil, err
		case isOurs:
			ours = append(ours, objects[i])
		default:
			others = append(others, objects[i].GetName())
		}
	}
	return ours, others, nil
}

// abbreviate are the first of many names, in one line.
func abbreviate(names []string) string {
	if len(names) > shownNames {
		names = append(slices.Clone(names[:shownNames]), fmt.Sprintf("and %d more", len(names)-shownNames))
	}
	return strings.Join(names, " ")
}

// remaining names one of the objects, or a pod that belongs to one.
func (d *Deployer) remaining(ctx context.Context, objects dynamic.ResourceInterface, resource, namespace string, ours map[types.UID]bool) (string, error) {
	left, err := objects.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil // their kind is gone
	}
	if err != nil {
		return "", err
	}
	for _, object := range left.Items {
		if ours[object.GetUID()] {
			return resource + " " + object.GetName(), nil
		}
	}
	pods, err := d.cluster.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, pod := range pods.Items {
		for _, owner := range pod.OwnerReferences {
			if ours[owner.UID] {
				return "pod " + pod.Name, nil
			}
		}
	}
	return "", nil
}

// removeFinalizers lets objects that are being deleted go, and names them.
func (d *Deployer) removeFinalizers(ctx context.Context, objects dynamic.ResourceInterface, ours map[types.UID]bool) (freed []string, err error) {
	left, err := objects.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, object := range left.Items {
		if !ours[object.GetUID()] || object.GetDeletionTimestamp() == nil || len(object.GetFinalizers()) == 0 {
			continue
		}
		// With the UID, it is refused for another object of that name.
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"finalizers":null}}`, object.GetUID())
		_, err := objects.Patch(ctx, object.GetName(), types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && !isGone(err) {
			return freed, fmt.Errorf("take away the finalizers of %s: %w", object.GetName(), err)
		}
		freed = append(freed, object.GetName())
	}
	return freed, nil
}
