package deploy

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

// dryRunServer answers dry runs for one object. What is no dry run is an error of the test.
type dryRunServer struct {
	live          *unstructured.Unstructured // nil if there is none
	patch, create error                      // its answers
	mu            sync.Mutex
	asked         []string
}

func (s *dryRunServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	if r.Method != http.MethodGet && r.URL.Query().Get("dryRun") != metav1.DryRunAll {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	s.asked = append(s.asked, r.Method)
	answer, err := any(s.live), map[string]error{http.MethodPatch: s.patch, http.MethodPost: s.create}[r.Method]
	switch {
	case r.Method == http.MethodGet && s.live == nil:
		err = apierrors.NewNotFound(schema.GroupResource{Resource: "jobs"}, "web")
	case r.Method == http.MethodPost:
		answer = json.RawMessage(body)
	}
	w.Header().Set("Content-Type", "application/json")
	if status, ok := err.(apierrors.APIStatus); ok {
		refused := status.Status()
		refused.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		w.WriteHeader(int(refused.Code))
		answer = refused
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *dryRunServer) try(t *testing.T, a attempt) ([]recreation, error) {
	t.Helper()
	server := httptest.NewServer(s)
	defer server.Close()
	client, err := dynamic.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(schema.GroupVersionKind{Group: "batch", Version: "v1", Kind: "Job"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Gadget"}, meta.RESTScopeNamespace)
	d := &Deployer{journal: permits{journal.Release: {"demo/other"}},
		cluster: &kube.Cluster{Dynamic: client, Mapper: neverReset{mapper}}}
	a.Release = Release{Name: "web", Namespace: "demo"}
	found, err := d.try(t.Context(), a)
	if err == nil {
		err = d.mayTakeOver(a.Release, found.foreign)
	}
	return found.recreate, err
}

type neverReset struct{ meta.RESTMapper }

func (neverReset) Reset() {}

func TestTrial(t *testing.T) {
	const (
		job        = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: web}\nspec: {completions: 1}"
		jobNow     = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: web}\nspec: {completions: 2}"
		deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 1}"
		scaled     = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 2}"
		gadget     = "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: web}"
		crd        = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n" +
			"metadata: {name: gadgets.example.com}\nspec: {group: example.com, names: {kind: Gadget}}"
	)
	const (
		got         = "GET"
		gotPatched  = "GET PATCH"
		gotTriedNew = "GET POST"
		gotBoth     = "GET PATCH POST"
	)
	immutable := invalid("spec", "Invalid value: "+bigStruct+": field is immutable")
	there := apierrors.NewAlreadyExists(schema.GroupResource{Resource: "jobs"}, "web")
	forbidden := apierrors.NewForbidden(schema.GroupResource{}, "web", errors.New("exceeded quota"))
	noDryRun := apierrors.NewBadRequest(`admission webhook "a.b.c" does not support dry run`)
	ours, theirs := Release{Name: "web", Namespace: "demo"}, Release{Name: "x", Namespace: "y"}
	sister := Release{Name: "other", Namespace: "demo"} // of the same project
	for name, test := range map[string]struct {
		before, target, live string
		owner                Release
		patch, create        error
		asked                string
		recreated            int
		err, hint            string // "" for none
		transient            bool
	}{
		"new": {"", job, "", ours, nil, nil, gotTriedNew, 0, "", "", false},
		"new and refused": {"", job, "", ours, nil, immutable, gotTriedNew, 0,
			"rejects it: spec: field is immutable", "fix the chart", false},
		"unchanged": {job, job, job, ours, immutable, there, got, 0, "", "", false},
		"changed":   {deployment, scaled, deployment, ours, nil, nil, gotPatched, 0, "", "", false},
		"a job":     {job, jobNow, job, ours, immutable, there, gotBoth, 1, "", "", false},
		"a job with a typo": {job, jobNow, job, ours, immutable, immutable, gotBoth, 0,
			"rejects it", "fix the chart", false},
		"a job of others": {job, jobNow, job, theirs, immutable, there, got, 0,
			"job/web belongs to the release y/x", "kubectl delete job/web -n demo", false},
		"moves between releases": {"", jobNow, job, sister, nil, nil, got, 0,
			"belongs to the release demo/other", "", true},
		"of no release": {"", jobNow, job, Release{}, nil, nil, got, 0,
			"job/web is there already, and no release made it", "another name", false},
		"immutable": {deployment, scaled, deployment, ours, immutable, there, gotBoth, 0,
			"deployment/web is there, and cannot be changed in spec.replicas: 1 → 2", "kubectl delete deployment/web", false},
		"busy": {deployment, scaled, deployment, ours, apierrors.NewTooManyRequests("busy", 0), nil, "", 0,
			"busy", "", true},
		"of its own CRD":       {"", crd + "\n---\n" + gadget, "", ours, nil, immutable, "", 0, "", "", false},
		"no dry run":           {deployment, scaled, deployment, ours, noDryRun, nil, gotPatched, 0, "", "", false},
		"a quota that is used": {deployment, scaled, deployment, ours, forbidden, nil, gotPatched, 0, "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &dryRunServer{patch: test.patch, create: test.create}
			if test.live != "" {
				s.live = yamlObject(t, test.live)
				if test.owner.Name != "" {
					s.live = withOwner(test.owner, s.live)
				}
				s.live.SetUID("uid")
				s.live.SetResourceVersion("1")
			}
			recreate, err := s.try(t, attempt{before: manifestObjects(test.before), objects: manifestObjects(test.target)})
			if len(recreate) != test.recreated ||
				test.recreated > 0 && (recreate[0].uid != "uid" || recreate[0].fields != "spec.completions") {
				t.Errorf("to recreate: %v", recreate)
			}
			if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) ||
				!strings.Contains(event.Hint(err), test.hint) || event.IsTransient(err) != test.transient {
				t.Errorf("%v, hint %q", err, event.Hint(err))
			}
			if asked := strings.Join(s.asked, " "); test.asked != "" && asked != test.asked {
				t.Errorf("asked %s, want %s", asked, test.asked)
			}
		})
	}
}
