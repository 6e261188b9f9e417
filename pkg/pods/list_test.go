package pods

import (
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// pod returns a pod of a release that was made some minutes after others, whose containers run.
func podFor(release, name, owner string, minutes int, change func(*corev1.Pod), images ...string) Listed {
	p := &corev1.Pod{ObjectMeta: named(name, owner), Status: corev1.PodStatus{Phase: corev1.PodRunning,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	p.CreationTimestamp = metav1.NewTime(time.Unix(0, 0).Add(time.Duration(minutes) * time.Minute))
	for _, image := range images {
		container, _, _ := strings.Cut(image, ":")
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: container, Image: image})
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses,
			corev1.ContainerStatus{Name: container, Image: image, State: running})
	}
	if change != nil {
		change(p)
	}
	return Listed{p, release}
}

func TestChoice(t *testing.T) {
	deleted := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	unready := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	finished := func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodSucceeded
		p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	}
	marked := func(p *corev1.Pod) { p.Annotations["kubectl.kubernetes.io/default-container"] = "main" }
	revision := func(hash string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Labels["pod-template-hash"] = hash }
	}
	all := []Listed{
		podFor("web", "web-a-1", "ReplicaSet/web-a", 1, revision("a"), "proxy:1", "ours:1"),
		podFor("web", "web-b-1", "ReplicaSet/web-b", 2, revision("b"), "proxy:1", "ours:2"),
		podFor("web", "web-b-2", "ReplicaSet/web-b", 3, func(p *corev1.Pod) { revision("b")(p); unready(p) },
			"proxy:1", "ours:2"),
		podFor("web", "web-b-3", "ReplicaSet/web-b", 4, func(p *corev1.Pod) { revision("b")(p); deleted(p) },
			"proxy:1", "ours:2"),
		podFor("web", "migrate-1", "Job/migrate", 5, finished, "ours:2"),
		podFor("gateway", "api-1", "ReplicaSet/api", 1, nil, "api:1"),
		podFor("gateway", "proxy-1", "ReplicaSet/proxy", 1, nil, "proxy:1"),
		podFor("mixed", "front-1", "ReplicaSet/front", 1, nil, "nginx:1"),
		podFor("mixed", "back-1", "ReplicaSet/back", 1, nil, "ours:1"),
		podFor("sidecar", "side-1", "ReplicaSet/side", 1, marked, "istio:1", "main:1"),
		podFor("", "dask-scheduler-x", "", 1, nil, "ours:1"),
	}
	for name, want := range map[string]string{
		"web":               "web-b-1/ours", // ready, and newer than the other revision
		"web-a":             "web-a-1/ours",
		"web-b-3":           "web-b-3/ours", // by its whole name also one that ends
		"demo/web-b-2":      "web-b-2/ours",
		"web proxy":         "web-b-1/proxy",
		"web nosuch":        `pod web-b-1 has no container "nosuch": it has: proxy, ours`,
		"migrate-1":         "container ours of pod migrate-1 does not run: it has ended",
		"migrate":           ErrNoPod.Error(),
		"gateway":           `"gateway" means several pods: name one: api-1, proxy-1`,
		"api":               "api-1/api",
		"mixed":             "back-1/ours", // devloop builds it
		"sidecar":           "side-1/main",
		"dask-scheduler":    "dask-scheduler-x/ours",
		"else":              ErrNoPod.Error(),
		"dask-scheduler-xx": ErrNoPod.Error(),
	} {
		name, container, _ := strings.Cut(name, " ")
		built := func(image string) bool { return strings.HasPrefix(image, "ours:") }
		c := Choice{Name: name, Container: container, Built: built}
		in, err := c.Of(all)
		got := in.Pod + "/" + in.Name
		if err != nil {
			got = err.Error()
			if !strings.Contains(got, "does not run") && event.Hint(err) != "" {
				got += ": " + event.Hint(err)
			}
		}
		if got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
}

// The pods of another release, those of nobody, and devloop's own are no pods of the project.
func TestList(t *testing.T) {
	const web, other = "meta.helm.sh/release-name=web", "meta.helm.sh/release-name=other"
	const inDemo = "meta.helm.sh/release-namespace=demo"
	pod := func(name string, marks ...string) *corev1.Pod { return &corev1.Pod{ObjectMeta: named(name, marks...)} }
	client := fake.NewClientset(&appsv1.ReplicaSet{ObjectMeta: named("web-1", web, inDemo)},
		pod("a", "ReplicaSet/web-1"), pod("b", other, inDemo), pod("c"), pod("d", "user=ada"),
		pod("e", "user=ada", kube.LabelManagedBy+"="+kube.FieldManager, kube.LabelCheckPod+"=verify"))
	found, err := List(t.Context(), client, Scope{Releases: []types.NamespacedName{{Namespace: "demo", Name: "web"}},
		Selectors: []Selector{{"demo", "user"}}}, event.Stage{})
	var names []string
	for _, l := range found {
		names = append(names, l.Name+" of "+l.Release)
	}
	if got := strings.Join(names, ", "); err != nil || got != "a of web, d of " {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := (Choice{Name: "b", Built: func(string) bool { return false }}).Of(found); !errors.Is(err, ErrNoPod) {
		t.Errorf("a pod of another release: %v", err)
	}
}
