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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
)

// recordClaims records the volume claims that stateful sets of a release made: they outlive it,
// since they hold data. A claim that is older than the release, by the API server's clock, is not
// ours: the stateful set found it there.
func (d *Deployer) recordClaims(ctx context.Context, stage event.Stage, r Release, history []*release.Release) error {
	installed := firstDeployed(history)
	var older []string
	for _, record := range history {
		named, _ := parseObjects(record.Manifest, r.Namespace) // Helm has parsed it before
		for _, o := range named {
			if len(o.claims) == 0 {
				continue
			}
			list, err := d.cluster.Client.CoreV1().PersistentVolumeClaims(o.namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return fmt.Errorf("list volume claims in %s: %w", o.namespace, err)
			}
			for i := range list.Items {
				claim := &list.Items[i]
				id := claim.Namespace + "/" + claim.Name
				switch {
				case !o.creates(claim):
				case d.isOurClaim(id, claim) || !claim.CreationTimestamp.Time.Before(installed):
					err := errors.Join(d.journal.Record(journal.Volume, id),
						d.recordUID(journal.Volume, id, claim.UID), d.recordFolder(journal.Volume, id))
					if err != nil {
						return err
					}
				case !slices.Contains(older, id):
					older = append(older, id)
					stage.Note("volume claim stays, it was there before the release", "claim", id)
				}
			}
		}
	}
	return nil
}

// isOurClaim tells whether a claim was recorded at an earlier uninstallation.
func (d *Deployer) isOurClaim(id string, claim metav1.Object) bool {
	return d.journal.Has(journal.Volume, id) && d.matchesUID(journal.Volume, id, claim.GetUID())
}

// creates tells whether a stateful set makes claims with this name and these labels.
func (o object) creates(claim metav1.Object) bool {
	for key, value := range o.selector {
		if claim.GetLabels()[key] != value {
			return false
		}
	}
	return slices.ContainsFunc(o.claims, func(template string) bool {
		ordinal, ok := strings.CutPrefix(claim.GetName(), template+"-"+o.name+"-")
		_, err := strconv.Atoi(ordinal)
		return ok && err == nil
	})
}

// firstDeployed is when a release was first installed, in whole seconds like the API server's
// times; zero if no revision says so.
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

// removeClaims deletes the volume claims that removed releases have left, or reports that they
// stay.
func (d *Deployer) removeClaims(ctx context.Context, stage event.Stage, remove bool) error {
	var errs []error
	for _, id := range d.journal.Names(journal.Volume) {
		if folder, other := d.otherFolder(journal.Volume, id); other {
			if remove {
				stage.Warn("volume claim left alone, it was made from another folder", nil, "claim", id, "folder", folder,
					"remove it with", "devloop delete --volumes there")
			}
			continue
		}
		namespace, name, _ := strings.Cut(id, "/")
		claims := d.cluster.Client.CoreV1().PersistentVolumeClaims(namespace)
		there, err := claims.Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil && !d.matchesUID(journal.Volume, id, there.UID): // someone else's of that name
		case err == nil && !remove:
			stage.Note("volume claim stays, it holds data", "claim", id, "remove it with", "devloop delete --volumes")
			continue
		case err == nil:
			err = stage.Step(ctx, "volume claim deleted", func(ctx context.Context) ([]any, error) {
				return nil, claims.Delete(ctx, name, metav1.DeleteOptions{Preconditions: onlyUID(there.UID)})
			}, "claim", id)
		}
		if err != nil && !isGone(err) {
			errs = append(errs, fmt.Errorf("volume claim %s: %w", id, err))
			continue
		}
		errs = append(errs, d.forgetEntry(journal.Volume, id))
	}
	return errors.Join(errs...)
}
