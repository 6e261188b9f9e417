package deploy

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	helmkube "helm.sh/helm/v3/pkg/kube"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// objectServer serves config maps in the namespace demo, and checks preconditions.
type objectServer struct {
	*httptest.Server
	mu      sync.Mutex
	objects map[string]*unstructured.Unstructured
	looked  func(name string) // is called after an object was asked for
	refuses string            // the name of an object that cannot be patched
	brings  string            // the name of one that comes when another is patched
}

func newObjectServer(t *testing.T, objects ...*unstructured.Unstructured) *objectServer {
	t.Helper()
	s := &objectServer{objects: map[string]*unstructured.Unstructured{}, looked: func(string) {}}
	for _, o := range objects {
		s.objects[o.GetName()] = o
	}
	s.Server = httptest.NewServer(http.HandlerFunc(s.answer))
	t.Cleanup(s.Close)
	return s
}

func (s *objectServer) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := func(code int, reason metav1.StatusReason) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
			Code: int32(code), Reason: reason})
	}
	body, _ := io.ReadAll(r.Body)
	name := path.Base(r.URL.Path)
	if r.Method == http.MethodPost {
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(body); err != nil {
			status(http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
		name = o.GetName()
		s.objects[name] = o
	}
	there := s.objects[name]
	if there == nil {
		status(http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	}
	if r.Method == http.MethodPatch {
		if name == s.refuses {
			status(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
			return
		}
		if s.brings != "" {
			s.objects[s.brings] = of("ConfigMap", s.brings, ofRelease("web"))
		}
		if name != "normalized" { // where the API server stores what it had
			there.SetResourceVersion("2")
		}
	}
	if r.Method == http.MethodDelete {
		var options metav1.DeleteOptions
		if err := json.Unmarshal(body, &options); err != nil || options.Preconditions == nil ||
			*options.Preconditions.UID != there.GetUID() ||
			*options.Preconditions.ResourceVersion != there.GetResourceVersion() {
			status(http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		delete(s.objects, name)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(there)
	if r.Method == http.MethodGet {
		s.looked(name)
	}
}

// names returns the names of the server's objects.
func (s *objectServer) names() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.objects {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// list returns Helm's representation of objects.
func (s *objectServer) list(t *testing.T, names ...string) (list helmkube.ResourceList) {
	t.Helper()
	config := &rest.Config{Host: s.URL, APIPath: "/api", ContentConfig: resource.UnstructuredPlusDefaultContentConfig()}
	version := configMaps.GroupVersion()
	config.GroupVersion = &version
	client, err := rest.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Client.CloseIdleConnections)
	mapping := &meta.RESTMapping{Resource: configMaps, GroupVersionKind: version.WithKind("ConfigMap"),
		Scope: meta.RESTScopeNamespace}
	for _, name := range names {
		list = append(list, &resource.Info{Client: client, Mapping: mapping, Namespace: "demo", Name: name,
			Object: of("ConfigMap", name, ofRelease("web"))})
	}
	return list
}

func (s *objectServer) helm() (client *helmClient, foreign *[]string) {
	foreign = &[]string{}
	var mu sync.Mutex
	return &helmClient{client: &helmkube.Client{Log: func(string, ...any) {}}, writes: &writeLog{},
		release: Release{Name: "web", Namespace: "demo"},
		moves:   func(object) bool { return false },
		foreign: func(object string) {
			mu.Lock()
			defer mu.Unlock()
			*foreign = append(*foreign, object)
		}}, foreign
}

func TestHelmDeletesOnlyWhatIsOfTheRelease(t *testing.T) {
	server := newObjectServer(t, of("ConfigMap", "ours", ofRelease("web")), of("ConfigMap", "theirs", ofRelease("other")),
		of("ConfigMap", "bare"),
		of("ConfigMap", "kept", annotated(kube.AnnotationRelease, "web", kube.AnnotationReleaseNamespace, "demo",
			helmkube.ResourcePolicyAnno, helmkube.KeepPolicy)), of("ConfigMap", "replaced", ofRelease("web")),
		of("ConfigMap", "taken", ofRelease("web")), of("ConfigMap", "touched", ofRelease("web")),
		of("ConfigMap", "moves", ofRelease("web")))
	changed := map[string]bool{}
	server.looked = func(name string) { // and before it is deleted someone recreates or changes it
		switch {
		case name == "replaced":
			server.objects[name] = of("ConfigMap", name, func(u *unstructured.Unstructured) { u.SetUID("another") })
		case name == "taken" && !changed[name]:
			server.objects[name] = of("ConfigMap", name, ofRelease("other"),
				func(u *unstructured.Unstructured) { u.SetResourceVersion("2") })
		case name == "touched" && !changed[name]:
			server.objects[name].SetResourceVersion("2")
		}
		changed[name] = true
	}
	helm, foreign := server.helm()
	helm.moves = func(o object) bool { return o.name == "moves" }
	result, errs := helm.DeleteWithPropagationPolicy(server.list(t, "ours", "theirs", "bare", "kept", "replaced", "taken",
		"touched", "moves", "gone"), metav1.DeletePropagationBackground)
	if len(errs) > 0 || result == nil {
		t.Fatal(errs)
	}
	if got := server.names(); !slices.Equal(got, []string{"bare", "kept", "moves", "replaced", "taken", "theirs"}) {
		t.Errorf("left are %q", got)
	}
	slices.Sort(*foreign)
	if !slices.Equal(*foreign, []string{"configmap/bare", "configmap/taken", "configmap/theirs"}) {
		t.Errorf("of others are %q", *foreign)
	}
}

func TestUpgradeDeletesOnlyWhatIsOfTheRelease(t *testing.T) {
	server := newObjectServer(t, of("ConfigMap", "dropped", ofRelease("web")),
		of("ConfigMap", "theirs", ofRelease("other")), of("ConfigMap", "same", ofRelease("web")))
	helm, foreign := server.helm()
	result, err := helm.Update(server.list(t, "same", "dropped", "theirs"), server.list(t, "same"), false)
	if err != nil || len(result.Updated) != 1 {
		t.Fatalf("%+v, %v", result, err)
	}
	if got := server.names(); !slices.Equal(got, []string{"same", "theirs"}) ||
		!slices.Equal(*foreign, []string{"configmap/theirs"}) {
		t.Errorf("left are %q, of others are %q", got, *foreign)
	}
}

// An update that fails tells apart what it has changed and what not.
func TestUpgradeTellsWhatItHasWritten(t *testing.T) {
	server := newObjectServer(t)
	for _, name := range []string{"dropped", "changed", "normalized", "refused", "same"} {
		server.objects[name] = of("ConfigMap", name, ofRelease("web"))
	}
	server.refuses = "refused"
	helm, _ := server.helm()
	before := server.list(t, "dropped", "changed", "normalized", "refused", "same")
	after := server.list(t, "changed", "new", "normalized", "refused", "same")
	for _, info := range after {
		if o, ok := info.Object.(*unstructured.Unstructured); ok && info.Name != "same" {
			o.Object["data"] = map[string]any{"a": "b"}
		}
	}
	_, err := helm.Update(before, after, false)
	const want = "\nbefore that, devloop changed configmap/changed; created configmap/new\nnot written: configmap/refused"
	if err = helm.writes.explain(err); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v", err)
	}
}

// What a controller makes of one object may be another one of the release.
func TestUpgradeOfWhatAnotherObjectBrings(t *testing.T) {
	server := newObjectServer(t, of("ConfigMap", "first", ofRelease("web")))
	server.brings = "second"
	helm, _ := server.helm()
	after := server.list(t, "first", "second")
	for _, info := range after {
		info.Object.(*unstructured.Unstructured).Object["data"] = map[string]any{"a": "b"}
	}
	if _, err := helm.Update(server.list(t, "first"), after, false); err != nil {
		t.Fatal(err)
	}
	const want = "before that, devloop changed configmap/first configmap/second"
	if err := helm.writes.explain(errors.New("")); !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v", err)
	}
}

// By default Helm deletes a hook's object by name before the hook runs again, whoever made it.
func TestHookDeletesOnlyWhatHooksOfTheReleaseMade(t *testing.T) {
	server := newObjectServer(t, of("ConfigMap", "theirs", annotated(kube.AnnotationHook, "pre-install")),
		of("ConfigMap", "by-hand"),
		of("ConfigMap", "earlier", annotated(kube.AnnotationHook, "pre-install")))
	helm, _ := server.helm()
	helm.hookObjects = []object{{kind: configMaps.GroupVersion().WithKind("ConfigMap"), namespace: "demo",
		name: "earlier"}}
	mine := server.list(t, "mine")
	mine[0].Object = of("ConfigMap", "mine", annotated(kube.AnnotationHook, "pre-install"))
	if _, err := helm.Create(mine); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mine", "earlier", "gone"} {
		if _, errs := helm.Delete(server.list(t, name)); len(errs) > 0 {
			t.Errorf("%s: %v", name, errs)
		}
	}
	for _, name := range []string{"theirs", "by-hand"} {
		if _, errs := helm.Delete(server.list(t, name)); len(errs) != 1 ||
			!strings.Contains(errs[0].Error(), "configmap/"+name+" is there already") {
			t.Errorf("%s: %v", name, errs)
		}
	}
	if got := server.names(); !slices.Equal(got, []string{"by-hand", "theirs"}) {
		t.Errorf("left are %q", got)
	}
}

// Helm calls the client in goroutines of its own.
func TestHelmsClientReturnsPanics(t *testing.T) {
	// Helm's client has nothing that it needs.
	client := reflect.ValueOf(&helmClient{client: &helmkube.Client{}, writes: &writeLog{}})
	for i := range client.NumMethod() {
		name, method := client.Type().Method(i).Name, client.Method(i)
		if name == "WatchUntilReady" { // which is Helm's
			continue
		}
		var arguments []reflect.Value
		for j := range method.Type().NumIn() {
			argument := reflect.Zero(method.Type().In(j))
			if argument.Type() == reflect.TypeFor[helmkube.ResourceList]() {
				argument = reflect.ValueOf(helmkube.ResourceList{nil})
			}
			arguments = append(arguments, argument)
		}
		results := method.Call(arguments)
		err, _ := results[len(results)-1].Interface().(error)
		if errs, ok := results[len(results)-1].Interface().([]error); ok {
			err = errors.Join(errs...)
		}
		if err == nil || !strings.Contains(event.Hint(err), "report it") {
			t.Errorf("%s: the error is %v", name, err)
		}
		if name == "Update" && results[0].IsNil() {
			t.Error("Helm would use a result that is not there")
		}
	}
}

// The library that compares objects panics on an empty element of a list.
func TestPanicWhileAnObjectIsUpdated(t *testing.T) {
	server := newObjectServer(t, of("Service", "web", ofRelease("web")))
	list := func(version string) helmkube.ResourceList {
		list := server.list(t, "web")
		service := of("Service", "web", ofRelease("web"))
		service.SetAPIVersion("v1")
		service.SetLabels(map[string]string{"version": version})
		service.Object["status"] = map[string]any{"conditions": []any{nil}}
		list[0].Object = service
		list[0].Mapping = &meta.RESTMapping{
			Resource:         service.GroupVersionKind().GroupVersion().WithResource("services"),
			GroupVersionKind: service.GroupVersionKind(), Scope: meta.RESTScopeNamespace,
		}
		return list
	}
	helm, _ := server.helm()
	result, err := helm.Update(list("1"), list("2"), false)
	if err == nil || !strings.Contains(event.Hint(err), "report it") || result == nil {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestPanicWhileAnObjectIsCreated(t *testing.T) {
	server := newObjectServer(t)
	helm, _ := server.helm()
	list := server.list(t, "a", "b", "c")
	list[1].Client = nil // the panic is in the goroutine for this one
	_, err := helm.Create(list)
	if err == nil || !strings.Contains(event.Hint(err), "report it") {
		t.Errorf("the error is %v", err)
	}
	if got := server.names(); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("made are %q", got)
	}
}

func TestForeignObjectsAreReportedSideBySide(t *testing.T) {
	server := newObjectServer(t, of("ConfigMap", "one", ofRelease("other")), of("ConfigMap", "two", ofRelease("other")))
	helm, _ := server.helm()
	meet := make(chan struct{})
	helm.foreign = func(object string) {
		select {
		case meet <- struct{}{}:
		case <-meet:
		case <-time.After(10 * time.Second):
			t.Errorf("%s has others wait", object)
		}
	}
	_, errs := helm.DeleteWithPropagationPolicy(server.list(t, "one", "two"), metav1.DeletePropagationBackground)
	if len(errs) > 0 {
		t.Error(errs)
	}
}
