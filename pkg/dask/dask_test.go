package dask

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/devloop/devloop/pkg/event"
)

func TestImageDigest(t *testing.T) {
	for imageID, want := range map[string]string{
		"sha256:ab":          "sha256:ab", // containerd
		"docker://sha256:ab": "sha256:ab",
		"docker-pullable://r.example/w@sha256:ab": "sha256:ab",
		"r.example/w@sha256:ab":                   "sha256:ab", // CRI-O
		"":                                        "",
		"odd":                                     "odd",
	} {
		if got := imageDigest(imageID); got != want {
			t.Errorf("%q is %q, not %q", imageID, got, want)
		}
	}
}

func TestDaskCluster(t *testing.T) {
	since := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	object := func(spec, status map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "c1", "namespace": "n", "creationTimestamp": since.Format(time.RFC3339)},
			"spec":     spec, "status": status,
		}}
	}
	pod := func(namespace, cluster, component, image string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace,
			Labels: map[string]string{LabelCluster: cluster, labelComponent: component}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "proxy", Image: "proxy:1"},
				{Name: component, Image: image}}}}
	}
	gone := pod("n", "c1", "dask-worker", "worker:0")
	gone.DeletionTimestamp = &metav1.Time{Time: since}
	ready := pod("n", "c1", "dask-worker", "worker:1")
	ready.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	evicted := pod("n", "c1", "dask-worker", "worker:1")
	evicted.Status.Phase = corev1.PodFailed
	pods := []*corev1.Pod{
		pod("n", "c1", "dask-scheduler", "worker:1"), pod("n", "c1", "dask-worker", "worker:1"),
		ready, gone, evicted,
		pod("n", "c2", "dask-worker", "worker:2"), pod("m", "c1", "dask-worker", "worker:3"),
	}
	spec := map[string]any{"username": "ada", "replicas": int64(3), "config": map[string]any{"image": "worker:9"}}
	got := readCluster(object(spec, map[string]any{"phase": "Running"}), pods)
	got.Since = got.Since.UTC()
	if want := (event.DaskCluster{Namespace: "n", Name: "c1", Owner: "ada", Image: "worker:1", Since: since,
		Workers: 2, Wanted: 3, Running: 1, Phase: "Running"}); !isAlive(got) || got != want {
		t.Errorf("got %+v", got)
	}
	if got := readCluster(object(spec, nil), nil); !isAlive(got) || got.Image != "worker:9" || got.Phase != "Pending" {
		t.Errorf("one that only starts: %+v", got)
	}
	for _, phase := range []string{"Stopped", "Failed"} {
		if isAlive(readCluster(object(spec, map[string]any{"phase": phase}), pods)) {
			t.Errorf("one that is %s is alive", phase)
		}
	}
	if got := readCluster(object(map[string]any{"active": false}, nil), pods); isAlive(got) || got.Phase != "Stopping" {
		t.Errorf("one that is being stopped: %+v", got)
	}
	if !isAlive(readCluster(object(map[string]any{"username": 3, "config": "odd", "active": "yes", "replicas": "many"},
		map[string]any{"phase": []any{}}), pods)) {
		t.Error("one with odd fields is not alive")
	}
}

func TestRunningContainers(t *testing.T) {
	always, isController := corev1.ContainerRestartPolicyAlways, true
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: "u", OwnerReferences: []metav1.OwnerReference{{Controller: &isController}}},
		Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "init"}, {Name: "sidecar", RestartPolicy: &always}},
			Containers: []corev1.Container{{Name: "app", Image: "app:1"}, {Name: "waits"}}},
		Status: corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", State: running}, {Name: "sidecar", State: running}},
			ContainerStatuses: []corev1.ContainerStatus{
				{Name: "app", State: running, ContainerID: "containerd://ab", Ready: true}, {Name: "waits"}},
		},
	}
	got := RunningContainers(pod)
	if len(got) != 3 || !got[0].Init || got[1].Init || got[2].Init {
		t.Fatalf("got %+v", got)
	}
	app := got[2]
	if app.ContainerID != "ab" || !app.Ready || !app.Controlled || app.PodUID != "u" || app.Image != "app:1" {
		t.Errorf("got %+v", app)
	}
}
