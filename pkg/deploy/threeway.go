package deploy

// Helm patches an object with what a release changes, so that what others have set stays. The same
// patch, made here, tells beforehand what Helm would send.

import (
	"encoding/json"

	helmkube "helm.sh/helm/v3/pkg/kube"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/devloop/devloop/pkg/kube"
)

// mergePatch is a patch of one live object.
type mergePatch struct {
	format types.PatchType // strategic where Kubernetes knows the type's fields, else JSON merge
	data   []byte
	schema strategicpatch.LookupPatchMeta // of a strategic patch
}

// threeWayPatch returns the patch that Helm's upgrade sends to make live what target says: it sets
// what differs from target, and removes what only original has. Both are manifests, original that
// of the revision before. It is nil for an object that this revision did not have: then Helm
// removes nothing. Fields that neither manifest has stay as they are.
func threeWayPatch(original, target, live *unstructured.Unstructured) (mergePatch, error) {
	if original == nil {
		original = target
	}
	var documents [3][]byte
	for i, object := range []*unstructured.Unstructured{original, target, live} {
		var err error
		if documents[i], err = json.Marshal(object); err != nil {
			return mergePatch{}, err
		}
	}
	versioned := helmkube.AsVersioned(&resource.Info{Object: target,
		Mapping: &meta.RESTMapping{GroupVersionKind: target.GroupVersionKind()}})
	if _, unknown := versioned.(runtime.Unstructured); unknown {
		data, err := jsonmergepatch.CreateThreeWayJSONMergePatch(documents[0], documents[1], documents[2])
		return mergePatch{format: types.MergePatchType, data: data}, err
	}
	schema, err := strategicpatch.NewPatchMetaFromStruct(versioned)
	if err != nil {
		return mergePatch{}, err
	}
	data, err := strategicpatch.CreateThreeWayMergePatch(documents[0], documents[1], documents[2], schema, true)
	return mergePatch{format: types.StrategicMergePatchType, data: data, schema: schema}, err
}

// isEmpty tells whether the patch changes nothing. One that is not may still be without effect: the
// API server stores a quantity of 0.5 as 500m.
func (p mergePatch) isEmpty() bool { return len(p.data) == 0 || string(p.data) == "{}" }

// withOwner returns a manifest's object as Helm writes it: with the marks of its release.
func withOwner(r Release, manifest *unstructured.Unstructured) *unstructured.Unstructured {
	o := manifest.DeepCopy()
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	labels[kube.LabelManagedBy] = "Helm"
	annotations[kube.AnnotationRelease], annotations[kube.AnnotationReleaseNamespace] = r.Name, r.Namespace
	o.SetLabels(labels)
	o.SetAnnotations(annotations)
	return o
}
