package dask

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

var clusterVersion = clusterKind.GroupResource().WithVersion("v1alpha1")

// world is a cluster with a gateway, whose objects a test makes and changes, and a Follower of it.
type world struct {
	t        *testing.T
	cluster  *kube.Cluster
	follower *Follower

	mu         sync.Mutex
	events     []event.Event
	namespaces []string
}

// newWorld has a node with so many cores and a gateway "g" that a forward leads to at a URL.
func newWorld(t *testing.T, cpu, local string) *world {
	t.Helper()
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{clusterVersion.GroupVersion()})
	mapper.Add(clusterVersion.GroupVersion().WithKind("DaskCluster"), meta.RESTScopeNamespace)
	w := &world{t: t, cluster: &kube.Cluster{
		Client: fake.NewClientset(
			&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "traefik",
				Labels: map[string]string{labelGateway: "g"}}},
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Status: corev1.NodeStatus{
				Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu),
					corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("110")}}}),
		Dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
			map[schema.GroupVersionResource]string{clusterVersion: "DaskClusterList"}),
		Mapper: fixedMapper{mapper}}}
	w.follower = NewFollower(w.cluster, func(e event.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	}, func(in []string, _ string) { w.namespaces = in })
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.follower.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	var routes []Route
	if local != "" {
		routes = append(routes, Route{Kind: "service", Namespace: "demo", Name: "traefik", Local: local,
			URL: "http://localhost:8001"})
	}
	w.follower.Follow(Scope{Namespaces: []string{"demo"}, Routes: routes})
	synctest.Wait()
	return w
}

func (w *world) fake() *clienttesting.Fake {
	return &w.cluster.Dynamic.(*dynamicfake.FakeDynamicClient).Fake //nolint:forcetypeassert // of newWorld
}

// has makes a cluster, or changes it: "phase=Running", "replicas=2", "active=false".
func (w *world) has(name, owner string, marks ...string) {
	w.t.Helper()
	spec := map[string]any{"username": owner, "config": map[string]any{"image": "worker:1", "worker_cores": int64(1)}}
	status := map[string]any{}
	for _, mark := range marks {
		key, value, _ := strings.Cut(mark, "=")
		switch key {
		case "phase":
			status[key] = value
		case "replicas":
			spec[key] = int64(value[0] - '0')
		case "active":
			spec[key] = value == "true"
		}
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": clusterVersion.GroupVersion().String(), "kind": "DaskCluster",
		"metadata": map[string]any{"namespace": "jobs", "name": name, "uid": "uid of " + name,
			"labels": map[string]any{labelGateway: "g"}, "creationTimestamp": noon.Format(time.RFC3339)},
		"spec": spec, "status": status}}
	clusters := w.cluster.Dynamic.Resource(clusterVersion).Namespace("jobs")
	_, err := clusters.Update(w.t.Context(), object, metav1.UpdateOptions{})
	if err != nil {
		_, err = clusters.Create(w.t.Context(), object, metav1.CreateOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

var noon = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when synctest's clock starts

// pod makes a pod of a cluster, or changes it. It asks for one core.
func (w *world) pod(cluster, component, name string, change func(*corev1.Pod)) {
	w.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "jobs", Name: name, UID: types.UID("uid of " + name),
		CreationTimestamp: metav1.Now(),
		Labels:            map[string]string{labelGateway: "g", LabelCluster: cluster, labelComponent: component}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: component, Image: "worker:1",
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending}}
	change(pod)
	pods := w.cluster.Client.CoreV1().Pods("jobs")
	_, err := pods.Update(w.t.Context(), pod, metav1.UpdateOptions{})
	if err != nil {
		_, err = pods.Create(w.t.Context(), pod, metav1.CreateOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.follower.PodSeen(pod)
}

// ready makes a pod run on the node.
func ready(pod *corev1.Pod) {
	pod.Spec.NodeName, pod.Status.Phase = "node", corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

// cannotBeScheduled lets a pod wait for CPU.
func cannotBeScheduled(pod *corev1.Pod) {
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse,
		Reason: "Unschedulable", Message: "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, " +
			"preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."}}
}

// after lets time pass, and returns what was reported since the last call.
func (w *world) after(d time.Duration) (reported []string) {
	<-time.After(d) // by the bubble's clock
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		switch p := e.Payload.(type) {
		case event.DaskCluster:
			text := fmt.Sprintf("%s %s %d/%d %s %s → %s", e.Message, p.Phase, p.Running, p.Wanted, p.Dashboard, p.Reason, p.Hint)
			reported = append(reported, strings.TrimSpace(strings.TrimSuffix(strings.Join(strings.Fields(text), " "), "→")))
		case event.DaskClusterEnd:
			text := fmt.Sprintf("%s of %s: %s %q", e.Message, p.Owner, p.Reason, p.Output)
			reported = append(reported, strings.TrimSpace(text))
		default:
			reported = append(reported, e.Message)
		}
	}
	w.events = nil
	return reported
}

// expect fails unless exactly this is reported within the time.
func (w *world) expect(within time.Duration, want ...string) {
	w.t.Helper()
	if got := w.after(within); !slices.Equal(got, want) {
		w.t.Errorf("reported\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLifeOfACluster(t *testing.T) {
	var asked atomic.Int32
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/clusters/jobs.a/status" || asked.Add(1) < 3 { // traefik learns of the route late
			http.NotFound(w, r)
		}
	}))
	defer gateway.Close()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "4", gateway.URL)
		w.has("old", "ada", "phase=Stopped") // before devloop started
		w.expect(time.Second)
		w.has("a", "ada")
		w.expect(time.Second, "Dask cluster Pending 0/0")
		if !slices.Equal(w.namespaces, []string{"jobs"}) {
			t.Errorf("pods are followed in %q", w.namespaces)
		}
		w.pod("a", componentScheduler, "dask-scheduler-a", ready)
		w.follower.Line(event.LogLine{ContainerRef: event.ContainerRef{Container: componentScheduler,
			PodRef: event.PodRef{Namespace: "jobs", Pod: "dask-scheduler-a"}}, Line: "out of disk"})
		w.expect(time.Second)
		w.has("a", "ada", "phase=Running", "replicas=2")
		const dashboard = "http://localhost:8001/clusters/jobs.a/status"
		w.expect(3*time.Second, "Dask cluster Running 0/2", "Dask cluster is up Running 0/2 "+dashboard)
		w.pod("a", componentWorker, "w1", ready)
		w.expect(time.Second, "Dask cluster Running 1/2 "+dashboard)
		w.pod("a", componentWorker, "w2", ready)
		w.expect(time.Minute, "Dask cluster Running 2/2 "+dashboard)
		w.pod("a", componentScheduler, "dask-scheduler-a", func(pod *corev1.Pod) {
			pod.Status.Phase = corev1.PodFailed
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: componentScheduler, State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}}}}
		})
		w.has("a", "ada", "phase=Failed")
		w.expect(3*time.Second, `Dask cluster gone of ada: its scheduler ended: OOMKilled "out of disk"`)
		w.has("b", "bob", "phase=Running")
		w.has("b", "bob", "phase=Running", "active=false")
		w.has("b", "bob", "phase=Stopped", "active=false")
		w.expect(5 * time.Second) // it came and went before anybody looked
	})
}

// A cluster is up without its dashboard; that is added once it answers, and goes with its
// scheduler.
func TestDashboardThatAnswersLate(t *testing.T) {
	var works atomic.Bool
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !works.Load() {
			http.Redirect(w, r, "http://elsewhere.example", http.StatusFound)
		}
	}))
	defer gateway.Close()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "4", gateway.URL)
		w.has("a", "ada", "phase=Running")
		w.pod("a", componentScheduler, "s", ready)
		w.expect(50*time.Second, "Dask cluster Running 0/0")
		w.expect(20*time.Second, "dashboard does not answer", "Dask cluster is up Running 0/0")
		works.Store(true)
		w.expect(40*time.Second, "Dask cluster Running 0/0 http://localhost:8001/clusters/jobs.a/status")
		w.pod("a", componentScheduler, "s", func(pod *corev1.Pod) {
			ready(pod)
			pod.Status.Conditions = nil
		})
		w.expect(time.Second, "Dask cluster Running 0/0")
		w.pod("a", componentScheduler, "s", ready)
		w.expect(time.Second, "Dask cluster Running 0/0 http://localhost:8001/clusters/jobs.a/status")
	})
}

// A cluster that the watch has lost is gone only if it is not there by a fresh look.
func TestClustersThatAreOnlyOutOfSight(t *testing.T) {
	const gone = `Dask cluster gone of ada:  ""`
	notServed := apierrors.NewGenericServerResponse(http.StatusNotFound, "get", clusterKind.GroupResource(),
		"a", "", 0, true)
	for _, c := range []struct {
		name string
		hide func(*world)
		late string // "" if it stays
	}{
		{"it is there", func(*world) {}, ""},
		{"the server has just started", func(w *world) {
			w.fake().PrependReactor("get", "daskclusters", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, notServed
			})
		}, gone},
		{"it may not be looked at", func(w *world) {
			w.fake().PrependReactor("get", "daskclusters", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(clusterKind.GroupResource(), "a", nil)
			})
		}, ""},
		{"another cluster answers", func(w *world) {
			w.cluster.UID = "mine"
			system := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem, UID: "another"}}
			namespaces := w.cluster.Client.CoreV1().Namespaces()
			if _, err := namespaces.Create(w.t.Context(), system, metav1.CreateOptions{}); err != nil {
				w.t.Fatal(err)
			}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "4", "")
				w.has("a", "ada")
				w.expect(time.Second, "Dask cluster Pending 0/0")
				c.hide(w)
				w.follower.change(func() { clear(w.follower.objects) })
				w.expect(15 * time.Second)
				var late []string
				if c.late != "" {
					late = []string{c.late}
				}
				w.expect(15*time.Second, late...)
			})
		})
	}
}

// devloop clusters says the same without a Follower.
func TestClustersAreExplained(t *testing.T) {
	gateway := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer gateway.Close()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "1.5", "")
		for _, name := range []string{"a", "b"} {
			w.has(name, name+"da", "phase=Running", "replicas=1")
			w.pod(name, componentScheduler, "s-"+name, func(pod *corev1.Pod) {
				ready(pod)
				pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
			})
		}
		w.pod("a", componentWorker, "w-a", cannotBeScheduled)
		w.pod("b", componentWorker, "w-b", ready)
		w.after(10 * time.Second)
		platform, err := Running(t.Context(), w.cluster, []string{"demo"})
		if err != nil || len(platform.Clusters) != 2 {
			t.Fatal(platform.Clusters, err)
		}
		routes := []Route{{Kind: "service", Namespace: "demo", Name: "traefik", Local: gateway.URL,
			URL: "http://localhost:1"}}
		if err := platform.Explain(t.Context(), w.cluster, routes); err != nil {
			t.Fatal(err)
		}
		a, b := platform.Clusters[0], platform.Clusters[1]
		want := "1 worker of ada waits: 0/1 nodes are available: 1 Insufficient cpu: 1 × 1 CPU asked, 0.5 free"
		if a.Reason != want ||
			a.Hint != "a new cluster with worker_cores 0.5" || a.Dashboard != "http://localhost:1/clusters/jobs.a/status" {
			t.Errorf("%+v", a)
		}
		if b.Reason != "" || b.Running != 1 || b.Dashboard != "http://localhost:1/clusters/jobs.b/status" {
			t.Errorf("%+v", b)
		}
	})
}
