package deploy

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clientgotesting "k8s.io/client-go/testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

var pods = schema.GroupResource{Resource: "pods"}

// node sets the status of each pod, as a kubelet would.
func node(status corev1.PodStatus) *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("create", "pods", func(a clientgotesting.Action) (bool, runtime.Object, error) {
		pod := a.(clientgotesting.CreateAction).GetObject().(*corev1.Pod)
		pod.Status = status
		return false, pod, nil
	})
	return client
}

func ended(state corev1.ContainerStateTerminated) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "devloop",
		State: corev1.ContainerState{Terminated: &state}}}}
}

func waits(reason, message string) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "devloop",
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}}
}

// limited gives pods a memory limit, as a LimitRange does.
func limited(client *fake.Clientset) *fake.Clientset {
	client.PrependReactor("create", "pods", func(a clientgotesting.Action) (bool, runtime.Object, error) {
		pod := a.(clientgotesting.CreateAction).GetObject().(*corev1.Pod)
		pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
		return false, pod, nil
	})
	return client
}

// forbids rejects pods in a namespace.
func forbids(client *fake.Clientset, namespace string, err error) *fake.Clientset {
	client.PrependReactor("create", "pods", func(a clientgotesting.Action) (bool, runtime.Object, error) {
		return a.GetNamespace() == namespace, nil, err
	})
	return client
}

// onDisk returns a real journal.
func onDisk(t *testing.T) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.TempDir(), "cluster", "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func TestCheckPod(t *testing.T) {
	quota := apierrors.NewForbidden(pods, "x", errors.New("exceeded quota"))
	for _, test := range []struct {
		name      string
		client    *fake.Clientset
		check     CheckPod
		wantErr   string // of the error, "" if there is none
		in        string // namespace of the pod
		transient bool
	}{
		{"it ends well", node(ended(corev1.ContainerStateTerminated{})), CheckPod{}, "", "default", false},
		{"near the release", node(ended(corev1.ContainerStateTerminated{})), CheckPod{Near: "web"}, "", "web", false},
		{"near a namespace that is not there yet", forbids(node(ended(corev1.ContainerStateTerminated{})), "web",
			apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "web")),
			CheckPod{Near: "web"}, "", "default", false},
		{"near one with a quota", forbids(node(ended(corev1.ContainerStateTerminated{})), "web", quota),
			CheckPod{Near: "web"},
			"", "default", false},
		{"in one with a quota", forbids(node(ended(corev1.ContainerStateTerminated{})), "web", quota),
			CheckPod{Namespace: "web"}, "exceeded quota", "", false},
		{"the API server starts", forbids(node(ended(corev1.ContainerStateTerminated{})), "default",
			apierrors.NewForbidden(pods, "x", errors.New(startingUp))),
			CheckPod{}, startingUp, "default", true},
		{"the API server breaks off", forbids(node(ended(corev1.ContainerStateTerminated{})), "default",
			apierrors.NewInternalError(errors.New("etcd"))), CheckPod{}, "etcd", "default", true},
		{"killed", node(ended(corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"})), CheckPod{},
			"a b in image worker:1 ended with exit code 137 (OOMKilled)\nfake logs", "default", false},
		{"killed, and the node does not say why",
			limited(node(ended(corev1.ContainerStateTerminated{ExitCode: 137, Reason: "Error"}))), CheckPod{},
			"a b in image worker:1 ended with exit code 137 (SIGKILL; its memory limit is 32Mi)\nfake logs", "default", false},
		{"no such command", node(ended(corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError",
			Message: "exec: no"})), CheckPod{}, "a b cannot be started in image worker:1: exec: no", "default", false},
		{"the node lacks the image", node(waits("ErrImageNeverPull", "not there")), CheckPod{},
			"container devloop of pod : ErrImageNeverPull: not there", "default", false},
		{"a registry that is away for long", node(waits("ErrImagePull", "i/o timeout")), CheckPod{},
			"ErrImagePull: i/o timeout", "default", true},
		{"it never ends", node(corev1.PodStatus{Phase: corev1.PodRunning}), CheckPod{}, "not done after 1m0s", "default",
			false},
		{"the scheduler is away", node(corev1.PodStatus{Phase: corev1.PodPending}), CheckPod{}, "is on no node yet",
			"default", true},
		{"no node takes it",
			node(corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled,
				Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1"}}}),
			CheckPod{}, "Unschedulable: 0/1", "default", true},
		{"evicted", node(corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "disk"}), CheckPod{},
			"Evicted: disk", "default", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				remembered := onDisk(t)
				d := New(&kube.Cluster{Client: test.client}, "demo", remembered, Options{})
				test.check.Image, test.check.Name, test.check.Purpose, test.check.Command = "worker:1",
					"a/b_worker.of.a.name.that.is.longer.than.a.label.may.be.at.all", "verify", []string{"a", "b"}
				test.check.Timeout = time.Minute
				out, err := d.RunCheckPod(t.Context(), test.check)
				switch {
				case test.wantErr == "" && (err != nil || out != "fake logs"):
					t.Errorf("%q, %v", out, err)
				case test.wantErr != "" &&
					(err == nil || !strings.Contains(strings.NewReplacer(podOf(test.client), "").Replace(err.Error()), test.wantErr)):
					t.Errorf("the error is %v", err)
				case event.IsTransient(err) != test.transient:
					t.Errorf("it may pass: %v", err)
				}
				in := "" // the last namespace in which it was looked for, or deleted
				for _, a := range test.client.Actions() {
					if verb := a.GetVerb(); a.GetResource().Resource == "pods" && (verb == "get" || verb == "delete") {
						in = a.GetNamespace()
					}
				}
				left, listErr := test.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
				if listErr != nil || len(left.Items) > 0 || in != test.in {
					t.Errorf("left: %v (%v); the pod was in %q", left.Items, listErr, in)
				}
				if names := remembered.Names(journal.Pod); len(names) > 0 {
					t.Errorf("the journal has %v", names)
				}
			})
		})
	}
}

// podOf returns the name of the created pod.
func podOf(client *fake.Clientset) string {
	for _, a := range client.Actions() {
		if c, ok := a.(clientgotesting.CreateAction); ok && a.GetResource().Resource == "pods" {
			return c.GetObject().(metav1.Object).GetName()
		}
	}
	return "-"
}

func TestCheckPodIsRemovedWhenCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := node(corev1.PodStatus{Phase: corev1.PodRunning})
		remembered := onDisk(t)
		d := New(&kube.Cluster{Client: client}, "demo", remembered, Options{})
		left := newCheckPod(CheckPod{Purpose: PurposeVerify}, "web", "left-by-one-that-was-killed")
		left.UID, left.Labels[labelProject] = "left", "demo"
		foreign := newCheckPod(CheckPod{Purpose: PurposeVerify}, "other", left.Name)
		foreign.Labels[labelProject] = "of another project"
		for _, pod := range []*corev1.Pod{left, foreign} {
			if err := errors.Join(client.Tracker().Add(pod), remembered.Record(journal.Pod, podID(pod))); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.RemoveCheckPods(t.Context()); err != nil {
			t.Fatal(err)
		}
		deleted := deletions(client.Actions())
		if len(deleted) != 1 || deleted[0] != "web/left-by-one-that-was-killed UID left" ||
			len(remembered.Names(journal.Pod)) != 0 {
			t.Errorf("removed: %v; the journal has %v", deleted, remembered.Names(journal.Pod))
		}
		if err := client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "other", foreign.Name); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := d.RunCheckPod(ctx, CheckPod{Image: "worker:1", Name: "worker", Purpose: "verify",
				Command: []string{"sleep"},
				Timeout: time.Hour})
			done <- err
		}()
		<-time.After(time.Minute)
		list, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 || list.Items[0].Name == left.Name {
			t.Fatalf("while it runs there are %d pods (%v)", len(list.Items), err)
		}
		if err := d.RemoveCheckPods(t.Context()); err != nil { // it is under way
			t.Fatal(err)
		}
		pod := list.Items[0]
		if !kube.IsCheckPod(&pod) || *pod.Spec.ActiveDeadlineSeconds < 3600 || !remembered.Has(journal.Pod, podID(&pod)) {
			t.Errorf("the pod is %+v, the journal %v", pod, remembered.Names(journal.Pod))
		}
		cancel(event.ErrSuperseded)
		if err := <-done; !errors.Is(err, event.ErrSuperseded) {
			t.Errorf("the error is %v", err)
		}
		list, err = client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != 0 || len(remembered.Names(journal.Pod)) != 0 {
			t.Errorf("after that there are %v (%v), and the journal has %v", list, err, remembered.Names(journal.Pod))
		}
	})
}

func TestVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := node(ended(corev1.ContainerStateTerminated{}))
		d := New(&kube.Cluster{Client: client}, "demo", onDisk(t), Options{})
		made := func() (n int) {
			for _, a := range client.Actions() {
				if a.GetVerb() == "create" {
					n++
				}
			}
			return n
		}
		worker := CheckPod{Image: "worker:1", Name: "worker", Purpose: "verify", Command: []string{"a"}, Timeout: time.Minute}
		session := worker
		session.Image = "client:1"
		passed := make(chan CheckPod, 2)
		pass := func(check CheckPod) { passed <- check }
		err := d.Verify(t.Context(), func(event.Event) {}, []CheckPod{worker, session}, pass)
		if err != nil || made() != 2 || len(passed) != 2 {
			t.Errorf("%d pods, %d passed, %v: each image is tried", made(), len(passed), err)
		}
		bad := node(ended(corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}))
		d = New(&kube.Cluster{Client: bad}, "demo", onDisk(t), Options{})
		err = d.Verify(t.Context(), func(event.Event) {}, []CheckPod{worker, session},
			func(check CheckPod) { t.Errorf("%s has passed", check.Image) })
		var failed *CheckPodError
		if !errors.As(err, &failed) || failed.Code != 1 || failed.Output != "fake logs" || event.Hint(err) == "" ||
			!strings.Contains(err.Error(), "worker:1 ended") || !strings.Contains(err.Error(), "client:1 ended") {
			t.Errorf("the error is %v", err)
		}
	})
}

// A pod is asked for when it changes, and often only if it cannot be watched.
func TestCheckPodIsWatched(t *testing.T) {
	for name, test := range map[string]struct {
		forbidden bool
		within    time.Duration // of its end, its end is known
		asked     int           // at most, in a minute
	}{
		"a pod that can be watched":    {false, 0, 65},
		"a pod that cannot be watched": {true, unwatchedPodInterval, 610},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := node(corev1.PodStatus{Phase: corev1.PodRunning})
				if test.forbidden {
					client.PrependWatchReactor("pods", func(clientgotesting.Action) (bool, watch.Interface, error) {
						return true, nil, apierrors.NewForbidden(pods, "", nil)
					})
				}
				d := New(&kube.Cluster{Client: client}, "demo", onDisk(t), Options{})
				done := make(chan time.Time, 1)
				go func() {
					if _, err := d.RunCheckPod(t.Context(), CheckPod{Image: "worker:1", Name: "worker", Purpose: PurposeVerify,
						Timeout: time.Hour}); err != nil {
						t.Error(err)
					}
					done <- time.Now()
				}()
				<-time.After(time.Minute + 30*time.Millisecond)
				pod := podOf(client)
				live, err := client.CoreV1().Pods("default").Get(t.Context(), pod, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				asked := 0
				for _, a := range client.Actions() {
					if a.GetVerb() == "get" {
						asked++
					}
				}
				live.Status = ended(corev1.ContainerStateTerminated{})
				if _, err := client.CoreV1().Pods("default").UpdateStatus(t.Context(), live, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				if late := (<-done).Sub(begin); late > test.within || asked > test.asked {
					t.Errorf("its end was seen after %s; it was asked for %d times before", late, asked)
				}
			})
		})
	}
}
