package deploy

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/devloop/devloop/pkg/event"
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

// An API server that has established a definition, and lists its kind a moment later only.
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
		"metadata": object{"name": "things.example.test", "managedFields": []object{{"manager": fieldManager}}},
		"status":   object{"conditions": []object{{"type": "Established", "status": "True"}}},
	}))
	mux.HandleFunc("PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.test", answer(object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": object{"name": "things.example.test", "generation": 2},
	}))
	server := httptest.NewServer(mux)
	defer server.Close()

	config := &rest.Config{Host: server.URL}
	dynamicClient, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.RESTClient().(*rest.RESTClient).Client.CloseIdleConnections()
	cached := memory.NewMemCacheClient(plain)
	d := &Deployer{journal: permits{}, cluster: &Cluster{dynamic: dynamicClient, discovery: cached,
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached)}}

	files := []chart.CRD{{Filename: "crds/things.yaml", File: &chart.File{Data: []byte(thing)}}}
	if err := d.applyCRDs(t.Context(), event.Stage{}, Release{Name: "web", Namespace: "demo"}, files); err != nil {
		t.Fatal(err)
	}
	if n := lists.Load(); n != asked {
		t.Errorf("the kind was looked for %d times, and is there since the %dth", n, asked)
	}
	made := schema.GroupKind{Group: "example.test", Kind: "Thing"}
	if _, err := d.cluster.mapper.RESTMapping(made, "v1"); err != nil {
		t.Errorf("Helm cannot write an object of it: %v", err)
	}
}
