package deploy

// An object is deleted only if it says itself that it belongs to a release of ours, and on the
// condition that it still has the UID of the object that was looked at.

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/kube"
)

// annotationHookOf names the release of an object that a hook made. Helm does not mark these.
const annotationHookOf = "devloop.hook-of"

// maxOwners limits the chain of owners that is followed from an object.
const maxOwners = 10

// onlyUID restricts a request to the object with that UID: another one may have its name.
func onlyUID(uid types.UID) *metav1.Preconditions { return &metav1.Preconditions{UID: &uid} }

// isGone tells from the error of such a request that the object is gone; another one may have its
// name.
func isGone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// belongsTo tells whether an object is of a release, by Helm's annotations.
func belongsTo(o metav1.Object, r Release) bool {
	return o.GetAnnotations()[kube.AnnotationRelease] == r.Name &&
		o.GetAnnotations()[kube.AnnotationReleaseNamespace] == r.Namespace
}

// madeByHook tells whether a hook of a release made an object; ran tells whether Helm's records say
// that the hook was run. Objects of earlier devloops have no annotationHookOf.
func madeByHook(o metav1.Object, r Release, ran bool) bool {
	if release, marked := o.GetAnnotations()[annotationHookOf]; marked {
		return release == r.ID()
	}
	return ran && o.GetAnnotations()[kube.AnnotationHook] != "" && o.GetAnnotations()[kube.AnnotationRelease] == ""
}

// owners tells which objects of a namespace belong to the releases.
type owners struct {
	deployer *Deployer
	releases []Release
	labels   map[kube.Label]string // of what operators made, with the release's ID
	known    map[types.UID]bool    // whether an owner is ours
}

func (d *Deployer) ownersIn(ctx context.Context, namespace string, releases []Release) (*owners, error) {
	o := &owners{deployer: d, releases: releases, known: map[types.UID]bool{}}
	var err error
	if d.options.OperatorLabels != nil {
		o.labels, err = d.options.OperatorLabels(ctx, namespace)
	}
	return o, err
}

// isOurs tells whether an object, or one of its owners, belongs to one of the releases.
func (o *owners) isOurs(ctx context.Context, u metav1.Object) (bool, error) {
	return o.isOursBelow(ctx, u, 0)
}

func (o *owners) isOursBelow(ctx context.Context, u metav1.Object, depth int) (bool, error) {
	if slices.ContainsFunc(o.releases, func(r Release) bool { return belongsTo(u, r) || madeByHook(u, r, false) }) {
		return true, nil
	}
	for key, value := range u.GetLabels() {
		release := o.labels[kube.Label{Key: key, Value: value}]
		if slices.ContainsFunc(o.releases, func(r Release) bool { return r.ID() == release }) {
			return true, nil
		}
	}
	if depth == maxOwners {
		return false, nil
	}
	for _, ref := range u.GetOwnerReferences() {
		ours, known := o.known[ref.UID]
		if !known {
			version, err := schema.ParseGroupVersion(ref.APIVersion)
			if err != nil {
				continue
			}
			owner, err := o.deployer.metadata(ctx,
				object{kind: version.WithKind(ref.Kind), namespace: u.GetNamespace(), name: ref.Name})
			if err != nil {
				return false, fmt.Errorf("look for the owner of %s: %w", u.GetName(), err)
			}
			if owner != nil && owner.UID == ref.UID {
				if ours, err = o.isOursBelow(ctx, owner, depth+1); err != nil {
					return false, err
				}
			}
			o.known[ref.UID] = ours
		}
		if ours {
			return true, nil
		}
	}
	return false, nil
}
