package deploy

// Whose an object is. Nothing is deleted by its name alone: the live object has to say that it is
// of a release of ours, and the API server compares its UID with that of the object which was
// looked at.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
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
	return o.GetAnnotations()[annotationRelease] == r.Name && o.GetAnnotations()[annotationIn] == r.Namespace
}

// madeByHook tells whether a hook of a release made an object; ran says that Helm's records know of
// a run of that hook. Those of an earlier devloop have no mark of ours.
func madeByHook(o metav1.Object, r Release, ran bool) bool {
	if release, marked := o.GetAnnotations()[annotationHookOf]; marked {
		return release == r.ID()
	}
	return ran && o.GetAnnotations()[annotationHook] != "" && o.GetAnnotations()[annotationRelease] == ""
}

// owners tells which objects of a namespace are of releases of ours.
type owners struct {
	deployer *Deployer
	releases []Release
	gateways []string           // instances of Dask gateways that these made: it labels what it makes for its users
	known    map[types.UID]bool // owners that were looked at
}

// ownersIn prepares for objects of one namespace.
func (d *Deployer) ownersIn(ctx context.Context, namespace string, releases []Release) (*owners, error) {
	o := &owners{deployer: d, releases: releases, known: map[types.UID]bool{}}
	gateways, err := d.cluster.gateways(ctx, namespace)
	for _, gateway := range gateways {
		if slices.ContainsFunc(releases, func(r Release) bool { return r.ID() == gateway.Release }) {
			o.gateways = append(o.gateways, gateway.instance)
		}
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
	if instance := u.GetLabels()[labelGateway]; instance != "" && slices.Contains(o.gateways, instance) {
		return true, nil
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

// recordUID writes down which object of a name devloop made: the journal's entry of the name alone
// would permit to delete the one that somebody has made since.
func (d *Deployer) recordUID(kind, name string, uid types.UID) error {
	before := d.uidEntries(kind, name)
	entry := uidEntry(kind, name) + string(uid)
	if slices.Contains(before, entry) {
		return nil
	}
	errs := []error{d.journal.Record(kindUID, entry)}
	for _, old := range before {
		errs = append(errs, d.journal.Forget(kindUID, old))
	}
	return errors.Join(errs...)
}

// madeUID tells whether the live object of a name can be the one that devloop made. An earlier
// devloop did not write the UID down.
func (d *Deployer) madeUID(kind, name string, uid types.UID) bool {
	recorded := d.uidEntries(kind, name)
	return len(recorded) == 0 || slices.Contains(recorded, uidEntry(kind, name)+string(uid))
}

// forgetMade takes a name and its UID out of the journal.
func (d *Deployer) forgetMade(kind, name string) error {
	errs := []error{d.journal.Forget(kind, name)}
	for _, entry := range d.uidEntries(kind, name) {
		errs = append(errs, d.journal.Forget(kindUID, entry))
	}
	return errors.Join(errs...)
}

func (d *Deployer) uidEntries(kind, name string) []string {
	return slices.DeleteFunc(d.journal.Names(kindUID),
		func(entry string) bool { return !strings.HasPrefix(entry, uidEntry(kind, name)) })
}

func uidEntry(kind, name string) string { return kind + " " + name + "@" }

// madeNamespace tells whether a namespace is the one that devloop made, and not one that somebody
// has made since.
func (d *Deployer) madeNamespace(there metav1.Object) bool {
	name := there.GetName()
	return d.journal.Has(kindNamespace, name) && there.GetLabels()[labelManagedBy] == fieldManager &&
		d.madeUID(kindNamespace, name, there.GetUID())
}
