package deploy

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

const thing = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: things.example.test }
spec:
  group: example.test
  names: { kind: Thing, plural: things }
  scope: Namespaced
  versions: [{ name: v1, served: true, storage: true }, { name: v0, served: false }]
`

// An established CRD, whose kind the API server lists a moment later.
func TestDefinitionIsListed(t *testing.T) {
	const asked = 3 // times, until the kind is in the list
	var lists atomic.Int32
	answer := func(value any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(value)
		}
	}
	type object = map[string]any
	mux := http.NewServeMux()
	mux.HandleFunc("/version", answer(object{"major": "1", "minor": "33", "gitVersion": "v1.33.0"}))
	mux.HandleFunc("/api", answer(object{"kind": "APIVersions", "versions": []string{}}))
	mux.HandleFunc("/apis", func(w http.ResponseWriter, r *http.Request) {
		groups := []object{}
		if lists.Add(1) >= asked {
			v1 := object{"groupVersion": "example.test/v1", "version": "v1"}
			groups = append(groups, object{"name": "example.test", "versions": []object{v1}, "preferredVersion": v1})
		}
		answer(object{"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})(w, r)
	})
	mux.HandleFunc("/apis/example.test/v1", answer(object{"kind": "APIResourceList", "groupVersion": "example.test/v1",
		"resources": []object{{"name": "things", "kind": "Thing", "namespaced": true, "verbs": []string{"get"}}}}))
	mux.HandleFunc("GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.test", answer(object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": object{"name": "things.example.test", "uid": "uid",
			"managedFields": []object{{"manager": kube.FieldManager}}},
		"status": object{"conditions": []object{{"type": "Established", "status": "True"}}},
	}))
	mux.HandleFunc("PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.test", answer(object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": object{"name": "things.example.test", "uid": "uid", "generation": 2},
	}))
	server := httptest.NewServer(mux)
	defer server.Close()

	config := &rest.Config{Host: server.URL}
	client, err := metadata.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.RESTClient().(*rest.RESTClient).Client.CloseIdleConnections()
	cached := memory.NewMemCacheClient(plain)
	d := &Deployer{journal: permits{journal.CRD: {"things.example.test"}}, cluster: &kube.Cluster{Metadata: client,
		Discovery: cached,
		Mapper:    restmapper.NewDeferredDiscoveryRESTMapper(cached)}}

	files := manifestObjects(thing)
	r := Release{Name: "web", Namespace: "demo"}
	if err := d.applyCRDs(t.Context(), event.Stage{}, r, files, &writeLog{}); err != nil {
		t.Fatal(err)
	}
	if n := lists.Load(); n != asked {
		t.Errorf("the kind was looked for %d times, and is there since the %dth", n, asked)
	}
	made := schema.GroupKind{Group: "example.test", Kind: "Thing"}
	if _, err := d.cluster.Mapper.RESTMapping(made, "v1"); err != nil {
		t.Errorf("Helm cannot write an object of it: %v", err)
	}
}

// Only the CRD that devloop made is written, not one of another project, even under the same name.
func TestDefinitionsOfOthersAreNotWritten(t *testing.T) {
	const name = "things.example.test"
	for what, test := range map[string]struct {
		journal permits
		there   string // UID, "" if it is not there
		written bool
		uid     string // that the patch demands
	}{
		"not there": {permits{}, "", true, ""},
		"not there any more": {permits{journal.CRD: {name}, journal.UID: {"crd " + name + "@before"}}, "",
			true, ""},
		"ours": {permits{journal.CRD: {name}, journal.UID: {"crd " + name + "@now"}}, "now",
			true, "now"},
		"an earlier devloop's": {permits{journal.CRD: {name}}, "now", true, "now"},
		"another project's":    {permits{}, "now", false, ""},
		"another project's, in place of ours": {permits{journal.CRD: {name}, journal.UID: {"crd " + name + "@before"}},
			"now", false, ""},
	} {
		t.Run(what, func(t *testing.T) {
			var patched []byte
			mux := http.NewServeMux()
			path := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/" + name
			crd := func(uid string) map[string]any {
				return map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
					"metadata": map[string]any{"name": name, "uid": uid,
						"managedFields": []any{map[string]any{"manager": kube.FieldManager}}},
					"status": map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}}}
			}
			mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if test.there == "" && patched == nil {
					w.WriteHeader(http.StatusNotFound)
					_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure",
						"reason": "NotFound", "code": 404})
					return
				}
				_ = json.NewEncoder(w).Encode(crd("now"))
			})
			mux.HandleFunc("PATCH "+path, func(w http.ResponseWriter, r *http.Request) {
				patched, _ = io.ReadAll(r.Body)
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(crd("now"))
			})
			server := httptest.NewServer(mux)
			defer server.Close()
			client, err := metadata.NewForConfig(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			d := &Deployer{journal: test.journal, settled: map[string]settledCRD{},
				cluster: &kube.Cluster{Metadata: client}}
			wanted := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(thing), &wanted.Object); err != nil {
				t.Fatal(err)
			}
			ours, err := d.applyCRD(t.Context(), event.Stage{}, wanted, &writeLog{})
			if err != nil || ours != test.written || (patched != nil) != test.written {
				t.Fatalf("ours: %t, %v, written: %s", ours, err, patched)
			}
			if !test.written {
				return
			}
			got := &unstructured.Unstructured{}
			if err := json.Unmarshal(patched, &got.Object); err != nil || string(got.GetUID()) != test.uid {
				t.Errorf("written to the one of UID %q, %v", got.GetUID(), err)
			}
			if !test.journal.Has(journal.CRD, name) || !test.journal.Has(journal.UID, "crd "+name+"@now") {
				t.Errorf("the journal has %v", test.journal)
			}
		})
	}
}

// An API server takes long to merge schemas. So a CRD is sent only if that may change something.
func TestCRDIsSentOnlyIfItMayDiffer(t *testing.T) {
	server, cluster := newAPIServer(t)
	d := New(cluster, "demo", onDisk(t), Options{})
	r := Release{Name: "web", Namespace: "default"}
	apply := func(manifest string) (sent int) {
		t.Helper()
		before := len(server.written())
		crds := manifestObjects(manifest)
		if _, err := d.try(t.Context(), attempt{Release: r, crds: crds}); err != nil {
			t.Fatal(err)
		}
		if err := d.applyCRDs(t.Context(), event.Stage{}, r, crds, &writeLog{}); err != nil {
			t.Fatal(err)
		}
		return len(server.written()) - before
	}
	wider := strings.Replace(thing, "plural: things", "plural: things, singular: thing", 1)
	if n := apply(thing); n != 1 {
		t.Errorf("a new one was written %d times", n)
	}
	if n := apply(thing); n != 0 {
		t.Errorf("the same one was written %d times", n)
	}
	if n := apply(wider); n != 1 {
		t.Errorf("another one was written %d times", n)
	}
	apply(wider)
	path := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.test"
	server.mu.Lock()
	byHand := server.objects[path].DeepCopy()
	byHand.Object["spec"].(map[string]any)["scope"] = "Cluster"
	server.put(byHand, path)
	server.mu.Unlock()
	if n := apply(wider); n != 1 {
		t.Errorf("one that was changed by hand was written %d times", n)
	}
}

func TestCRDsOfOthersStay(t *testing.T) {
	remembered := onDisk(t)
	by := func(manager string) func(*unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) {
			u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager}})
		}
	}
	l := cluster(t, remembered, of("CustomResourceDefinition", "ours", by(kube.FieldManager)),
		of("CustomResourceDefinition", "theirs", by("kubectl")),
		of("CustomResourceDefinition", "of-an-earlier-devloop", by(kube.FieldManager)), of("CustomResourceDefinition",
			"made-anew", by(kube.FieldManager)))
	for name, uid := range map[string]types.UID{"ours": "uid-ours", "theirs": "", "gone": "uid-gone",
		"of-an-earlier-devloop": "", "made-anew": "uid-before"} {
		if err := remembered.Record(journal.CRD, name); err != nil {
			t.Fatal(err)
		}
		if uid != "" {
			if err := l.recordUID(journal.CRD, name, uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.removeCRDs(t.Context(), l.stage(), false); err != nil {
		t.Fatal(err)
	}
	if log := l.log(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "CRDs stay") ||
		strings.Contains(log, "theirs") || strings.Contains(log, "made-anew") {
		t.Errorf("it says %q", log)
	}
	if err := l.removeCRDs(t.Context(), l.stage(), true); err != nil {
		t.Fatal(err)
	}
	got, want := deletions(l.dynamic.Actions()), []string{"of-an-earlier-devloop UID uid-of-an-earlier-devloop",
		"ours UID uid-ours"}
	if left := slices.Concat(remembered.Names(journal.CRD), remembered.Names(journal.UID)); !slices.Equal(got, want) ||
		len(left) > 0 {
		t.Errorf("deleted %q, the journal has %q", got, left)
	}
}
