package dask

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const insufficient = "0/1 nodes are available: 1 Insufficient cpu: "

// Workers that have no room are told once, after a grace, with a hint that is right; and again once
// that was mended.
func TestWorkersWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "2.6", "")
		w.has("a", "ada", "phase=Running", "replicas=4")
		w.pod("a", componentScheduler, "s", func(pod *corev1.Pod) {
			ready(pod)
			pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("0.5")
		})
		w.pod("a", componentWorker, "w1", ready)
		for _, name := range []string{"w2", "w3", "w4"} {
			w.pod("a", componentWorker, name, cannotBeScheduled)
		}
		w.expect(4*time.Second, "Dask cluster is up Running 1/4")
		// 1.1 of 2.6 are free. Four workers have 2.1: half a core each.
		const waits = "3 workers of ada wait: " + insufficient + "3 × 1 CPU asked, 1.1 free → " +
			"cluster.scale(2), or a new cluster with worker_cores 0.5"
		w.expect(3*time.Second, "Dask cluster waits Running 1/4 "+waits)
		w.pod("a", componentWorker, "w2", ready)
		w.expect(10*time.Second, "Dask cluster Running 2/4 2 workers of ada wait: "+insufficient+
			"2 × 1 CPU asked, 0.1 free → cluster.scale(2), or a new cluster with worker_cores 0.5")
		w.expect(2 * time.Minute)                        // it is not told again
		w.has("a", "ada", "phase=Running", "replicas=2") // the gateway leaves the pending pods
		w.expect(10*time.Second, "Dask cluster Running 2/2")
		w.has("a", "ada", "phase=Running", "replicas=3")
		w.expect(10*time.Second, "Dask cluster Running 2/3",
			"Dask cluster waits Running 2/3 1 worker of ada waits: "+insufficient+"1 × 1 CPU asked, 0.1 free → "+
				"cluster.scale(2), or a new cluster with worker_cores 0.7")
	})
}

// A pod that is pending for a moment is nothing to tell.
func TestWorkersThatOnlyStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "4", "")
		w.has("a", "ada", "phase=Running", "replicas=1")
		w.pod("a", componentScheduler, "s", ready)
		w.pod("a", componentWorker, "w1", cannotBeScheduled)
		w.expect(4*time.Second, "Dask cluster is up Running 0/1")
		w.pod("a", componentWorker, "w1", ready)
		w.expect(time.Minute, "Dask cluster Running 1/1")
	})
}

// While the cluster does not answer, nothing is said of it.
func TestNothingIsSaidOfAnotherCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "1", "")
		system := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem, UID: "another"}}
		if _, err := w.cluster.Client.CoreV1().Namespaces().Create(t.Context(), system, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.cluster.UID = "mine"
		w.has("a", "ada", "phase=Running", "replicas=1")
		w.pod("a", componentScheduler, "s", ready)
		w.pod("a", componentWorker, "w1", cannotBeScheduled)
		w.expect(time.Minute, "Dask cluster is up Running 0/1")
	})
}

func TestWhyClustersWait(t *testing.T) {
	waiting := func(reason, message string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Spec.NodeName = "node"
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: pod.Spec.Containers[0].Name,
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
		}
	}
	died := func(reason string, code int32) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			ready(pod)
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: pod.Spec.Containers[0].Name,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason,
					ExitCode: code, FinishedAt: metav1.Now()}}}}
		}
	}
	const image = "is worker:1 right? Without the option image, a new cluster gets the one that its gateway names"
	for _, c := range []struct {
		name              string
		scheduler, worker func(*corev1.Pod) // nil: there is none
		also              func(*world)
		want              string
	}{
		{"a mistyped image", waiting("ImagePullBackOff", `Back-off pulling image "worker:1": ErrImagePull: not found`),
			nil, nil, "the scheduler of ada waits for the image: ErrImagePull: not found → " + image},
		{"an image that is not there", waiting("ErrImageNeverPull", "worker:1 is not present"), nil, nil,
			"the scheduler of ada waits for the image: ErrImageNeverPull: worker:1 is not present → " + image},
		{"no name of an image", waiting("InvalidImageName", "couldn't parse"), nil, nil,
			"the scheduler of ada waits for the image: InvalidImageName: couldn't parse → " + image},
		{"a secret is missing", ready, waiting("CreateContainerConfigError", `secret "x" not found`), nil,
			`1 worker of ada cannot start: CreateContainerConfigError: secret "x" not found → ` +
				"kubectl describe pod -n jobs w"},
		{"too little memory", ready, died("OOMKilled", 137), nil,
			"1 worker of ada ended: OOMKilled, its memory limit is 512 Mi → give a new cluster more worker_memory"},
		{"a worker that fails", ready, died("Error", 1), nil,
			"1 worker of ada ended: exit code 1 → its last lines: devloop logs w"},
		{"no room for the scheduler", cannotBeScheduled, nil, nil,
			"the scheduler of ada waits: " + insufficient + "1 × 1 CPU asked, 0.9 free → stop clusters that nobody needs: " +
				"devloop clusters; or give the scheduler less: scheduler_cores, scheduler_memory in the gateway's values"},
		{"a port is taken, too", func(pod *corev1.Pod) {
			cannotBeScheduled(pod)
			pod.Status.Conditions[0].Message = "0/2 nodes are available: 1 Insufficient cpu, " +
				"1 node(s) didn't have free ports for the requested pod ports. preemption: no"
		}, nil, nil, "the scheduler of ada waits: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't have " +
			"free ports for the requested pod ports → kubectl describe pod -n jobs s"},
		{"a taint", func(pod *corev1.Pod) {
			cannotBeScheduled(pod)
			pod.Status.Conditions[0].Message = "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: no"
		}, nil, nil, "the scheduler of ada waits: 0/1 nodes are available: 1 node(s) had untolerated taint(s) → " +
			"kubectl describe pod -n jobs s"},
		{"a quota", ready, nil, func(w *world) {
			quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "jobs", Name: "small"},
				Status: corev1.ResourceQuotaStatus{
					Hard: corev1.ResourceList{corev1.ResourceRequestsCPU: resource.MustParse("2"),
						corev1.ResourcePods: resource.MustParse("9")},
					Used: corev1.ResourceList{corev1.ResourceRequestsCPU: resource.MustParse("1500m")}}}
			quotas := w.cluster.Client.CoreV1().ResourceQuotas("jobs")
			if _, err := quotas.Create(w.t.Context(), quota, metav1.CreateOptions{}); err != nil {
				w.t.Error(err)
			}
		}, "1 worker of ada has no pod: quota small has no room: requests.cpu 1500m of 2 used → " +
			"raise the quota, or lower what the cluster asks for: kubectl describe quota -n jobs"},
		{"a gateway that does nothing", ready, nil, nil, "1 worker of ada has no pod: the gateway has not made it → " +
			"why stands in the log of the gateway's controller: devloop logs controller"},
		{"a volume", ready, waiting("ContainerCreating", ""), func(w *world) {
			e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "jobs", Name: "e"}, Type: corev1.EventTypeWarning,
				InvolvedObject: corev1.ObjectReference{UID: types.UID("uid of w")}, Reason: "FailedMount",
				Message: "no such volume"}
			if _, err := w.cluster.Client.CoreV1().Events("jobs").Create(w.t.Context(), e, metav1.CreateOptions{}); err != nil {
				w.t.Error(err)
			}
		}, "1 worker of ada waits: FailedMount: no such volume → kubectl describe pod -n jobs w"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "0.9", "")
				if c.also != nil {
					c.also(w)
				}
				w.pod("a", componentScheduler, "s", c.scheduler)
				if c.worker != nil {
					w.pod("a", componentWorker, "w", c.worker)
				}
				w.has("a", "ada", "phase=Running", "replicas=1")
				got := w.after(40 * time.Second)
				running := "0"
				if c.worker != nil && c.want[:1] == "1" && (c.name == "too little memory" || c.name == "a worker that fails") {
					running = "1"
				}
				if want := "Dask cluster waits Running " + running + "/1 " + c.want; len(got) == 0 || got[len(got)-1] != want {
					t.Errorf("reported\n%q\nnot\n%q", got, want)
				}
			})
		})
	}
}

// Of several clusters of one owner, messages say which.
func TestOwnersOfSeveralClusters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "1", "")
		w.has("0123456789ab", "ada", "phase=Running", "replicas=1")
		w.has("b", "ada", "phase=Running")
		w.pod("0123456789ab", componentScheduler, "s", ready)
		w.pod("0123456789ab", componentWorker, "w", cannotBeScheduled)
		got := w.after(10 * time.Second)
		const want = "Dask cluster waits Running 0/1 1 worker of ada (01234567) waits: " + insufficient +
			"1 × 1 CPU asked, 0 free → stop clusters that nobody needs: devloop clusters; or give the nodes more"
		if len(got) == 0 || got[len(got)-1] != want {
			t.Errorf("%q", got)
		}
	})
}
