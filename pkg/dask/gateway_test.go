package dask

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
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
		{"another server, or a proxy that does not know the gateway yet", 404, `not found`, "", true},
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
		pod("other", "one", "gateway", &now), ended, elsewhere}
	for says, test := range map[string]struct {
		pods []*corev1.Pod
		want APIPods
	}{
		"others":         {others, APIPods{}},
		"one that ends":  {append(others, ending), APIPods{Ending: true}},
		"one that stays": {append(others, ready), APIPods{Ready: []string{"pod"}}},
		"one that comes": {append(others, starts), APIPods{Starting: true}},
		"two":            {append(others, ready, ending), APIPods{Ready: []string{"pod"}, Ending: true}},
	} {
		if got := (&Platform{pods: test.pods}).APIPods(gateway); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v", says, got)
		}
	}
}

// Of all that belongs to a gateway, only the pods that serve its API are restarted, and only if
// the ConfigMap has the new image and no longer the old one.
func TestRestartOutdated(t *testing.T) {
	made := func(name, instance, release string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: "demo", Labels: map[string]string{labelGateway: instance},
			Annotations: map[string]string{kube.AnnotationReleaseNamespace: "demo", kube.AnnotationRelease: release}}
	}
	deployment := func(name, instance, component, release string) *appsv1.Deployment {
		d := &appsv1.Deployment{ObjectMeta: made(name, instance, release)}
		d.Spec.Template.Labels = map[string]string{labelComponent: component}
		return d
	}
	config := &corev1.ConfigMap{ObjectMeta: made("api", "one", "dask"),
		Data: map[string]string{"config.py": "image = new", "more": "x"}}
	client := fake.NewClientset(config, deployment("api", "one", "gateway", "dask"),
		deployment("traefik", "one", "traefik", "dask"), deployment("other", "two", "gateway", "dask"),
		deployment("foreign", "one", "gateway", "team"))
	gateway := Gateway{Namespace: "demo", Release: "demo/dask", instance: "one"}
	for _, test := range []struct {
		has, hasNot string
		want        []string // what is restarted
	}{
		{"old", "new", nil},   // as somebody wants it
		{"new", "image", nil}, // it names both
		{"new", "old", []string{"api"}},
	} {
		done, err := gateway.RestartOutdated(t.Context(), &kube.Cluster{Client: client}, test.has, test.hasNot)
		if err != nil || done != (len(test.want) > 0) {
			t.Errorf("%s in place of %s: %v, %v", test.has, test.hasNot, done, err)
		}
		list, err := client.AppsV1().Deployments("demo").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var restarted []string
		for _, d := range list.Items {
			if d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] != "" {
				restarted = append(restarted, d.Name)
			}
		}
		if !slices.Equal(restarted, test.want) {
			t.Errorf("%s in place of %s: %v are restarted", test.has, test.hasNot, restarted)
		}
	}
}
