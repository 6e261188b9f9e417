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
					// from an earlier installation
					known := d.journal.Has(journal.Volume, id) && d.matchesUID(journal.Volume, id, pvc.UID)
					switch {
					case !known && pvc.CreationTimestamp.Time.Before(begun):
						if !slices.Contains(older, id) {
							older = append(older, id)
							stage.Note("volume claim stays, it was there before the release", "claim", id)
						}
						continue
					case !known:
						if err := d.journal.Record(journal.Volume, id); err != nil {
							return err
						}
					}
					if err := errors.Join(d.recordUID(journal.Volume, id, pvc.UID), d.recordFolder(journal.Volume, id)); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
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
