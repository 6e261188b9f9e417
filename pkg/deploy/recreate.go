package deploy

import (
	"context"
	"fmt"

	helmkube "helm.sh/helm/v3/pkg/kube"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
)

// recreation is a live object that has to be deleted before Helm creates it again.
type recreation struct {
	object
	uid    types.UID
	fields string // that changed
}

// safeToRecreate tells whether deleting a live object and recreating it loses nothing: a job, or
// a pod that no controller made.
func safeToRecreate(live *unstructured.Unstructured) bool {
	if live.GetAnnotations()[helmkube.ResourcePolicyAnno] == helmkube.KeepPolicy || metav1.GetControllerOf(live) != nil {
		return false
	}
	switch live.GroupVersionKind().GroupKind().String() {
	case "Job.batch", "Pod":
		return true
	}
	return false
}

// deleteToRecreate deletes objects of a release that has been claimed, with their pods, and waits
// for their end.
func (d *Deployer) deleteToRecreate(
	ctx context.Context, stage event.Stage, r Release, recreate []recreation, w *writeLog,
) error {
	ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still being deleted after %s", goneTimeout))
	defer cancel()
	for _, o := range recreate {
		api, err := d.resource(o.object)
		if err != nil {
			return err
		}
		foreground := metav1.DeletePropagationForeground // its pods would run beside the new ones
		err = api.Delete(ctx, o.name, metav1.DeleteOptions{PropagationPolicy: &foreground, Preconditions: onlyUID(o.uid)})
		if err != nil && !isGone(err) {
			return fmt.Errorf("delete %s: %w", o, err)
		}
		w.add("deleted", o.String())
		stage.Note("recreated, since it cannot be changed in place", "release", event.Name(r.Name), "object", o.String(),
			"changed", o.fields)
	}
	return d.awaitGone(ctx, stage, func() (left []ending, err error) {
		for _, o := range recreate {
			there, err := d.metadata(ctx, o.object)
			if err != nil {
				return nil, err
			}
			if there != nil && there.UID == o.uid {
				resource, _, err := d.endpoint(o.object)
				if err != nil {
					return nil, err
				}
				left = append(left, endingObject(resource.GroupResource(), there))
			}
		}
		return left, nil
	}, "release", event.Name(r.Name))
}
