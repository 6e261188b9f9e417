package deploy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/kube"
)

// apiServer keeps objects as an API server does, as far as a release needs: discovery, dry runs,
// CRDs, preconditions. It has no controllers, and merges each patch as a JSON merge patch.
type apiServer struct {
	mu       sync.Mutex
	kinds    []metav1.APIResource
	objects  map[string]*unstructured.Unstructured // by their paths
	version  int
	requests []string // "GET /api/v1/…"
	writes   []string // of them, what is no dry run
}

// metadataOnly ends the requests for objects without their content.
const metadataOnly = " metadata"

// newAPIServer starts an empty one, and returns the cluster that it is.
func newAPIServer(t *testing.T) (*apiServer, *kube.Cluster) {
	t.Helper()
	s := &apiServer{objects: map[string]*unstructured.Unstructured{}, kinds: []metav1.APIResource{
		{Version: "v1", Kind: "Namespace", Name: "namespaces"},
		{Version: "v1", Kind: "Secret", Name: "secrets", Namespaced: true},
		{Version: "v1", Kind: "ConfigMap", Name: "configmaps", Namespaced: true},
		{Group: definitions.Group, Version: "v1", Kind: "CustomResourceDefinition", Name: definitions.Resource},
	}}
	for _, name := range []string{"default", metav1.NamespaceSystem} {
		s.put(&unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace",
			"metadata": map[string]any{"name": name}}}, "/api/v1/namespaces/"+name)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	write(t, dir, map[string]string{"kubeconfig": fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: here, cluster: {server: %q}}]
users: [{name: here, user: {token: here}}]
contexts: [{name: here, context: {cluster: here, user: here}}]
`, server.URL)})
	t.Setenv("KUBECONFIG", filepath.Join(dir, "kubeconfig"))
	cluster, err := kube.OpenCluster("here")
	if err != nil {
		t.Fatal(err)
	}
	cluster.Version = "v1.34.0"
	return s, cluster
}

// put stores an object under its path, as a new version.
func (s *apiServer) put(o *unstructured.Unstructured, path string) {
	s.version++
	o.SetResourceVersion(strconv.Itoa(s.version))
	if before := s.objects[path]; before != nil {
		o.SetUID(before.GetUID())
		o.SetCreationTimestamp(before.GetCreationTimestamp())
	} else {
		o.SetUID(types.UID("uid-" + strconv.Itoa(s.version)))
		o.SetCreationTimestamp(metav1.Now())
	}
	s.objects[path] = o
	if o.GetKind() == "CustomResourceDefinition" {
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		names, _, _ := unstructured.NestedStringMap(o.Object, "spec", "names")
		s.kinds = append(s.kinds, metav1.APIResource{Group: group, Version: "v1", Kind: names["kind"], Name: names["plural"],
			Namespaced: true})
	}
}

// written returns what was written so far.
func (s *apiServer) written() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.writes)
}

// text returns what the releases of configYAML are about: text of the config map web, "" for none.
func (s *apiServer) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects["/api/v1/namespaces/default/configmaps/web"]
	if o == nil {
		return ""
	}
	text, _, _ := unstructured.NestedString(o.Object, "data", "text")
	return text
}

// edit changes an object as somebody else, or deletes it if change is nil.
func (s *apiServer) edit(namespace, name string, data map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := "/api/v1/namespaces/" + namespace + "/configmaps/" + name
	o := s.objects[path]
	if o == nil {
		o = &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]any{"namespace": namespace, "name": name}}}
	}
	o = o.DeepCopy()
	_ = unstructured.SetNestedStringMap(o.Object, data, "data")
	s.put(o, path)
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	switch {
	case r.URL.Query().Get("watch") != "":
		w.WriteHeader(http.StatusNotImplemented)
		return
	case r.URL.Path == "/openapi/v2": // an empty document as protobuf
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	request := r.Method + " " + r.URL.String()
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		request += metadataOnly
	}
	s.requests = append(s.requests, request)
	if typed, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil); err == nil { // from protobuf
		body, _ = json.Marshal(typed)
	}
	answer, err := s.discover(r.URL.Path), (*apierrors.StatusError)(nil)
	if answer == nil {
		answer, err = s.answer(r, body)
	}
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		status := err.Status()
		status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		w.WriteHeader(int(status.Code))
		answer = status
	} else if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		answer = partial(answer)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// partial reduces an object, or a list of them, to its metadata.
func partial(answer any) any {
	switch o := answer.(type) {
	case map[string]any:
		var items []any
		for _, item := range o["items"].([]*unstructured.Unstructured) {
			items = append(items, partial(item))
		}
		return map[string]any{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": o["metadata"],
			"items": items}
	case *unstructured.Unstructured:
		return map[string]any{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
			"metadata": o.Object["metadata"]}
	}
	return answer
}

// discover answers what the API server has, nil for another path.
func (s *apiServer) discover(path string) any {
	groups := map[string]bool{}
	for _, kind := range s.kinds {
		groups[kind.Group] = true
	}
	switch parts := strings.Split(strings.Trim(path, "/"), "/"); {
	case path == "/version":
		return map[string]string{"gitVersion": "v1.34.0", "major": "1", "minor": "34"}
	case path == "/api":
		return metav1.APIVersions{Versions: []string{"v1"}}
	case path == "/apis":
		list := metav1.APIGroupList{}
		for group := range groups {
			if group != "" {
				version := metav1.GroupVersionForDiscovery{GroupVersion: group + "/v1", Version: "v1"}
				list.Groups = append(list.Groups, metav1.APIGroup{Name: group, PreferredVersion: version,
					Versions: []metav1.GroupVersionForDiscovery{version}})
			}
		}
		return list
	case path == "/api/v1", len(parts) == 3 && parts[0] == "apis":
		group := schema.GroupVersion{Version: "v1"}
		if len(parts) == 3 {
			group.Group = parts[1]
		}
		list := metav1.APIResourceList{GroupVersion: group.String()}
		for _, kind := range s.kinds {
			if kind.Group == group.Group {
				kind.Group, kind.Verbs = "", metav1.Verbs{"get", "list", "create", "patch", "delete"}
				list.APIResources = append(list.APIResources, kind)
			}
		}
		return list
	}
	return nil
}

// answer reads or changes objects.
func (s *apiServer) answer(r *http.Request, body []byte) (any, *apierrors.StatusError) {
	path, dryRun := r.URL.Path, r.URL.Query().Get("dryRun") != ""
	parts := strings.Split(path, "/")
	missing := apierrors.NewNotFound(schema.GroupResource{Resource: parts[len(parts)-1]}, path)
	if r.Method != http.MethodGet && !dryRun {
		s.writes = append(s.writes, r.Method+" "+path)
	}
	if namespace := strings.Split(path, "/namespaces/"); len(namespace) == 2 && r.Method != http.MethodGet {
		name, below, _ := strings.Cut(namespace[1], "/")
		if below != "" && s.objects["/api/v1/namespaces/"+name] == nil {
			return nil, missing
		}
	}
	there := s.objects[path]
	of := slices.IndexFunc(s.kinds, func(kind metav1.APIResource) bool { return kind.Name == parts[len(parts)-1] })
	if of >= 0 && r.Method == http.MethodGet {
		return s.list(r, s.kinds[of].Kind), nil
	}
	if there == nil && r.Method != http.MethodPost && r.Header.Get("Content-Type") != string(types.ApplyPatchType) {
		return nil, missing
	}
	next := &unstructured.Unstructured{}
	switch r.Method {
	case http.MethodGet:
		return there, nil
	case http.MethodDelete:
		if !dryRun {
			delete(s.objects, path)
		}
		return there, nil
	case http.MethodPatch:
		before := []byte("{}")
		if there != nil {
			before, _ = there.MarshalJSON()
		}
		patch, err := yaml.YAMLToJSON(body)
		if err == nil {
			body, err = jsonpatch.MergePatch(before, patch)
		}
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if err := next.UnmarshalJSON(body); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if r.Method == http.MethodPost {
		if path += "/" + next.GetName(); s.objects[path] != nil {
			return nil, apierrors.NewAlreadyExists(schema.GroupResource{}, path)
		}
	}
	if r.Method == http.MethodPut && next.GetResourceVersion() != "" &&
		next.GetResourceVersion() != there.GetResourceVersion() {
		return nil, apierrors.NewConflict(schema.GroupResource{}, path, nil)
	}
	if namespace := strings.Split(path, "/namespaces/"); len(namespace) == 2 && strings.Contains(namespace[1], "/") {
		name, _, _ := strings.Cut(namespace[1], "/")
		next.SetNamespace(name)
	}
	if r.Header.Get("Content-Type") == string(types.ApplyPatchType) {
		next.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: r.URL.Query().Get("fieldManager")}})
	}
	if there != nil && !reflect.DeepEqual(there.Object["spec"], next.Object["spec"]) {
		next.SetGeneration(there.GetGeneration() + 1)
	}
	if !dryRun {
		s.put(next, path)
	}
	return next, nil
}

// list returns the objects of a kind in a namespace that have the labels asked for.
func (s *apiServer) list(r *http.Request, kind string) any {
	selector, _ := labels.Parse(r.URL.Query().Get("labelSelector"))
	items := []*unstructured.Unstructured{}
	for path, o := range s.objects {
		if filepath.Dir(path) == r.URL.Path && selector.Matches(labels.Set(o.GetLabels())) {
			items = append(items, o)
		}
	}
	return map[string]any{"apiVersion": "v1", "kind": kind + "List", "items": items,
		"metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version)}}
}
