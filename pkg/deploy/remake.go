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

// remake is a live object that has to be deleted, so that Helm creates it anew.
type remake struct {
	object
	uid    types.UID
	fields string // that changed
}

// cheapToRemake tells whether deleting a live object and creating it anew loses nothing: a job, or
// a pod that no controller made.
func cheapToRemake(live *unstructured.Unstructured) bool {
	if live.GetAnnotations()[helmkube.ResourcePolicyAnno] == helmkube.KeepPolicy || metav1.GetControllerOf(live) != nil {
		return false
	}
	switch live.GroupVersionKind().GroupKind().String() {
	case "Job.batch", "Pod":
		return true
	}
	return false
}

// deleteForRemake deletes objects of a release that has been claimed, with their pods, and waits
// for their end.
func (d *Deployer) deleteForRemake(
	ctx context.Context, stage event.Stage, r Release, anew []remake, w *writeLog,
) error {
	ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still being deleted after %s", goneTimeout))
	defer cancel()
	for _, o := range anew {
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
		stage.Note("made anew, since it cannot be changed in place", "release", event.Name(r.Name), "object", o.String(),
			"changed", o.fields)
	}
	err := d.until(ctx, func() (string, error) {
		for _, o := range anew {
			there, err := d.metadata(ctx, o.object)
			if err != nil {
				return "", err
			}
			if there != nil && there.UID == o.uid {
				return o.String(), nil
			}
		}
		return "", nil
	})
	if err != nil && ctx.Err() != nil {
		return event.WithHint(err, "it or one of its pods has a finalizer that is never removed, or a pod does not end: "+
			"kubectl describe pods -n "+r.Namespace)
	}
	return err
}
