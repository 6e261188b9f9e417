package deploy

// Whose an object is. Nothing is deleted by its name alone: the live object has to say that it is
// of a release of ours, and the API server compares its UID with that of the object which was
// looked at.

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

// annotationHookOf is put on what a hook makes, and names the release: Helm itself does not mark
// these objects.
const annotationHookOf = "devloop.hook-of"

// maxOwners is how many owners an object's owner may have above it.
const maxOwners = 10

// onlyUID is the preconditions of a request for the object of that UID, and for no other one of its
// name.
func onlyUID(uid types.UID) *metav1.Preconditions { return &metav1.Preconditions{UID: &uid} }

// isGone tells from the error of such a request that the object is there no more; another one of
// its name may be.
func isGone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// belongsTo tells whether an object is of a release, by the annotations that Helm gives to all that
// it makes.
func belongsTo(o metav1.Object, r Release) bool {
	return o.GetAnnotations()[kube.AnnotationRelease] == r.Name && o.GetAnnotations()[kube.AnnotationReleaseNamespace] == r.Namespace
}

// madeByHook tells whether a hook of a release made an object; ran says that Helm's records know of
// a run of that hook. Those of an earlier devloop have no mark of ours.
func madeByHook(o metav1.Object, r Release, ran bool) bool {
	if release, marked := o.GetAnnotations()[annotationHookOf]; marked {
		return release == r.ID()
	}
	return ran && o.GetAnnotations()[kube.AnnotationHook] != "" && o.GetAnnotations()[kube.AnnotationRelease] == ""
}

// owners tells which objects of a namespace are of releases of ours.
type owners struct {
	deployer *Deployer
	releases []Release
	labels   map[kube.Label]string // of what operators made for releases, and the ID of the release
	known    map[types.UID]bool    // owners that were looked at
}

// ownersIn prepares for objects of one namespace.
func (d *Deployer) ownersIn(ctx context.Context, namespace string, releases []Release) (*owners, error) {
	o := &owners{deployer: d, releases: releases, known: map[types.UID]bool{}}
	var err error
	if d.options.OperatorLabels != nil {
		o.labels, err = d.options.OperatorLabels(ctx, namespace)
	}
	return o, err
}

// isOurs tells whether an object is of one of the releases: by its annotations or labels, or by
// those of what owns it.
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
				continue // nobody's
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
