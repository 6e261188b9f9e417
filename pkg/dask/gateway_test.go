package dask

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
)

func TestGatewayImage(t *testing.T) {
	for _, test := range []struct {
		name   string
		code   int
		body   string
		image  string
		failed bool
	}{
		{"the default of image", 200,
			`{"cluster_options":[{"field":"worker_cores","default":1,"spec":{"type":"float"}},` +
				`{"field":"image","default":"worker:1","spec":{"type":"string"}}]}`,
			"worker:1", false},
		{"none of that name", 200, `{"cluster_options":[]}`, "", false},
		{"one of a list has a label", 200,
			`{"cluster_options":[{"field":"image","default":"stable","spec":{"type":"select"}}]}`,
			"", false},
		{"one that is no text", 200, `{"cluster_options":[{"field":"image","default":3,"spec":{"type":"string"}}]}`, "",
			false},
		{"only for users whom it knows", 401, `{"error":"Unauthorized"}`, "", false},
		{"another server", 404, `not found`, "", false},
		{"it is not up", 502, `Bad Gateway`, "", true},
		{"no JSON", 200, `<html>`, "", true},
		{"endless", 200, `{"cluster_options":[` + strings.Repeat(" ", optionsLength), "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if user, _, ok := r.BasicAuth(); !ok || user == "" { // its simple authenticator wants a name
					t.Error("without a user")
				}
				w.WriteHeader(test.code)
				_, _ = w.Write([]byte(test.body))
			}))
			defer server.Close()
			image, why, err := DefaultImage(t.Context(), server.URL+"/api/v1/options")
			if image != test.image || (err != nil) != test.failed || err != nil && event.Hint(err) == "" ||
				(image == "" && err == nil) != (why != "") {
				t.Errorf("%q, %q, %v", image, why, err)
			}
		})
	}
}

// A gateway's pod that is being deleted may answer for the next one.
func TestAPIPods(t *testing.T) {
	gateway := Gateway{Namespace: "demo", instance: "one"}
	now := metav1.Now()
	pod := func(namespace, instance, component string, deleted *metav1.Time) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: namespace, DeletionTimestamp: deleted,
				Labels: map[string]string{labelGateway: instance, labelComponent: component}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "api"}}}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning,
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		}
	}
	ready, ending := pod("demo", "one", "gateway", nil), pod("demo", "one", "gateway", &now)
	starts, ended, elsewhere := pod("demo", "one", "gateway", nil), ending.DeepCopy(), ending.DeepCopy()
	starts.Status.Conditions = nil
	ended.Status.Phase = corev1.PodFailed
	elsewhere.Spec.Containers[0].Ports[0].Name = "of another chart"
	others := []*corev1.Pod{pod("demo", "one", "traefik", &now), pod("demo", "two", "gateway", &now),
		pod("other", "one", "gateway", &now), starts, ended, elsewhere}
	for says, test := range map[string]struct {
		pods   []*corev1.Pod
		ready  int
		ending bool
	}{
		"others":         {others, 0, false},
		"one that ends":  {append(others, ending), 0, true},
		"one that stays": {append(others, ready), 1, false},
		"both":           {append(others, ready, ending), 1, true},
	} {
		if ready, ending := (&Platform{pods: test.pods}).APIPods(gateway); len(ready) != test.ready || ending != test.ending {
			t.Errorf("%s: %d are ready, and one ends: %v", says, len(ready), ending)
		}
	}
}
