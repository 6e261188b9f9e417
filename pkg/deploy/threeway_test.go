package deploy

import (
	"encoding/json"
	"fmt"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// yamlObject returns the object that a manifest describes.
func yamlObject(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(manifest), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// What others have set stays, what the revision before had and this one has not is removed, and
// what was changed by hand is reverted.
func TestThreeWayPatch(t *testing.T) {
	const web = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
	const gadget = "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: web}\n"
	for name, test := range map[string]struct {
		original, target, live string
		format                 types.PatchType
		patch, merged          string // the merged spec
	}{
		"nothing differs": {
			web + "spec: {replicas: 1}", web + "spec: {replicas: 1}", web + "spec: {replicas: 1, paused: true}",
			types.StrategicMergePatchType, "{}", "{replicas: 1, paused: true}",
		},
		"changed by hand": {
			web + "spec: {replicas: 1}", web + "spec: {replicas: 1}", web + "spec: {replicas: 3}",
			types.StrategicMergePatchType, `{"spec":{"replicas":1}}`, "{replicas: 1}",
		},
		"a container injected by others": {
			web + "spec: {template: {spec: {containers: [{name: a, image: a:1}, {name: b, image: b:1}]}}}",
			web + "spec: {template: {spec: {containers: [{name: a, image: a:2}]}}}",
			web + "spec: {template: {spec: {containers: [{name: a, image: a:1, tty: true}, {name: b, image: b:1}, " +
				"{name: proxy, image: p:1}]}}}",
			types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"a"}],` +
				`"containers":[{"image":"a:2","name":"a"},{"$patch":"delete","name":"b"}]}}}}`,
			"{template: {spec: {containers: [{name: a, image: a:2, tty: true}, {name: proxy, image: p:1}]}}}",
		},
		"adopted": {
			"", web + "spec: {replicas: 1}", web + "spec: {replicas: 3, paused: true}",
			types.StrategicMergePatchType, `{"spec":{"replicas":1}}`, "{replicas: 1, paused: true}",
		},
		"a type that Kubernetes does not know": {
			gadget + "spec: {size: 1, color: red}", gadget + "spec: {size: 1}", gadget + "spec: {size: 2, color: red, more: 1}",
			types.MergePatchType, `{"spec":{"color":null,"size":1}}`, "{size: 1, more: 1}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var original *unstructured.Unstructured
			if test.original != "" {
				original = yamlObject(t, test.original)
			}
			live := yamlObject(t, test.live)
			patch, err := threeWayPatch(original, yamlObject(t, test.target), live)
			if err != nil {
				t.Fatal(err)
			}
			if patch.format != test.format || string(patch.data) != test.patch || patch.isEmpty() != (test.patch == "{}") {
				t.Errorf("%s %s", patch.format, patch.data)
			}
			merged, err := patch.apply(live)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := yaml.Marshal(merged.Object["spec"])
			var spec any
			if err := yaml.Unmarshal([]byte(test.merged), &spec); err != nil {
				t.Fatal(err)
			}
			if want, _ := yaml.Marshal(spec); string(got) != string(want) {
				t.Errorf("merged:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// apply returns live as patched, without what the API server would default.
func (p mergePatch) apply(live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	before, err := json.Marshal(live)
	if err != nil {
		return nil, err
	}
	var after []byte
	if p.format == types.StrategicMergePatchType {
		after, err = strategicpatch.StrategicMergePatchUsingLookupPatchMeta(before, p.data, p.schema)
	} else {
		after, err = jsonpatch.MergePatch(before, p.data)
	}
	if err != nil {
		return nil, fmt.Errorf("patch %s: %w", live.GetName(), err)
	}
	merged := &unstructured.Unstructured{}
	return merged, json.Unmarshal(after, merged)
}
