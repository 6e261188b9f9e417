package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/devloop/devloop/pkg/event"
)

// finalizerTimeout is how long the controller of users' objects may take to do its part: Dask's
// pods have 30 s to end.
const finalizerTimeout = 40 * time.Second

// doomed are objects of one resource in one namespace that are being deleted.
type doomed struct {
	*Deployer
	api       dynamic.ResourceInterface
	resource  schema.GroupResource
	namespace string
	uids      map[types.UID]bool
}

// deleteAll deletes the objects of a resource in a namespace, and waits until they and their pods
// are gone. In a namespace that devloop made, these are all of them, unless a release that stays is
// in it; elsewhere, those that belong to the releases.
func (d *Deployer) deleteAll(
	ctx context.Context, stage event.Stage, name, namespace string, releases []Release,
) error {
	kind, err := d.cluster.Mapper.KindFor(schema.ParseGroupResource(name).WithVersion(""))
	if meta.IsNoMatchError(err) {
		stage.Detail("the cluster knows no such kind", "resource", name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up %s: %w", name, err)
	}
	mapping, err := d.cluster.Mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return fmt.Errorf("clean up %s: %w", name, err)
	}
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		stage.Warn("objects stay, since their kind is in no namespace", nil, "resource", name)
		return nil
	}
	api := d.cluster.Dynamic.Resource(mapping.Resource).Namespace(namespace)
	list, err := api.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || err == nil && len(list.Items) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up %s in %s: %w", name, namespace, err)
	}
	ours, others, err := d.partition(ctx, list.Items, namespace, releases)
	if err != nil {
		return fmt.Errorf("clean up %s in %s: %w", name, namespace, err)
	}
	if len(others) > 0 {
		stage.Warn("objects left alone, they belong to none of devloop's releases", nil, "resource", name,
			"namespace", event.Name(namespace), "count", len(others), "objects", abbreviate(others))
	}
	if len(ours) == 0 {
		return nil
	}
	names := make([]string, len(ours))
	for i := range ours {
		names[i] = ours[i].GetName()
	}
	return stage.Step(ctx, "objects deleted", func(ctx context.Context) ([]any, error) {
		objects := doomed{d, api, mapping.Resource.GroupResource(), namespace, map[types.UID]bool{}}
		if err := objects.delete(ctx, ours); err != nil {
			return nil, err
		}
		err := objects.awaitGone(ctx, stage)
		if err == nil || ctx.Err() != nil {
			return nil, err
		}
		freed, freeErr := objects.removeFinalizers(ctx)
		if freeErr != nil || len(freed) == 0 {
			return nil, errors.Join(err, freeErr)
		}
		stage.Warn("finalizers removed, their controller did not do so", err, "resource", name,
			"objects", strings.Join(freed, " "))
		return nil, objects.awaitGone(ctx, stage)
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
	if d.isOurNamespace(there) && !d.isUsed(namespace, releases) {
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

func (o doomed) delete(ctx context.Context, objects []unstructured.Unstructured) error {
	for _, object := range objects {
		o.uids[object.GetUID()] = true
		err := o.api.Delete(ctx, object.GetName(), metav1.DeleteOptions{Preconditions: onlyUID(object.GetUID())})
		if err != nil && !isGone(err) {
			return fmt.Errorf("delete %s %s/%s: %w", o.resource.Resource, o.namespace, object.GetName(), err)
		}
	}
	return nil
}

func (o doomed) awaitGone(ctx context.Context, stage event.Stage) error {
	ctx, cancel := context.WithTimeoutCause(ctx, finalizerTimeout, fmt.Errorf("still there after %s", finalizerTimeout))
	defer cancel()
	return o.Deployer.awaitGone(ctx, stage, func() ([]ending, error) { return o.remaining(ctx) },
		"namespace", event.Name(o.namespace))
}

// remaining returns the objects that are left, and the pods that they own.
func (o doomed) remaining(ctx context.Context) (left []ending, err error) {
	objects, err := o.api.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) { // their kind is gone
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for i := range objects.Items {
		if object := &objects.Items[i]; o.uids[object.GetUID()] {
			left = append(left, endingObject(o.resource, object))
		}
	}
	pods, err := o.cluster.Client.CoreV1().Pods(o.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if slices.ContainsFunc(pod.OwnerReferences, func(owner metav1.OwnerReference) bool { return o.uids[owner.UID] }) {
			left = append(left, endingObject(corev1.Resource("pods"), pod))
		}
	}
	return left, nil
}

// removeFinalizers removes them from objects that are being deleted, and returns the objects'
// names.
func (o doomed) removeFinalizers(ctx context.Context) (freed []string, err error) {
	left, err := o.api.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, object := range left.Items {
		if !o.uids[object.GetUID()] || object.GetDeletionTimestamp() == nil || len(object.GetFinalizers()) == 0 {
			continue
		}
		// The UID makes the API server refuse the patch for another object of that name.
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"finalizers":null}}`, object.GetUID())
		_, err := o.api.Patch(ctx, object.GetName(), types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && !isGone(err) {
			return freed, fmt.Errorf("remove the finalizers of %s: %w", object.GetName(), err)
		}
		freed = append(freed, object.GetName())
	}
	return freed, nil
}
