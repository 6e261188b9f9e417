package deploy

// An object that is there and is not the release's is taken over in two cases: no release made it
// and the user wants that (--adopt), or another release of the project gives it up in the same run.

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

// shownForeign limits the objects that a message names.
const shownForeign = 20

// foreignObject is an object of a release that is there and is not the release's.
type foreignObject struct {
	manifestObject
	owner string // ID of the release that it belongs to, "" if none made it
}

// ownObject is an object that a release names.
type ownObject struct {
	object
	file string // that it is from, "" if that is not known
}

// of says in which release it is.
func (o ownObject) of(r Release) string {
	if o.file == "" {
		return "the release " + r.ID()
	}
	return fmt.Sprintf("the release %s (%s)", r.ID(), o.file)
}

// ownerOf tells whether a live object belongs to someone else than the release, and returns the ID
// of the release that it belongs to. Helm does not ask that of an object that the revision before
// had: known.
func ownerOf(r Release, live *unstructured.Unstructured, known bool) (owner string, foreign bool) {
	name := live.GetAnnotations()[kube.AnnotationRelease]
	if name != "" {
		owner = live.GetAnnotations()[kube.AnnotationReleaseNamespace] + "/" + name
	}
	byHelm := live.GetLabels()[kube.LabelManagedBy] == "Helm"
	if belongsTo(live, r) && (byHelm || known) || name == "" && known {
		return "", false
	}
	if owner == r.ID() { // without Helm's label
		owner = ""
	}
	return owner, true
}

// liveID identifies an object in the cluster, whichever release names it.
func (d *Deployer) liveID(o object) string {
	if _, namespace, err := d.endpoint(o); err == nil { // "" for a kind without namespaces
		o.namespace = namespace
	}
	return objectID(o)
}

// objectsIn returns the objects of a revision by their IDs, objectsOf those that a release is
// rendered to. CRDs and namespaces are not among them: releases may share these.
func (d *Deployer) objectsIn(made contents) map[string]ownObject {
	all := map[string]ownObject{}
	for _, o := range made.objects {
		if !o.definition {
			all[d.liveID(o)] = ownObject{object: o}
		}
	}
	return all
}

func (d *Deployer) objectsOf(want *desired, made rendered) map[string]ownObject {
	all := map[string]ownObject{}
	for _, o := range made.objects {
		if named := o.in(want.Namespace); named.name != "" {
			all[d.liveID(named)] = ownObject{named, o.file}
		}
	}
	return all
}

// compareReleases returns an error for each release that names an object of another one, and
// remembers which objects move from one release to another.
func (d *Deployer) compareReleases(releases []Release, found []validation) []error {
	errs := make([]error, len(releases))
	first := map[string]int{} // the release that names an object
	for i, one := range found {
		for _, id := range slices.Sorted(maps.Keys(one.objects)) {
			other, named := first[id]
			if !named {
				first[id] = i
				continue
			}
			here, there := one.objects[id], found[other].objects[id]
			errs[i] = errors.Join(errs[i], event.WithHint(fmt.Errorf("%s is both in %s and in %s", here.object,
				there.of(releases[other]), here.of(releases[i])), "keep one of them"))
		}
	}
	moves := map[string]string{}
	for i, one := range found {
		for _, o := range one.foreign {
			id := d.liveID(o.in(releases[i].Namespace))
			owner := slices.IndexFunc(releases, func(r Release) bool { return r.ID() == o.owner })
			givesUp := owner < 0 // it is no longer in devloop.yaml
			if !givesUp && found[owner].objects != nil {
				_, keeps := found[owner].objects[id]
				givesUp = !keeps
			}
			if givesUp && d.isOurRelease(o.owner) {
				moves[id] = releases[i].ID()
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moves = moves
	return errs
}

// isOurRelease tells whether devloop has made a release for this project, from this folder.
func (d *Deployer) isOurRelease(id string) bool {
	if d.journal == nil || !d.journal.Has(journal.Release, id) {
		return false
	}
	_, elsewhere := d.otherFolder(journal.Release, id)
	return !elsewhere
}

// movesTo returns the ID of the release that takes an object over in this run, "" if none does.
func (d *Deployer) movesTo(o object) string {
	id := d.liveID(o)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.moves[id]
}

// movesFrom returns a function that tells whether another release takes an object over from r.
func (d *Deployer) movesFrom(r Release) func(object) bool {
	return func(o object) bool {
		to := d.movesTo(o)
		return to != "" && to != r.ID()
	}
}

// mayTakeOver returns an error unless the release may take over all of the objects.
func (d *Deployer) mayTakeOver(r Release, objects []foreignObject) error {
	var unowned []foreignObject
	var errs []error
	for _, o := range objects {
		id := o.in(r.Namespace)
		switch {
		case o.owner == "" && !d.options.Adopt:
			unowned = append(unowned, o)
		case o.owner != "" && d.movesTo(id) != r.ID():
			err := fmt.Errorf("release %s: %s: %s belongs to the release %s", r.ID(), o.file, id, o.owner)
			if d.journal != nil && d.journal.Has(journal.Release, o.owner) { // which may give it up in this run
				err = event.Transient(err)
			}
			errs = append(errs, event.WithHint(err, "give yours another name, or delete the one that is there if it is not "+
				"needed: "+kubectlDelete(id, d.isNamespaced(id), "")))
		}
	}
	if len(unowned) == 0 {
		return errors.Join(errs...)
	}
	id := unowned[0].in(r.Namespace)
	err := fmt.Errorf("release %s: %s: %s is there already, and no release made it", r.ID(), unowned[0].file, id)
	hint := "take it over with --adopt: it goes with the release then; or give yours another name, or delete the one " +
		"that is there if it is not needed: " + kubectlDelete(id, d.isNamespaced(id), "")
	if len(unowned) > 1 {
		err = fmt.Errorf("release %s: %d objects are there already, and no release made them: %s", r.ID(), len(unowned),
			namesOf(r, unowned))
		hint = "take them over with --adopt: they go with the release then; or give yours other names"
	}
	return errors.Join(append(errs, event.WithHint(err, hint))...)
}

// noteTakeover says what is about to be taken over.
func (d *Deployer) noteTakeover(stage event.Stage, r Release, objects []foreignObject) {
	from := map[string][]foreignObject{}
	for _, o := range objects {
		from[o.owner] = append(from[o.owner], o)
	}
	for owner, some := range from {
		if owner == "" {
			stage.Warn("objects taken over, they will be removed with the release", nil, "release", event.Name(r.Name),
				"objects", namesOf(r, some))
			continue
		}
		stage.Note("objects move from one release to another", "release", event.Name(r.Name), "from", owner,
			"objects", namesOf(r, some))
	}
}

func namesOf(r Release, objects []foreignObject) string {
	names := make([]string, len(objects))
	for i, o := range objects {
		names[i] = o.in(r.Namespace).String() + " (" + o.file + ")"
	}
	slices.Sort(names)
	if len(names) > shownForeign {
		names = append(names[:shownForeign], fmt.Sprintf("and %d more", len(names)-shownForeign))
	}
	return strings.Join(names, ", ")
}
