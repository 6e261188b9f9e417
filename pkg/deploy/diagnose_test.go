package deploy

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

func TestDiagnosis(t *testing.T) {
	of := workload{kind: "deployment", namespace: "demo", name: "web"}
	long := time.Now().Add(-time.Minute)
	for _, test := range []struct {
		name, reason, message string
		restarts              int32
		since                 time.Time
		ending                bool
		bad                   bool
	}{
		{"an image that does not exist", "ErrImageNeverPull", "because", 0, time.Time{}, false, true},
		{"a pull that failed just now", "ImagePullBackOff", "because", 0, time.Time{}, false, false},
		{"an image that is not there", "ErrImagePull", "manifest unknown", 0, time.Time{}, false, true},
		{"a pull that keeps failing", "ImagePullBackOff", "because", 0, long, false, true},
		{"one crash", "CrashLoopBackOff", "because", 1, long, false, false},
		{"crash after crash", "CrashLoopBackOff", "because", 2, time.Time{}, false, true},
		{"a pod that is ending", "CrashLoopBackOff", "because", 9, long, true, false},
		{"a pod that starts", "ContainerCreating", "", 0, long, false, false},
		{"a secret that may come", "CreateContainerConfigError", "because", 0, time.Time{}, false, false},
		{"a secret that does not come", "CreateContainerConfigError", "because", 0, long, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-1",
				Labels: map[string]string{"app": "web"}}}
			if test.ending {
				pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
				pod.Finalizers = []string{"test/keep"}
			}
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: test.restarts,
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: test.reason, Message: test.message}}}}
			w := &waiter{Deployer: New(&kube.Cluster{Client: fake.NewClientset(pod)}, "demo", nil, Options{}),
				seen: map[string]span{}}
			if !test.since.IsZero() {
				for _, trouble := range troubles(pod, false) {
					w.seen[podID(pod)+" "+trouble.key] = span{test.since, time.Now()}
				}
			}
			_, _, err := w.diagnose(t.Context(), of, rollout{missing: "1 of 1 replicas available", selector: "app=web"})
			if (err != nil) != test.bad {
				t.Errorf("diagnosis %v", err)
			}
			if err != nil && (!strings.Contains(err.Error(), test.reason+": "+test.message) || event.Hint(err) == "") {
				t.Errorf("diagnosis %v, hint %q", err, event.Hint(err))
			}
		})
	}
}

// A container whose process cannot be started waits in two states by turns.
func TestContainerThatCannotStart(t *testing.T) {
	const why = `exec: "nope": executable file not found in $PATH`
	var all []trouble
	for _, waiting := range []corev1.ContainerStateWaiting{
		{Reason: "RunContainerError", Message: "failed to start containerd task: " + why},
		{Reason: "CrashLoopBackOff", Message: "back-off 10s restarting failed container"},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-1"}}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: 1,
			State: corev1.ContainerState{Waiting: &waiting},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 128, Reason: "StartError", Message: "failed to create containerd task: " + why}}}}
		all = append(all, troubles(pod, false)...)
	}
	if len(all) != 2 || all[0] != all[1] || !strings.HasSuffix(all[0].what, ": RunContainerError: failed to create "+
		"containerd task: "+why) || all[0].grace != retryGrace {
		t.Errorf("%+v", all)
	}
}

// A hint does not mention memory unless a memory limit was seen.
func TestKilledContainer(t *testing.T) {
	limited := func(name string) corev1.Container {
		return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}}}
	}
	const raise = "raise the container's memory limit"
	const perhaps = "exit code 137 is SIGKILL, and its memory limit is 32Mi: if it reached that, " + raise
	for _, test := range []struct {
		name   string
		spec   corev1.PodSpec
		code   int32
		reason string
		hint   string // how it begins
	}{
		{"the node saw the memory kill", corev1.PodSpec{Containers: []corev1.Container{limited("main")}}, 137, "OOMKilled",
			raise},
		{"the node saw its end first", corev1.PodSpec{Containers: []corev1.Container{{Name: "other"}, limited("main")}}, 137,
			"Error", perhaps},
		{"an init container", corev1.PodSpec{InitContainers: []corev1.Container{limited("main")}}, 137, "Error", perhaps},
		{"without a limit", corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}, limited("other")}}, 137, "Error",
			hintLines},
		{"another end", corev1.PodSpec{Containers: []corev1.Container{limited("main")}}, 1, "Error", hintLines},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: test.spec, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Name: "main", RestartCount: maxRestarts,
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: test.code,
					Reason: test.reason}},
			}}}}
			all := troubles(pod, false)
			if len(all) != 1 || !strings.HasPrefix(all[0].hint, test.hint) {
				t.Errorf("%+v, not the hint %q", all, test.hint)
			}
		})
	}
}

// Of an image that the nodes were given, the cause is not its name.
func TestImageThatIsNotPulled(t *testing.T) {
	d := New(&kube.Cluster{Client: fake.NewClientset()}, "demo", nil, Options{})
	d.SetLoaded([]string{"worker:abc"})
	for _, test := range []struct {
		image  string
		policy corev1.PullPolicy
		hint   string // a part of it
	}{
		{"docker.io/library/worker:abc", corev1.PullAlways, "make it IfNotPresent"},
		{"worker:abc", corev1.PullIfNotPresent, "does not have it any more"},
		{"worker:latest", corev1.PullAlways, "correct the name or tag"},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: test.image,
			ImagePullPolicy: test.policy}}}}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Image: test.image,
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
		if all := d.troubles(pod, false); len(all) != 1 || !strings.Contains(all[0].hint, test.hint) {
			t.Errorf("%s, %s: %+v", test.image, test.policy, all)
		}
	}
}

// What delayed a container before it started is not why it failed.
func TestEvidence(t *testing.T) {
	started := metav1.NewTime(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-1", UID: "1"},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, StartedAt: started}}}}}}
	for after, want := range map[time.Duration]bool{-time.Second: false, 0: true, time.Second: true} {
		mount := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-1.1"},
			Type:           corev1.EventTypeWarning,
			InvolvedObject: corev1.ObjectReference{UID: "1"}, Reason: "FailedMount", Message: "not yet",
			LastTimestamp: metav1.NewTime(started.Add(after))}
		d := New(&kube.Cluster{Client: fake.NewClientset(pod, mount)}, "demo", nil, Options{})
		facts := d.evidence(t.Context(), pod, trouble{container: "main"})
		if got := strings.Contains(facts, "FailedMount: not yet"); got != want {
			t.Errorf("an event %s after the start: %q", after, facts)
		}
	}
}

func TestOnlyPodsOfTheStatefulSetAreUnblocked(t *testing.T) {
	l := cluster(t, permits{})
	yes := true
	for name, owner := range map[string]types.UID{"a-by-hand": "", "b-of-another": "another", "db-0": "set"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, UID: types.UID("uid-" + name),
			Labels: map[string]string{"app": "db"}},
			Status: waits("ErrImageNeverPull", "not there")}
		if owner != "" {
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", Name: "db", UID: owner, Controller: &yes}}
		}
		if err := l.client.Tracker().Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	w, r := &waiter{Deployer: l.Deployer, stage: l.stage()}, &deployed{foreign: true}
	w.unblockStatefulSet(t.Context(), workload{"statefulset", "demo", "db", r}, rollout{replaced: "app=db", uid: "set"})
	if got := deletions(l.client.Actions()); len(got) > 0 {
		t.Errorf("deleted %q of a release that is not ours", got)
	}
	r.foreign = false
	for range 3 {
		w.unblockStatefulSet(t.Context(), workload{"statefulset", "demo", "db", r}, rollout{replaced: "app=db", uid: "set"})
	}
	if got := deletions(l.client.Actions()); !slices.Equal(got, []string{"demo/db-0 UID uid-db-0"}) {
		t.Errorf("deleted %q", got)
	}
}
