package pods

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// named returns an object's metadata in the namespace demo. marks are labels and annotations
// ("key=value") or the controller ("Kind/name").
func named(name string, marks ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: name, Namespace: "demo", UID: types.UID("uid of " + name), Labels: map[string]string{},
		Annotations: map[string]string{}}
	for _, mark := range marks {
		if kind, owner, ok := strings.Cut(mark, "/"); ok && !strings.Contains(mark, "=") {
			yes := true
			m.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: owner, UID: types.UID("uid of " + owner),
				Controller: &yes}}
			continue
		}
		key, value, _ := strings.Cut(mark, "=")
		m.Labels[key], m.Annotations[key] = value, value
	}
	return m
}

func TestWhosePodsAreFollowed(t *testing.T) {
	const helmsWeb, helmsOther, inDemo = "meta.helm.sh/release-name=web", "meta.helm.sh/release-name=other",
		"meta.helm.sh/release-namespace=demo"
	pod := func(name string, marks ...string) *corev1.Pod { return &corev1.Pod{ObjectMeta: named(name, marks...)} }
	client := fake.NewClientset(
		&appsv1.Deployment{ObjectMeta: named("adopted", helmsWeb, inDemo)},
		&appsv1.ReplicaSet{ObjectMeta: named("web-1", helmsWeb, inDemo)},
		&appsv1.ReplicaSet{ObjectMeta: named("adopted-1", "Deployment/adopted")},
		&appsv1.ReplicaSet{ObjectMeta: named("foreign-1", helmsOther, inDemo)},
		&appsv1.ReplicaSet{ObjectMeta: named("hand-made-1")},
		&appsv1.StatefulSet{ObjectMeta: named("db", helmsWeb, inDemo)},
		&appsv1.DaemonSet{ObjectMeta: named("agent", helmsWeb, inDemo)},
		&batchv1.CronJob{ObjectMeta: named("nightly", helmsWeb, inDemo)},
		&batchv1.Job{ObjectMeta: named("nightly-1", "CronJob/nightly")},
		&batchv1.Job{ObjectMeta: named("migrate", "helm.sh/hook=pre-install", "app.kubernetes.io/instance=web")},
		&batchv1.Job{ObjectMeta: named("web-api-hook0", "helm.sh/hook=pre-install")},
		&batchv1.Job{ObjectMeta: named("else", "helm.sh/hook=pre-install")},
		pod("a", "ReplicaSet/web-1"), pod("b", "ReplicaSet/adopted-1"), pod("c", "ReplicaSet/foreign-1"),
		pod("d", "ReplicaSet/hand-made-1"),
		pod("e", "StatefulSet/db"), pod("f", "DaemonSet/agent"), pod("g", "Job/nightly-1"), pod("h", "Job/migrate"),
		pod("i", "Job/web-api-hook0"), pod("j", "Job/else"),
		pod("k", helmsWeb, inDemo), pod("l"), pod("m", "ReplicaSet/gone"), pod("n", "Widget/web"),
		pod("test", "helm.sh/hook=test", "app.kubernetes.io/instance=web"),
		pod("o", "Widget/web", "app.kubernetes.io/managed-by=Helm", "app.kubernetes.io/instance=web"),
		pod("p", "gateway.dask.org/cluster=c1"), pod("q", "gateway.dask.org/cluster=c2", "app.kubernetes.io/managed-by=Helm",
			"app.kubernetes.io/instance=web"),
	)
	synctest.Test(t, func(t *testing.T) {
		h, scopes, end := followed(client, Scope{
			Releases: []types.NamespacedName{{Name: "web", Namespace: "demo"}, {Name: "web-api", Namespace: "demo"},
				{Name: "web", Namespace: "elsewhere"}},
			Selectors: []Selector{{"demo", "gateway.dask.org/cluster"}, {"demo", "not in ("}},
		})
		defer end()
		var got []string
		for _, e := range h.of(event.PodChanged) {
			got = append(got, fmt.Sprint(e.Field("pod"), " ", e.Field("release"), e.Field("group")))
		}
		slices.Sort(got)
		want := []string{"a web", "b web", "e web", "f web", "g web", "h web", "i web-api", "k web", "o web", "p c1", "q c2",
			"test web"}
		if !slices.Equal(got, want) {
			t.Errorf("followed %q", got)
		}
		if warned := h.of("not a label selector"); len(warned) != 1 {
			t.Errorf("warned %v", warned)
		}
		if got := h.of(event.PodGone); len(got) != 0 {
			t.Errorf("gone %v", got)
		}

		scopes <- Scope{Selectors: []Selector{{"demo", "gateway.dask.org/cluster=c2"}}}
		synctest.Wait()
		if got := h.of(event.PodGone); len(got) != 11 {
			t.Errorf("gone %v", got)
		}
		before := len(h.of(event.PodChanged))
		close(scopes) // the last one stays in force
		pass(time.Minute)
		if again := len(h.of(event.PodChanged)) - before; again > 1 { // q is in no group now
			t.Errorf("%d reported again", again)
		}
	})
}

// Any pod that comes, goes, changes its image or restarts a container is notified, whoever made it.
func TestReplacedPodsAreNotified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		scopes, replaced := make(chan Scope, 1), make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			Follow(ctx, client, (&heard{}).sink, scopes, replaced, nil)
			close(done)
		}()
		scopes <- webScope
		synctest.Wait()
		pods := client.CoreV1().Pods("demo")
		pod := &corev1.Pod{ObjectMeta: named("p"),
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "worker:1"}}}}
		for _, step := range []struct {
			what     string
			do       func() error
			notified bool
		}{
			{"it is made", func() error { _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); return err }, true},
			{"it is on a node", func() error {
				pod.Spec.NodeName = "n"
				_, err := pods.Update(ctx, pod, metav1.UpdateOptions{})
				return err
			}, false},
			{"its container has started", func() error {
				pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", ImageID: "sha256:a"}}
				_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
				return err
			}, true},
			{"it is ready", func() error {
				pod.Status.ContainerStatuses[0].Ready = true
				_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
				return err
			}, false},
			{"its container is restarted", func() error {
				pod.Status.ContainerStatuses[0].ContainerID = "containerd://b"
				_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
				return err
			}, true},
			{"it goes", func() error { return pods.Delete(ctx, "p", metav1.DeleteOptions{}) }, true},
			{"a check pod comes", func() error {
				_, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "check",
					Labels: map[string]string{
						kube.LabelManagedBy: kube.FieldManager, kube.LabelCheckPod: "verify"}}}, metav1.CreateOptions{})
				return err
			}, false},
			{"a check pod goes", func() error { return pods.Delete(ctx, "check", metav1.DeleteOptions{}) }, false},
		} {
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
			select {
			case <-replaced:
				if !step.notified {
					t.Errorf("%s: it was notified", step.what)
				}
			default:
				if step.notified {
					t.Errorf("%s: it was not notified", step.what)
				}
			}
		}
		cancel()
		<-done
	})
}

func TestWhatBecomesOfAPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTestNode(1)
		h, _, end := followed(n, webScope)
		defer end()
		expect := func(want string) {
			t.Helper()
			pass(time.Second)
			got := ""
			for _, e := range append(h.of(event.PodChanged), h.of(event.PodGone)...) {
				if e.Stage != event.PodStage || e.Phase != event.Detailed {
					t.Errorf("%+v", e)
				}
				got += fmt.Sprintln(e.Details()...)
			}
			if strings.TrimSpace(got) != want {
				t.Errorf("reported:\n%s\nwant:\n%s", got, want)
			}
			h.mu.Lock()
			h.all = nil
			h.mu.Unlock()
		}
		const is = "pod web-1 namespace demo release web group  node  phase "
		const made = " created 0001-01-01 00:00:00 +0000 UTC containers "
		expect(is + "Pending ready false reason  restarts 0" + made + "main web:1")
		n.update(func(s *corev1.ContainerStatus) {
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not\x1b[1m there"}
		})
		expect(is + "Running ready false reason ErrImagePull: not there restarts 0" + made + "main web:1")
		n.update(func(*corev1.ContainerStatus) { n.object.ResourceVersion = "7" })
		expect("")
		n.start()
		n.update(func(s *corev1.ContainerStatus) {
			s.ImageID = "sha256:1"
			n.object.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		})
		expect(is + "Running ready false reason container main is not ready restarts 0" + made + "main web:1\n" +
			is + "Running ready true reason  restarts 0" + made + "main web:1 sha256:1")
		n.object.Status.Conditions = nil
		n.start()
		n.update(func(s *corev1.ContainerStatus) {
			s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff",
				Message: "back-off 10s restarting failed container"}}
		})
		expect(is + "Running ready false reason container main is not ready restarts 1" + made + "main web:1 sha256:1\n" +
			is + "Running ready false reason CrashLoopBackOff: exit code 1 restarts 1" + made + "main web:1 sha256:1")
		n.update(func(s *corev1.ContainerStatus) {
			n.object.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		})
		expect(is + "Ending ready false reason CrashLoopBackOff: exit code 1 restarts 1" + made + "main web:1 sha256:1")
		if err := n.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "demo", "web-1"); err != nil {
			t.Fatal(err)
		}
		expect("pod web-1 namespace demo")
	})
}

func TestWhyAPodIsNotReady(t *testing.T) {
	two := corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}}
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	for want, object := range map[string]corev1.Pod{
		"": {Status: corev1.PodStatus{Phase: corev1.PodSucceeded,
			ContainerStatuses: []corev1.ContainerStatus{{Name: "a",
				State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}}},
		"Evicted: The node was low on memory.": {Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted",
			Message: "The node was low on memory."}},
		"Unschedulable: 0/1 nodes are available": {Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable",
				Message: "0/1 nodes are available"}}}},
		"ContainerCreating": {Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "a",
			State: waiting("ContainerCreating", "")}}}},
		"b: OOMKilled": {Spec: two, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", State: waiting("PodInitializing", "")},
			{Name: "b", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137,
				Reason: "OOMKilled"}}}}}},
		"a: CreateContainerConfigError: no such secret": {Spec: two,
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "a",
				State: waiting("CreateContainerConfigError", "no such secret")}}}},
	} {
		if got := unready(&object); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestKeptPods(t *testing.T) {
	yes := true
	by := func(kind string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{Kind: kind, Controller: &yes}}
	}
	const release = "n/web"
	for _, test := range []struct {
		name   string
		labels map[string]string
		owners []metav1.OwnerReference
		made   origin
		kept   bool
	}{
		{"of a deployment", nil, by("ReplicaSet"), origin{release: release}, false},
		{"of a stateful set, also one that replaces nothing by itself", nil, by("StatefulSet"), origin{release: release},
			false},
		{"of a job", nil, by("Job"), origin{release: release}, true},
		{"a pod of the chart", nil, nil, origin{release: release, sure: true}, false},
		{"a hook", nil, nil, origin{release: release, hook: "web-test"}, true},
		{"made by hand", map[string]string{"run": "debug"}, nil, origin{}, false},
		{"started by a program for its user", map[string]string{"app.kubernetes.io/managed-by": "kubespawner"}, nil,
			origin{}, true},
		{"of someone's operator", nil, by("Workflow"), origin{}, true},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: test.labels, OwnerReferences: test.owners}}
		if got := isKept(pod, test.made); got != test.kept {
			t.Errorf("%s: kept %v", test.name, got)
		}
	}
}
