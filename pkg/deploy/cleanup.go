package deploy

// Only what the journal names is deleted: first what users made through the platform, then releases
// in reverse order, then namespaces that devloop made and that are empty.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	goneTimeout = 60 * time.Second // pods may have to use their grace period (traefik's is 60 s)
	// shownNames limits the names in a line of the log.
	shownNames = 5
)

// Removal is what a clean-up removes.
type Removal struct {
	Only    []string // names of the releases that go, nil for all; of the others, all stays
	Before  []string // resources whose objects go first: "daskclusters.gateway.dask.org"
	CRDs    bool     // that devloop made, and with them all objects of their kinds
	Volumes bool     // claims that stateful sets of its releases made
}

// Cleanup removes what was deployed: first the objects of what.Before, then releases in reverse
// order, then empty namespaces. Releases of ours that are no longer in devloop.yaml go too, if they
// were made from its folder. An error does not stop it; the result has them all. stillEnding names
// what is deleted, but not gone yet.
func (d *Deployer) Cleanup(
	ctx context.Context, sink event.Sink, releases []Release, what Removal,
) (stillEnding []string, err error) {
	stage := sink.Stage("cleanup")
	d.mu.Lock()
	d.moves = nil // of a run that may have ended before it made them
	d.mu.Unlock()
	var (
		ours       []Release
		namespaces []string
		freed      []string // namespaces that only the releases which go are in
		unsure     []string // namespaces that may still hold something of ours
		errs       = []error{d.RemoveCheckPods(ctx)}
		left       = remnants{Deployer: d, pods: map[types.UID]string{}}
	)
	recorded, elsewhere := d.recorded(ordered(releases))
	if what.Only != nil {
		recorded = slices.DeleteFunc(recorded, func(r Release) bool { return !slices.Contains(what.Only, r.Name) })
		elsewhere = nil
		if freed, err = d.freedBy(ctx, recorded); err != nil {
			return nil, err
		}
	}
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
		if err := d.uninstall(ctx, stage, r, &left); err != nil {
			errs = append(errs, err)
			unsure = append(unsure, r.Namespace)
		}
	}
	errs = append(errs, d.removeClaims(ctx, stage, what.Volumes))
	if what.Only == nil {
		errs = append(errs, d.removeCRDs(ctx, stage, what.CRDs))
	}
	going := slices.DeleteFunc(d.journal.Names(journal.Namespace), func(name string) bool {
		return slices.Contains(unsure, name) || what.Only != nil && !slices.Contains(freed, name)
	})
	errs = append(errs, d.deleteNamespaces(ctx, stage, going))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return left.stillEnding(ctx)
}

// freedBy returns the namespaces that releases which go have objects in, and none that stays has.
func (d *Deployer) freedBy(ctx context.Context, going []Release) (freed []string, err error) {
	var staying []Release
	for _, id := range d.journal.Names(journal.Release) {
		namespace, name, _ := strings.Cut(id, "/")
		r := Release{Name: name, Namespace: namespace}
		last, err := d.last(ctx, r)
		if err == nil && last.exists() {
			_, err = d.contentsOf(ctx, r, last.version)
		}
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(going, func(other Release) bool { return other.ID() == id }) {
			staying = append(staying, r)
		}
	}
	used := d.Namespaces(staying)
	return slices.DeleteFunc(d.Namespaces(going), func(name string) bool { return slices.Contains(used, name) }), nil
}

// isUsed tells whether a release that devloop made is in a namespace besides these.
func (d *Deployer) isUsed(namespace string, besides []Release) bool {
	return slices.ContainsFunc(d.journal.Names(journal.Release), func(id string) bool {
		return strings.HasPrefix(id, namespace+"/") &&
			!slices.ContainsFunc(besides, func(r Release) bool { return r.ID() == id })
	})
}

// ordered sorts releases behind their dependencies.
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
			return releases // a cycle or a missing dependency, which devloop.yaml's check reports
		}
	}
	return done
}

// recorded returns the releases that the journal permits to delete: first those that are no longer
// in devloop.yaml, then the others in devloop.yaml's order; elsewhere has the IDs of those that
// another folder with the same project name made.
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

// reportOtherFolders reports which releases of other folders are left alone.
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
		stage.Warn("releases left alone, they were made from another folder", nil, "releases", abbreviate(there), "folder",
			strings.Join(folders, " "),
			"remove them with", "devloop delete there, or helm uninstall")
	}
	return errors.Join(errs...)
}

// stillOurs tells whether the release exists and is ours; otherwise the journal forgets it.
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

// abbreviate joins names, at most shownNames of them.
func abbreviate(names []string) string {
	if len(names) > shownNames {
		names = append(slices.Clone(names[:shownNames]), fmt.Sprintf("and %d more", len(names)-shownNames))
	}
	return strings.Join(names, " ")
}
