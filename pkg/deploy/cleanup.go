// Cleaning up: what users made through the platform first, then releases in reverse order, then namespaces that devloop made and
// that hold nothing else. Only what the journal names is deleted.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// Deadlines of a clean-up's waits. Pods may take their grace period (traefik's is 60 s) to end.
const (
	goneTimeout  = 60 * time.Second
	emptyTimeout = 90 * time.Second
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
	say := sink.For("cleanup")
	var (
		ours       []Release
		namespaces []string
		unsure     []string // namespaces in which something of ours may still be
		errs       = []error{d.RemoveTrials(ctx)}
	)
	recorded, elsewhere := d.recorded(ordered(releases))
	errs = append(errs, d.nameElsewhere(ctx, say, elsewhere))
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
			errs = append(errs, d.deleteAll(ctx, say, resource, namespace, ours))
		}
	}
	for _, r := range slices.Backward(ours) {
		if err := d.uninstall(ctx, say, r); err != nil {
			errs = append(errs, err)
			unsure = append(unsure, r.Namespace)
		}
	}
	errs = append(errs, d.removeClaims(ctx, say, what.Volumes), d.removeCRDs(ctx, say, what.CRDs))
	for _, namespace := range d.journal.Names(kindNamespace) {
		if !slices.Contains(unsure, namespace) {
			errs = append(errs, d.deleteNamespace(ctx, say, namespace))
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
	for _, id := range d.journal.Names(kindRelease) {
		if slices.ContainsFunc(releases, func(r Release) bool { return r.ID() == id }) {
			continue
		}
		if _, other := d.madeElsewhere(kindRelease, id); other {
			elsewhere = append(elsewhere, id)
			continue
		}
		namespace, name, _ := strings.Cut(id, "/")
		ours = append(ours, Release{Name: name, Namespace: namespace})
	}
	for _, r := range releases {
		if d.journal.Has(kindRelease, r.ID()) {
			ours = append(ours, r)
		}
	}
	return ours, elsewhere
}

// nameElsewhere says which releases of another folder are left alone.
func (d *Deployer) nameElsewhere(ctx context.Context, say event.Stage, ids []string) error {
	var there, folders []string
	var errs []error
	for _, id := range ids {
		folder, _ := d.madeElsewhere(kindRelease, id)
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
		say.Warn("releases left alone, they were made from another folder", nil, "releases", some(there), "folder", strings.Join(folders, " "),
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
		return false, d.forget(r)
	}
	return true, nil
}

// forget takes a release, and what was being written of it, out of the journal.
func (d *Deployer) forget(r Release) error {
	errs := []error{d.forgetMade(kindRelease, r.ID())}
	for _, id := range d.journal.Names(kindRevision) {
		if strings.HasPrefix(id, r.ID()+"@") {
			errs = append(errs, d.journal.Forget(kindRevision, id))
		}
	}
	return errors.Join(errs...)
}

// deleteAll deletes the objects of a resource in a namespace and waits until they and the pods that belong to them are gone. In a
// namespace that devloop made these are all, unless a release of another folder is in it; elsewhere those that are of its releases.
func (d *Deployer) deleteAll(ctx context.Context, say event.Stage, name, namespace string, releases []Release) error {
	mapping, err := d.cluster.Mapper.ResourceFor(schema.ParseGroupResource(name).WithVersion(""))
	if meta.IsNoMatchError(err) { // so there is none
		say.Detail("the cluster knows no such kind", "resource", name)
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
		say.Warn("objects stay, since their kind is in no namespace", nil, "resource", name)
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
	deleted, others, err := d.divide(ctx, list.Items, namespace, releases)
	if err != nil {
		return fmt.Errorf("clean up %s in %s: %w", name, namespace, err)
	}
	if len(others) > 0 {
		say.Warn("objects left alone, they are of none of devloop's releases", nil, "resource", name,
			"namespace", event.Name(namespace), "count", len(others), "objects", some(others))
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
	return say.Step(ctx, "objects deleted", func(ctx context.Context) ([]any, error) {
		for _, object := range deleted {
			err := objects.Delete(ctx, object.GetName(), metav1.DeleteOptions{Preconditions: onlyUID(object.GetUID())})
			if err != nil && !isGone(err) {
				return nil, fmt.Errorf("delete %s %s/%s: %w", mapping.Resource, namespace, object.GetName(), err)
			}
		}
		gone := func(wait time.Duration) error {
			ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("still there after %s", wait))
			defer cancel()
			return d.until(ctx, func() (string, error) { return d.stillThere(ctx, objects, mapping.Resource, namespace, ours) })
		}
		err := gone(finalizerTimeout)
		if err == nil || ctx.Err() != nil {
			return nil, err
		}
		freed, freeErr := d.freeOfFinalizers(ctx, objects, ours)
		if freeErr != nil || len(freed) == 0 {
			return nil, errors.Join(err, freeErr)
		}
		say.Warn("finalizers taken away, their controller did not do so", err, "resource", name, "objects", strings.Join(freed, " "))
		return nil, gone(finalizerTimeout)
	}, "resource", name, "namespace", event.Name(namespace), "objects", strings.Join(names, " "))
}

// divide separates the objects that may be deleted from the names of the others.
func (d *Deployer) divide(
	ctx context.Context, objects []unstructured.Unstructured, namespace string, releases []Release,
) (ours []unstructured.Unstructured, others []string, err error) {
	there, err := d.cluster.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return nil, nil, err
	}
	_, elsewhere := d.recorded(releases)
	shared := slices.ContainsFunc(elsewhere, func(id string) bool { return strings.HasPrefix(id, namespace+"/") })
	if d.madeNamespace(there) && !shared {
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

// some are the first of many names, in one line.
func some(names []string) string {
	if len(names) > shownNames {
		names = append(slices.Clone(names[:shownNames]), fmt.Sprintf("and %d more", len(names)-shownNames))
	}
	return strings.Join(names, " ")
}

// stillThere names one of the objects, or a pod that belongs to one.
func (d *Deployer) stillThere(ctx context.Context, objects dynamic.ResourceInterface, resource, namespace string, ours map[types.UID]bool) (string, error) {
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

// freeOfFinalizers lets objects that are being deleted go, and names them.
func (d *Deployer) freeOfFinalizers(ctx context.Context, objects dynamic.ResourceInterface, ours map[types.UID]bool) (freed []string, err error) {
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

// uninstall removes a release that is ours.
func (d *Deployer) uninstall(ctx context.Context, say event.Stage, r Release) error {
	helm, err := d.helm(ctx, r.Namespace)
	if err != nil {
		return err
	}
	return say.Step(ctx, event.ReleaseRemoved, func(context.Context) ([]any, error) {
		history, err := helm.Releases.History(r.Name)
		if err != nil {
			return nil, fmt.Errorf("uninstall release %s: read Helm's records: %w", r.ID(), err)
		}
		if err := d.helmUninstall(ctx, say, helm, r, history); err != nil {
			return nil, fmt.Errorf("release %s: %w", r.ID(), err)
		}
		return nil, d.forget(r)
	}, "release", event.Name(r.Name), "namespace", event.Name(r.Namespace))
}

// sweep deletes the objects that revisions of a release name and those of kept do not, if they belong to the release.
func (d *Deployer) sweep(ctx context.Context, r Release, revisions []*release.Release, kept []object) error {
	belongs := func(u *unstructured.Unstructured) bool { return belongsTo(u, r) }
	seen := slices.Clone(kept)
	for _, made := range revisions {
		named, _ := parse(made.Manifest, r.Namespace) // what cannot be read was not made
		for _, o := range named {
			if slices.ContainsFunc(seen, o.same) {
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

// remove deletes an object if it is there and allowed to go. It does not wait for its end.
func (d *Deployer) remove(ctx context.Context, o object, belongs func(*unstructured.Unstructured) bool) error {
	if o.kind.Kind == "CustomResourceDefinition" { // Helm does not delete those of hooks either
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
	case there.GetAnnotations()[annotationPolicy] == policyKeep || !belongs(there):
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

// recordClaims writes down the volume claims that stateful sets of a release made: they outlive it, since they hold data. A claim that
// is older than the release, by the API server's clock, is somebody else's: the stateful set found it there.
func (d *Deployer) recordClaims(ctx context.Context, say event.Stage, r Release, history []*release.Release) error {
	begun := firstDeployed(history)
	var older []string
	for _, made := range history {
		named, _ := parse(made.Manifest, r.Namespace)
		for _, o := range named {
			for _, claim := range o.claims {
				list, err := d.cluster.Client.CoreV1().PersistentVolumeClaims(o.namespace).List(ctx, metav1.ListOptions{})
				if err != nil {
					return fmt.Errorf("list volume claims in %s: %w", o.namespace, err)
				}
				for _, pvc := range list.Items {
					ordinal, ok := strings.CutPrefix(pvc.Name, claim+"-"+o.name+"-")
					id := pvc.Namespace + "/" + pvc.Name
					if _, err := strconv.Atoi(ordinal); !ok || err != nil || !o.selects(pvc.Labels) {
						continue
					}
					known := d.journal.Has(kindVolume, id) && d.madeUID(kindVolume, id, pvc.UID) // of an earlier install
					switch {
					case !known && pvc.CreationTimestamp.Time.Before(begun):
						if !slices.Contains(older, id) {
							older = append(older, id)
							say.Note("volume claim stays, it was there before the release", "claim", id)
						}
						continue
					case !known:
						if err := d.journal.Record(kindVolume, id); err != nil {
							return err
						}
					}
					if err := errors.Join(d.recordUID(kindVolume, id, pvc.UID), d.recordFolder(kindVolume, id)); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// firstDeployed is when a release was first installed, in whole seconds as the API server counts; zero if no revision says so.
func firstDeployed(history []*release.Release) (first time.Time) {
	for _, made := range history {
		if made.Info == nil || made.Info.FirstDeployed.IsZero() {
			continue
		}
		if at := made.Info.FirstDeployed.Time; first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first.Truncate(time.Second)
}

// removeClaims deletes the volume claims that releases which are gone have left, or says that they stay.
func (d *Deployer) removeClaims(ctx context.Context, say event.Stage, remove bool) error {
	var errs []error
	for _, id := range d.journal.Names(kindVolume) {
		if folder, other := d.madeElsewhere(kindVolume, id); other {
			if remove {
				say.Warn("volume claim left alone, it was made from another folder", nil, "claim", id, "folder", folder, "remove it with", "devloop delete --volumes there")
			}
			continue
		}
		namespace, name, _ := strings.Cut(id, "/")
		claims := d.cluster.Client.CoreV1().PersistentVolumeClaims(namespace)
		there, err := claims.Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil && !d.madeUID(kindVolume, id, there.UID): // somebody has made another one since
		case err == nil && !remove:
			say.Note("volume claim stays, it holds data", "claim", id, "remove it with", "devloop delete --volumes")
			continue
		case err == nil:
			err = say.Step(ctx, "volume claim deleted", func(ctx context.Context) ([]any, error) {
				return nil, claims.Delete(ctx, name, metav1.DeleteOptions{Preconditions: onlyUID(there.UID)})
			}, "claim", id)
		}
		if err != nil && !isGone(err) {
			errs = append(errs, fmt.Errorf("volume claim %s: %w", id, err))
			continue
		}
		errs = append(errs, d.forgetMade(kindVolume, id))
	}
	return errors.Join(errs...)
}

// removeCRDs deletes the definitions that devloop made, or says that they stay.
func (d *Deployer) removeCRDs(ctx context.Context, say event.Stage, remove bool) error {
	var (
		stay []string
		errs []error
	)
	api := d.cluster.Dynamic.Resource(definitions)
	for _, name := range d.journal.Names(kindCRD) {
		if folder, other := d.madeElsewhere(kindCRD, name); other {
			if remove {
				say.Warn("CRD left alone, it was made from another folder", nil, "crd", name, "folder", folder, "remove it with", "devloop delete --crds there")
			}
			continue
		}
		there, err := api.Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && !d.madeCRD(there): // somebody has made another one since
			errs = append(errs, d.forgetMade(kindCRD, name))
			continue
		case err != nil:
			errs = append(errs, fmt.Errorf("CRD %s: %w", name, err))
			continue
		case !remove:
			stay = append(stay, name)
			continue
		}
		err = say.Step(ctx, "CRD deleted", func(ctx context.Context) ([]any, error) {
			err := api.Delete(ctx, name, metav1.DeleteOptions{Preconditions: onlyUID(there.GetUID())})
			if err != nil && !isGone(err) {
				return nil, fmt.Errorf("delete CRD %s: %w", name, err)
			}
			ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still there after %s", goneTimeout))
			defer cancel()
			err = d.until(ctx, func() (string, error) {
				now, err := api.Get(ctx, name, metav1.GetOptions{})
				if apierrors.IsNotFound(err) || err == nil && now.GetUID() != there.GetUID() {
					return "", nil
				}
				return "CRD " + name, err
			})
			if err != nil {
				return nil, event.WithHint(err, "an object of its kind has a finalizer that nobody takes away: kubectl get "+name+" -A")
			}
			return nil, d.forgetMade(kindCRD, name)
		}, "crd", name)
		errs = append(errs, err)
	}
	if len(stay) > 0 {
		say.Note("CRDs stay, with all objects of their kinds", "crds", some(stay), "remove them with", "devloop delete --crds")
	}
	d.cluster.Wrote()
	return errors.Join(errs...)
}

// deleteNamespace deletes a namespace that devloop made, once nothing but what every namespace has
// is left in it. An object that somebody makes between the last look and the deletion goes with it:
// the API server has no precondition for that.
func (d *Deployer) deleteNamespace(ctx context.Context, say event.Stage, name string) error {
	namespaces := d.cluster.Client.CoreV1().Namespaces()
	waitCtx, cancel := context.WithTimeoutCause(ctx, emptyTimeout, fmt.Errorf("not empty after %s", emptyTimeout))
	defer cancel()
	there, err := namespaces.Get(waitCtx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && !d.madeNamespace(there): // somebody has made another one since
		return d.forgetMade(kindNamespace, name)
	case err != nil:
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	content, err := d.remains(waitCtx, name)
	switch {
	case discovery.IsGroupDiscoveryFailedError(err):
		say.Warn("namespace kept, the API server does not list all that may be in it", err,
			"namespace", event.Name(name))
		return nil
	case err != nil:
		return fmt.Errorf("namespace %s: %w", name, err)
	case content != "":
		say.Warn("namespace kept, it is not empty", nil, "namespace", event.Name(name), "holds", content)
		return nil
	}
	return say.Step(ctx, "namespace deleted", func(ctx context.Context) ([]any, error) {
		err := namespaces.Delete(ctx, name, metav1.DeleteOptions{Preconditions: onlyUID(there.UID)})
		if err != nil && !isGone(err) { // a conflict also says that it is being deleted already
			return nil, fmt.Errorf("delete namespace %s: %w", name, err)
		}
		waitCtx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still there after %s", goneTimeout))
		defer cancel()
		err = d.until(waitCtx, func() (string, error) {
			now, err := namespaces.Get(waitCtx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) || err == nil && now.UID != there.UID {
				return "", nil
			}
			return "namespace " + name, err
		})
		if err != nil {
			return nil, err
		}
		return nil, d.forgetMade(kindNamespace, name)
	}, "namespace", event.Name(name))
}

// remains waits for objects that go by themselves, and names one that does not, "" if the namespace
// is empty. What the API server does not list for longer than AnswerTimeout may hold objects: the
// error is discovery's.
func (d *Deployer) remains(ctx context.Context, namespace string) (content string, err error) {
	var unlisted error
	since := time.Now()
	err = d.until(ctx, func() (left string, err error) {
		var ending bool
		content, ending, err = d.contents(ctx, namespace)
		unlisted = nil
		switch {
		case discovery.IsGroupDiscoveryFailedError(err) && time.Since(since) > kube.AnswerTimeout:
			unlisted = err
			return "", nil
		case ending:
			return content, err
		}
		return "", err
	})
	if err == nil {
		err = unlisted
	}
	return content, err
}

// contents names an object that keeps the namespace from being empty; ending tells that this object
// goes by itself, because it is being deleted or because what owns it is gone and the garbage
// collector comes for it. Kinds that the API server does not list now are an error of discovery's
// where nothing else is found.
func (d *Deployer) contents(ctx context.Context, namespace string) (found string, ending bool, err error) {
	d.cluster.Discovery.Invalidate() // a kind that came since is asked for, too
	_, lists, unlisted := d.cluster.Discovery.ServerGroupsAndResources()
	if unlisted != nil && !discovery.IsGroupDiscoveryFailedError(unlisted) {
		return "", false, unlisted
	}
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "delete"}}, lists) {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return "", false, err
		}
		for _, resource := range list.APIResources {
			if !resource.Namespaced || strings.Contains(resource.Name, "/") {
				continue
			}
			objects, err := d.cluster.Dynamic.Resource(version.WithResource(resource.Name)).Namespace(namespace).List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				return "", false, fmt.Errorf("list %s: %w", resource.Name, err)
			}
			for _, object := range objects.Items {
				if automatic(resource.Name, object.GetName()) {
					continue
				}
				found = resource.Name + "/" + object.GetName()
				if object.GetDeletionTimestamp() == nil && len(object.GetOwnerReferences()) == 0 {
					return found, false, nil
				}
				ending = true
			}
		}
	}
	if found == "" {
		err = unlisted // what is not listed may hold something
	}
	return found, ending, err
}

// automatic are the objects that a cluster puts into every namespace, or leaves there by itself.
func automatic(resource, name string) bool {
	switch resource {
	case "events", "endpoints", "endpointslices", "leases", "pods.metrics.k8s.io":
		return true
	case "serviceaccounts":
		return name == "default"
	case "configmaps":
		return name == "kube-root-ca.crt"
	}
	return false
}

// until asks again and again what is still waited for, until nothing is or ctx ends. A request that fails is asked again.
func (d *Deployer) until(ctx context.Context, ask func() (left string, err error)) error {
	for {
		left, err := ask()
		if left == "" && err == nil {
			return nil
		}
		if waitErr := sleep(ctx, pollInterval); waitErr != nil {
			if left != "" {
				return fmt.Errorf("%s: %w", left, waitErr)
			}
			return errors.Join(waitErr, err)
		}
	}
}
