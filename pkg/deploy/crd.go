// Custom resource definitions in a chart's crds folder. Helm installs them once and never looks at them again; here a changed file
// arrives like any other, and devloop remembers which of them it made.
package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/releaseutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
)

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// establishTimeout is how long the API server may take to serve a new kind.
const establishTimeout = 30 * time.Second

// applyCRDs makes the cluster hold a chart's definitions, and waits until it serves them.
func (d *Deployer) applyCRDs(ctx context.Context, say event.Stage, r Release, crds []chart.CRD) error {
	for _, file := range crds {
		for _, document := range releaseutil.SplitManifests(string(file.File.Data)) {
			crd := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(document), &crd.Object); err != nil {
				return fmt.Errorf("release %s: %s: %w", r.ID(), file.Filename, err)
			}
			if crd.GetKind() != "CustomResourceDefinition" {
				continue
			}
			if err := d.applyCRD(ctx, say, crd); err != nil {
				return fmt.Errorf("release %s: %s: CRD %s: %w", r.ID(), file.Filename, crd.GetName(), err)
			}
		}
	}
	if len(crds) > 0 {
		d.cluster.wrote()
	}
	return nil
}

func (d *Deployer) applyCRD(ctx context.Context, say event.Stage, crd *unstructured.Unstructured) error {
	api := d.cluster.dynamic.Resource(definitions)
	before, err := api.Get(ctx, crd.GetName(), metav1.GetOptions{})
	if isNew := apierrors.IsNotFound(err); isNew {
		err = d.journal.Record(kindCRD, crd.GetName())
	}
	if err != nil {
		return err
	}
	content, err := json.Marshal(crd)
	if err != nil {
		return err
	}
	force := true // Helm, or an earlier devloop, may have written the same fields
	after, err := api.Patch(ctx, crd.GetName(), types.ApplyPatchType, content, metav1.PatchOptions{FieldManager: "devloop", Force: &force})
	if err != nil {
		return err
	}
	if before == nil || before.GetGeneration() != after.GetGeneration() {
		say.Note("CRD applied", "crd", crd.GetName())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, establishTimeout, fmt.Errorf("not served after %s", establishTimeout))
	defer cancel()
	return d.until(ctx, func() (string, error) {
		now, err := api.Get(ctx, crd.GetName(), metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		conditions, _, err := unstructured.NestedSlice(now.Object, "status", "conditions")
		for _, condition := range conditions {
			if c, ok := condition.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
				return "", err
			}
		}
		return "the API server", err
	})
}
