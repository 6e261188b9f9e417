package session

import (
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/node"
)

// tidyJournals removes the journals of clusters that are gone: their minikube profiles were
// deleted, or recreated for this cluster. A journal that may still be needed stays. here is the
// profile of this cluster, if it has one.
func tidyJournals(stage event.Stage, dir, uid string, here node.ProfileID) {
	removed, err := journal.RemoveGone(dir, func(cluster, place string) bool {
		was, ok := node.ParseProfileID(place)
		return ok && cluster != uid && (was.IsDeleted() || was.IsReplacedBy(here))
	})
	for _, name := range removed {
		stage.Detail("journal removed, its cluster is gone", "file", name)
	}
	if err != nil {
		stage.Detail("journals of clusters that are gone stay", "why", err.Error())
	}
}

// recordPlace records in which minikube profile the journal's cluster is.
func recordPlace(j *journal.Journal, here node.ProfileID) error {
	var errs []error
	places := j.Names(journal.Place)
	if !slices.Contains(places, here.String()) {
		errs = append(errs, j.Record(journal.Place, here.String()))
	}
	for _, place := range places {
		if was, ok := node.ParseProfileID(place); ok && was.IsReplacedBy(here) { // by a renewed certificate only
			errs = append(errs, j.Forget(journal.Place, place))
		}
	}
	return errors.Join(errs...)
}

// isGone tells whether minikube has deleted the profiles of a journal's cluster.
func isGone(j *journal.Journal) bool {
	places := j.Names(journal.Place)
	return len(places) > 0 && !slices.ContainsFunc(places, func(place string) bool {
		was, ok := node.ParseProfileID(place)
		return !ok || !was.IsDeleted()
	})
}

// IsDeleted tells whether the cluster on which an earlier devloop deployed the project is gone: err
// says that there is no kube context for it, and minikube has deleted its profile. Then there is
// nothing to remove, and its journal goes, too.
func IsDeleted(project string, err error) bool {
	var missing *kube.NoContextError
	if !errors.As(err, &missing) {
		return false
	}
	dir, err := journal.DefaultDir()
	if err != nil {
		return false
	}
	removed, _ := journal.RemoveGone(dir, func(_, place string) bool { // those that stay are found again
		was, ok := node.ParseProfileID(place)
		return ok && was.IsDeleted() && (missing.Context == "" || filepath.Base(was.Folder) == missing.Context)
	})
	return slices.ContainsFunc(removed, func(file string) bool {
		return strings.HasSuffix(file, "_"+url.PathEscape(project)+".jsonl")
	})
}
