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
	object := func(spec, status map[string]any) unstructured.Unstructured {
		return unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "c1", "namespace": "n", "creationTimestamp": since.Format(time.RFC3339)},
			"spec":     spec, "status": status,
		}}
	}
	pod := func(namespace, cluster, component, image string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace,
			Labels: map[string]string{LabelCluster: cluster, labelComponent: component}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "proxy", Image: "proxy:1"},
				{Name: component, Image: image}}}}
	}
	gone := pod("n", "c1", "dask-worker", "worker:0")
	gone.DeletionTimestamp = &metav1.Time{Time: since}
	pods := []corev1.Pod{
		pod("n", "c1", "dask-scheduler", "worker:1"), pod("n", "c1", "dask-worker", "worker:1"),
		pod("n", "c1", "dask-worker", "worker:1"), gone,
		pod("n", "c2", "dask-worker", "worker:2"), pod("m", "c1", "dask-worker", "worker:3"),
	}
	spec := map[string]any{"username": "ada", "config": map[string]any{"image": "worker:9"}}
	got, alive := readCluster(object(spec, map[string]any{"phase": "Running"}), pods)
	got.Since = got.Since.UTC()
	if want := (event.DaskCluster{Namespace: "n", Name: "c1", Owner: "ada", Image: "worker:1", Since: since,
		Workers: 2}); !alive || got != want {
		t.Errorf("got %+v, %v", got, alive)
	}
	if got, alive := readCluster(object(spec, nil), nil); !alive || got.Image != "worker:9" {
		t.Errorf("one that only starts: %+v, %v", got, alive)
	}
	for _, phase := range []string{"Stopped", "Failed"} {
		if _, alive := readCluster(object(spec, map[string]any{"phase": phase}), pods); alive {
			t.Errorf("one that is %s is alive", phase)
		}
	}
	if _, alive := readCluster(object(map[string]any{"active": false}, nil), pods); alive {
		t.Error("one that is being stopped is alive")
	}
	if _, alive := readCluster(object(map[string]any{"username": 3, "config": "odd", "active": "yes"},
		map[string]any{"phase": []any{}}), pods); !alive {
		t.Error("one with odd fields is not alive")
	}
}
