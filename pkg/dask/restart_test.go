package dask

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

func TestScheduler(t *testing.T) {
	pod := func(name, cluster, component string, ready corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name,
			Labels: map[string]string{LabelCluster: cluster, labelComponent: component}},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}
	}
	c := &kube.Cluster{Client: fake.NewClientset(pod("worker", "up", componentWorker, corev1.ConditionTrue),
		pod("scheduler", "up", componentScheduler, corev1.ConditionTrue),
		pod("other", "starting", componentScheduler, corev1.ConditionFalse))}
	found, err := Scheduler(t.Context(), c, event.DaskCluster{Namespace: "n", Name: "up"})
	if err != nil || found.Name != "scheduler" {
		t.Errorf("%v, %v", found, err)
	}
	for _, name := range []event.Name{"starting", "gone"} {
		_, err := Scheduler(t.Context(), c, event.DaskCluster{Namespace: "n", Name: name})
		if err == nil || err.Error() != "the scheduler of Dask cluster n."+string(name)+" is not ready" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
