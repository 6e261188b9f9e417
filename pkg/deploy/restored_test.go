package deploy

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"
)

// edition is one version of an object, and who wrote it.
type edition struct{ manager, subresource, manifest string }

// written returns the object after all of them, with the managed fields that the API server keeps.
func written(t *testing.T, editions ...edition) *unstructured.Unstructured {
	t.Helper()
	var live *unstructured.Unstructured
	for _, w := range editions {
		next := exactObject(t, w.manifest)
		if live == nil {
			live = &unstructured.Unstructured{Object: map[string]any{"apiVersion": next.GetAPIVersion(), "kind": next.GetKind()}}
		}
		converter := managedfields.NewDeducedTypeConverter()
		if scheme.Scheme.Recognizes(next.GroupVersionKind()) {
			converter = applyconfigurations.NewTypeConverter(scheme.Scheme)
		}
		manager, err := managedfields.NewDefaultFieldManager(converter, sameVersion{}, scheme.Scheme,
			scheme.Scheme, next.GroupVersionKind(), next.GroupVersionKind().GroupVersion(), w.subresource, nil)
		if err != nil {
			t.Fatal(err)
		}
		next.SetManagedFields(live.GetManagedFields())
		updated, err := manager.Update(live, next, w.manager)
		if err != nil {
			t.Fatal(err)
		}
		live = updated.(*unstructured.Unstructured)
	}
	entries := live.GetManagedFields()
	for i, entry := range entries {
		if entry.Subresource == "scale" { // as the API server has it
			entries[i].Time = nil
		}
	}
	live.SetManagedFields(entries)
	return live
}

// sameVersion converts nothing.
type sameVersion struct{}

func (sameVersion) Convert(_, _, _ any) error { return errors.ErrUnsupported }

func (sameVersion) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	return in, nil
}

func (sameVersion) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// exactObject is yamlObject, with whole numbers as the API server's client has them.
func exactObject(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	content, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(content, &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestRestored(t *testing.T) {
	const (
		web   = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, labels: {app: web}}\n"
		cm    = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n"
		route = "apiVersion: example.com/v1\nkind: Route\nmetadata: {name: web}\n"
	)
	pod := func(template string) string {
		return web + "spec: {replicas: 1, template: {metadata: {labels: {app: web}}, spec: " + template + "}}"
	}
	one := pod("{containers: [{name: main, image: a:1, env: [{name: LEVEL, value: info}]}]}")
	for name, test := range map[string]struct {
		manifest string
		others   []edition // after the release's own
		want     string    // what is reverted, "" if nothing is
	}{
		"nothing": {one, nil, ""},
		"a value": {cm + "data: {text: one}",
			[]edition{{"kubectl-patch", "", cm + "data: {text: two}"}}, ".data.text one → two"},
		"a key that the chart has not": {cm + "data: {text: one}",
			[]edition{{"kubectl-edit", "", cm + "data: {text: one, more: x}"}}, ".data.more added"},
		"a key that was removed": {cm + "data: {text: one, more: x}",
			[]edition{{"kubectl-edit", "", cm + "data: {text: one}"}}, ".data.more removed"},
		"all keys of a map that the chart has not": {cm,
			[]edition{{"k9s", "", cm + "data: {a: x, b: x}"}}, ".data added"},
		"scaled": {one, []edition{{"kubectl", "scale", strings.Replace(one, "replicas: 1", "replicas: 3", 1)}},
			".spec.replicas 1 → 3"},
		"scaled by an autoscaler": {one,
			[]edition{{"kube-controller-manager", "scale", strings.Replace(one, "replicas: 1", "replicas: 3", 1)}}, ""},
		"a container's image": {one, []edition{{"kubectl-set", "", strings.Replace(one, "a:1", "a:0", 1)}},
			".spec.template.spec.containers[main].image a:1 → a:0"},
		"variables": {one, []edition{{"kubectl-set", "",
			pod("{containers: [{name: main, image: a:1, env: [{name: LEVEL, value: debug}, {name: NEW, value: x}]}]}")}},
			".spec.template.spec.containers[main].env[LEVEL].value info → debug, " +
				".spec.template.spec.containers[main].env[NEW] added"},
		"the first variable": {pod("{containers: [{name: main, image: a:1}]}"), []edition{{"kubectl-set", "", one}},
			".spec.template.spec.containers[main].env added"},
		"a variable's source": {one, []edition{{"kubectl-edit", "",
			strings.Replace(one, "value: info", "valueFrom: {fieldRef: {fieldPath: metadata.name}}", 1)}},
			".spec.template.spec.containers[main].env[LEVEL].value removed, " +
				".spec.template.spec.containers[main].env[LEVEL].valueFrom added"},
		"a container": {one, []edition{{"Mozilla", "",
			strings.Replace(one, "containers: [", "containers: [{name: extra, image: b}, ", 1)}},
			".spec.template.spec.containers[extra] added"},
		"the order of containers": {pod("{initContainers: [{name: a}, {name: b}]}"),
			[]edition{{"kubectl-edit", "", pod("{initContainers: [{name: b}, {name: a}]}")}},
			".spec.template.spec.initContainers [{\"name\":\"a\"},{\"name\":\"b\"}] → [{\"name\":\"b\"},{\"name\":\"a\"}]"},
		"a container that was removed": {pod("{containers: [{name: first, image: a}, {name: main, image: b}]}"),
			[]edition{{"kubectl-edit", "", pod("{containers: [{name: main, image: b}]}")}},
			".spec.template.spec.containers[first] removed"},
		"an injected container": {one, []edition{{"sidecar-injector", "",
			strings.Replace(one, "containers: [", "containers: [{name: extra, image: b}, ", 1)}}, ""},
		"an injected container that was edited": {one, []edition{
			{"sidecar-injector", "", strings.Replace(one, "containers: [", "containers: [{name: extra, image: b}, ", 1)},
			{"kubectl-edit", "", strings.Replace(one, "containers: [", "containers: [{name: extra, image: c}, ", 1)}}, ""},
		"a label": {one, []edition{{"kubectl-label", "",
			strings.Replace(one, "labels: {app: web}", "labels: {app: web, a.b/c: x}", 1)}},
			".metadata.labels[a.b/c] added"},
		"a restart": {one, []edition{{"kubectl-rollout", "", strings.Replace(one, "template: {metadata: {",
			"template: {metadata: {annotations: {kubectl.kubernetes.io/restartedAt: now}, ", 1)}}, ""},
		"a restart, and an annotation": {one, []edition{{"kubectl-edit", "", strings.Replace(one, "template: {metadata: {",
			"template: {metadata: {annotations: {kubectl.kubernetes.io/restartedAt: now, more: x}, ", 1)}},
			".spec.template.metadata.annotations.more added"},
		"a finalizer": {cm,
			[]edition{{"kubectl-edit", "", strings.Replace(cm, "name: web", "name: web, finalizers: [a/b]", 1)}}, ""},
		"a controller's annotation": {cm, []edition{{"some-operator", "",
			strings.Replace(cm, "name: web", "name: web, annotations: {a: b}", 1)}}, ""},
		"an unknown program's change and addition": {cm + "data: {text: one}",
			[]edition{{"python-requests", "", cm + "data: {text: two, more: x}"}}, ".data.text one → two"},
		"a controller's change": {cm + "data: {text: one}",
			[]edition{{"ca-controller", "", cm + "data: {text: two}"}}, ""},
		"a map that is one value": {"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}}",
			[]edition{{"kubectl-edit", "",
				"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web, more: x}}"}},
			`.spec.selector {"app":"web"} → {"app":"web","more":"x"}`},
		"a port with the default protocol": {
			"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80, targetPort: 1}]}",
			[]edition{{"kubectl-edit", "",
				"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80, protocol: TCP, targetPort: 2}]}"}},
			".spec.ports[80/TCP].protocol added, .spec.ports[80/TCP].targetPort 1 → 2"},
		"an element of a list at the top": {
			"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: web}\nsecrets: [{name: a}]",
			[]edition{{"kubectl-edit", "",
				"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: web}\nsecrets: [{name: a}, {name: b}]"}},
			".secrets[b] added"},
		"a custom resource": {route + "spec: {hosts: [a], to: {port: 1}}",
			[]edition{{"kubectl-edit", "", route + "spec: {hosts: [a, b], to: {port: 2}, more: {x: y}}"}},
			`.spec.hosts ["a"] → ["a","b"], .spec.more added, .spec.to.port 1 → 2`},
	} {
		t.Run(name, func(t *testing.T) {
			own := edition{"devloop", "", test.manifest}
			live := written(t, append([]edition{own}, test.others...)...)
			owners := ownersOf(live, time.Time{})
			r := restoration{owners, func(fieldpath.Path, []fieldManager) bool { return false }}
			restored := r.restored(live, exactObject(t, test.manifest))
			found := drift{}
			for _, one := range owners.differences(nil, live.Object, restored.Object) {
				found.changes = append(found.changes, change{one, owners.of(one.path)})
			}
			if got := found.text(nil); got != test.want {
				t.Errorf("reverted: %s\nwant:     %s", got, test.want)
			}
			again := r.restored(restored, exactObject(t, test.manifest))
			if left := owners.differences(nil, restored.Object, again.Object); len(left) > 0 {
				t.Errorf("the next run would change %s again", fieldText(left[0].path))
			}
		})
	}
}

// What a hook's or command's kubectl has set is part of the release.
func TestOwnersBeforeRelease(t *testing.T) {
	const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n"
	live := written(t, edition{"devloop", "", cm + "data: {text: one}"},
		edition{"kubectl-patch", "", cm + "data: {text: two, more: x}"})
	now := live.GetManagedFields()[1].Time.Time
	r := func(released time.Time) string {
		owners := ownersOf(live, released)
		restored := restoration{owners, func(fieldpath.Path, []fieldManager) bool { return false }}.
			restored(live, exactObject(t, cm+"data: {text: one}"))
		text, _, _ := unstructured.NestedMap(restored.Object, "data")
		content, _ := json.Marshal(text)
		return string(content)
	}
	if got := r(now); got != `{"more":"x","text":"two"}` {
		t.Errorf("set by then: %s", got)
	}
	if got := r(now.Add(-time.Second)); got != `{"text":"one"}` {
		t.Errorf("set since then: %s", got)
	}
}

func TestWriterOf(t *testing.T) {
	for kind, names := range map[writer]string{
		releaseWriter: "devloop helm",
		person: "kubectl kubectl-edit kubectl-client-side-apply k9s node-fetch Mozilla kubernetes-dashboard-api oc " +
			"headlamp-server",
		controller: "kube-controller-manager manager cert-manager-cainjector keda-operator vpa-autoscaler istio-webhook " +
			"sidecar-injector argocd-controller kubelet",
		unknownWriter: "python-requests kubectlish terraform Go-http-client",
	} {
		for _, name := range strings.Fields(names) {
			if got := writerOf(name); got != kind {
				t.Errorf("%s is %d, not %d", name, got, kind)
			}
		}
	}
}

// Values that are secret, or too long for a line, are not shown.
func TestDriftText(t *testing.T) {
	var fields []change
	add := func(name string, live, was any) {
		path := fieldpath.MakePathOrDie("data", name)
		fields = append(fields, change{difference{path, live, was},
			[]fieldManager{{name: "kubectl-edit", writer: person, time: metav1.Now().Time}}})
	}
	add("a", "new", "old")
	add("b", "the password: hunter22", "empty")
	add("c", strings.Repeat("x", 100), "short")
	add("d", "two\nlines", "short")
	add("e", "", "x")
	add("f", "x", "y")
	add("g", "x", "y")
	got := drift{changes: fields}.text([]string{"hunter22"})
	const want = `.data.a old → new, .data.b changed, .data.c changed, .data.d changed, .data.e x → "", 2 more`
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	secret := drift{object: object{name: "s"}, live: &unstructured.Unstructured{}, changes: fields[:1]}
	secret.kind.Kind = "Secret"
	if got := secret.line(nil); !strings.HasPrefix(got, "changed by hand: secret/s .data.a changed (kubectl-edit, ") {
		t.Error(got)
	}
}

// Managed fields are what a client says they are.
func TestOwnersOfNonsense(t *testing.T) {
	const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {text: one, more: x}\n"
	for _, fields := range []string{
		`{"k:{\"name\":\"x\"}":{".":{}}}`, `{"f:data":{"k:{\"name\":\"x\"}":{"f:more":{}}}}`,
		`{"v:1":{},"i:3":{"f:x":{}}}`, `{".":{}}`,
		`{"f:metadata":{"v:1":{}}}`, `{"f:metadata":{"f:name":{},"f:uid":{}}}`,
		`{"f:kind":{},"f:data":{"f:text":{"f:more":{}}}}`,
		`{"f:data":3}`, `{"":{}}`,
	} {
		live := exactObject(t, cm)
		live.SetManagedFields([]metav1.ManagedFieldsEntry{
			{Manager: "kubectl-edit", FieldsV1: metav1.NewFieldsV1(fields)}})
		owners := ownersOf(live, time.Time{})
		restored := restoration{owners, func(fieldpath.Path, []fieldManager) bool { return false }}.
			restored(live, exactObject(t, cm))
		if found := owners.differences(nil, live.Object, restored.Object); len(found) > 0 {
			t.Errorf("%s: %v", fields, found)
		}
	}
}
