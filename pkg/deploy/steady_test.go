package deploy

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// container is a container that runs, by its node's clock.
type container struct {
	id       string
	probe    *corev1.Probe
	restarts int32
	lastRun  time.Duration // before the last restart, 0 if nothing tells
	ranFor   time.Duration
}

// pod returns the one pod of the deployment web, on a node whose clock says now.
func (c container) pod(now time.Time) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-1",
		Labels:          map[string]string{"app": "web", appsv1.DefaultDeploymentUniqueLabelKey: "1"},
		OwnerReferences: []metav1.OwnerReference{{UID: "web", Controller: ptr.To(true)}}}}
	pod.Spec.NodeName = "minikube"
	pod.Spec.Containers = []corev1.Container{{Name: "main", StartupProbe: c.probe}}
	status := corev1.ContainerStatus{Name: "main", RestartCount: c.restarts, ContainerID: c.id, Ready: true}
	status.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-c.ranFor))}
	if c.lastRun > 0 {
		ended := now.Add(-c.ranFor)
		status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
			StartedAt: metav1.NewTime(ended.Add(-c.lastRun)), FinishedAt: metav1.NewTime(ended)}
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{status}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	return pod
}

// upToDate returns a cluster in which the status of the deployment web says that it is complete.
func upToDate(objects ...runtime.Object) *fake.Clientset {
	meta := metav1.ObjectMeta{Namespace: "demo", Name: "web", UID: "web", Labels: map[string]string{"app": "web"},
		Annotations: map[string]string{"deployment.kubernetes.io/revision": "1"}}
	set := meta
	set.Labels = map[string]string{"app": "web", appsv1.DefaultDeploymentUniqueLabelKey: "1"}
	set.OwnerReferences = []metav1.OwnerReference{{UID: "web", Controller: ptr.To(true)}}
	deployment := &appsv1.Deployment{ObjectMeta: meta,
		Spec:   appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		Status: appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1}}
	return fake.NewClientset(append(objects, &appsv1.ReplicaSet{ObjectMeta: set}, deployment)...)
}

func waitForWeb(t *testing.T, d *Deployer) (took time.Duration) {
	t.Helper()
	began := time.Now()
	health := []Health{{Namespace: "demo", Selector: "app=web"}}
	if err := d.Wait(t.Context(), func(event.Event) {}, nil, health, time.Minute); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

// Kubernetes calls a container without a probe ready as soon as it runs. devloop watches it for a
// while, less the time that it has been running already.
func TestContainersWithoutAProbe(t *testing.T) {
	const never = -1
	for _, test := range []struct {
		name      string
		container container
		clock     time.Duration // how far the node's is ahead
		renewed   time.Duration // since when the node has not said that it is well
		wait      time.Duration
	}{
		{"just started", container{}, 0, 0, steadyAfter},
		{"just started, by a clock that is behind", container{}, -time.Hour, 0, steadyAfter},
		{"probed", container{probe: &corev1.Probe{}}, 0, 0, 0},
		{"ran for long", container{ranFor: 37 * time.Second}, 0, 9 * time.Second, 0},
		{"ran for long, by a clock that is behind", container{ranFor: 37 * time.Second}, -time.Hour, 9 * time.Second, 0},
		{"ran for long, by a clock that is ahead", container{ranFor: 37 * time.Second}, time.Hour, 9 * time.Second, 0},
		{"ran for a moment", container{ranFor: 2 * time.Second}, 0, 0, 2 * time.Second},
		{"started since its node said anything", container{ranFor: 5 * time.Second}, 0, 9 * time.Second, steadyAfter},
		{"its node does not say anything", container{ranFor: time.Hour}, 0, never, steadyAfter},
		{"crashed at once", container{restarts: 1, lastRun: 2 * time.Second}, 0, 0, steadyAfterCrash},
		{"crashed, nothing tells when", container{restarts: 1}, 0, 0, steadyAfterCrash},
		{"crashed at once, ran for a while", container{restarts: 4, lastRun: 2 * time.Second, ranFor: 11 * time.Second}, 0, 0,
			5 * time.Second},
		{"crashed at once, ran for long", container{restarts: 4, lastRun: 2 * time.Second, ranFor: 16 * time.Second},
			0, 0, 0},
		{"restarted with its node", container{restarts: 1, lastRun: time.Hour, ranFor: 4 * time.Second}, 0, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now().Add(test.clock)
				client := upToDate(test.container.pod(now))
				if test.renewed != never {
					renewed := metav1.NewMicroTime(now.Add(-test.renewed))
					lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: "minikube"}}
					lease.Spec.RenewTime = &renewed
					if err := client.Tracker().Add(lease); err != nil {
						t.Fatal(err)
					}
				}
				d := New(&kube.Cluster{Client: client}, "demo", nil, Options{})
				if took := waitForWeb(t, d); took < test.wait || took > test.wait+pollInterval {
					t.Errorf("it took %s, not %s", took, test.wait)
				}
				if took := waitForWeb(t, d); took > 0 {
					t.Errorf("once more, it took %s", took)
				}
			})
		})
	}
}

func TestContainerWithoutAProbeThatCrashesSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := upToDate(container{id: "first"}.pod(time.Now()))
		d := New(&kube.Cluster{Client: client}, "demo", nil, Options{})
		const crashes = 2 * time.Second
		time.AfterFunc(crashes, func() {
			again := container{id: "second", restarts: 1, lastRun: crashes}.pod(time.Now())
			if _, err := client.CoreV1().Pods("demo").Update(t.Context(), again, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		})
		if took := waitForWeb(t, d); took < crashes+steadyAfterCrash {
			t.Errorf("it counts as up after %s", took)
		}
	})
}

// Each container counts from its own start, not from when the one before it was steady.
func TestContainersWithoutAProbeCountTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := upToDate(container{id: "1"}.pod(time.Now()))
		for i := range 4 {
			pod := container{id: fmt.Sprint("other", i)}.pod(time.Now())
			pod.Name = fmt.Sprint("web-other-", i)
			if err := client.Tracker().Add(pod); err != nil {
				t.Fatal(err)
			}
		}
		d := New(&kube.Cluster{Client: client}, "demo", nil, Options{})
		if took := waitForWeb(t, d); took != steadyAfter {
			t.Errorf("it took %s, not %s", took, steadyAfter)
		}
	})
}

// A container counts from its start also while other replicas are still missing.
func TestContainerWithoutAProbeCountsWhileOthersStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const complete = 2 * time.Second
		client := rollingOut(t, complete)
		pod := container{id: "1"}.pod(time.Now()) // now without its probe
		if _, err := client.CoreV1().Pods("demo").Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		d := New(&kube.Cluster{Client: client}, "demo", nil, Options{})
		if took := waitForWeb(t, d); took != steadyAfter {
			t.Errorf("it took %s, not %s", took, steadyAfter)
		}
	})
}
