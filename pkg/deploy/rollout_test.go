package deploy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

func TestMissingReplicas(t *testing.T) {
	for _, test := range []struct {
		want, all, updated, available int32
		text                          string
	}{
		{2, 2, 2, 2, ""},
		{0, 0, 0, 0, ""},
		{2, 2, 1, 2, "1 of 2 replicas updated"},
		{2, 3, 2, 2, "1 old replicas are ending"},
		{2, 2, 2, 1, "1 of 2 replicas available"},
	} {
		if got := missingReplicas(test.want, test.all, test.updated, test.available); got != test.text {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

// A status may count pods that are being deleted, such as after a return to an earlier template.
func TestAStatusThatIsBehindThePods(t *testing.T) {
	now := time.Now()
	ready := container{probe: &corev1.Probe{}, ranFor: time.Hour}.pod(now)
	ready.Labels[appsv1.ControllerRevisionHashLabelKey] = "1"
	starting := ready.DeepCopy()
	starting.Name = "web-2"
	starting.Status = corev1.PodStatus{Phase: corev1.PodPending}
	ending := ready.DeepCopy()
	ending.DeletionTimestamp, ending.Finalizers = &metav1.Time{Time: now}, []string{"kubelet"}
	evicted := ready.DeepCopy()
	evicted.Name = "web-0"
	evicted.Status.Phase, evicted.Status.Reason = corev1.PodFailed, "Evicted"
	evicted.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	ofAnother := ready.DeepCopy()
	ofAnother.OwnerReferences[0].UID = "another"
	meta := metav1.ObjectMeta{Namespace: "demo", Name: "web", UID: "web",
		Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: "1"}}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	statefulSet := func(change func(*appsv1.StatefulSetSpec)) *appsv1.StatefulSet {
		set := &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector},
			Status: appsv1.StatefulSetStatus{Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1, UpdateRevision: "1"}}
		change(&set.Spec)
		return set
	}
	daemonSet := &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector},
		Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 1, CurrentNumberScheduled: 1, UpdatedNumberScheduled: 1,
			NumberAvailable: 1}}
	upgraded := daemonSet.DeepCopy() // after an upgrade of the cluster: another revision of the same template
	upgraded.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "3"}
	ofGeneration := ready.DeepCopy()
	ofGeneration.Labels[appsv1.ControllerRevisionHashLabelKey] = "0"
	ofGeneration.Labels["pod-template-generation"] = "3"
	revision := &appsv1.ControllerRevision{ObjectMeta: *meta.DeepCopy()}
	revision.Labels["app"] = "web"
	revision.OwnerReferences = []metav1.OwnerReference{{UID: "web", Controller: ptr.To(true)}}
	for _, test := range []struct {
		name    string
		of      string // kind
		objects []runtime.Object
		missing string
	}{
		{"ready", "deployment", []runtime.Object{ready}, ""},
		{"ending", "deployment", []runtime.Object{ending, starting}, "0 of 1 pods ready"},
		{"gone", "deployment", nil, "0 of 1 pods ready"},
		{"evicted", "deployment", []runtime.Object{evicted}, "0 of 1 pods ready"},
		{"evicted and replaced", "deployment", []runtime.Object{evicted, ready}, ""},
		{"of another workload", "deployment", []runtime.Object{ofAnother}, "0 of 1 pods ready"},
		{"ready", "statefulset", []runtime.Object{statefulSet(func(*appsv1.StatefulSetSpec) {}), ready}, ""},
		{"ending", "statefulset", []runtime.Object{statefulSet(func(*appsv1.StatefulSetSpec) {}), ending},
			"0 of 1 pods ready"},
		{"replaced by the user", "statefulset", []runtime.Object{statefulSet(func(spec *appsv1.StatefulSetSpec) {
			spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
		})}, ""},
		{"not to be replaced yet", "statefulset", []runtime.Object{statefulSet(func(spec *appsv1.StatefulSetSpec) {
			spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](5)}
		})}, ""},
		{"ready", "daemonset", []runtime.Object{daemonSet, revision, ready}, ""},
		{"ending", "daemonset", []runtime.Object{daemonSet, revision, ending}, "0 of 1 pods ready"},
		{"of the same generation", "daemonset", []runtime.Object{upgraded, revision, ofGeneration}, ""},
		{"of an older generation", "daemonset", []runtime.Object{daemonSet, revision, ofGeneration}, "0 of 1 pods ready"},
		{"of no revision yet", "daemonset", []runtime.Object{daemonSet, ready}, notObserved},
	} {
		t.Run(test.of+" "+test.name, func(t *testing.T) {
			client := upToDate(test.objects...)
			changeWeb(t, client, func(web *appsv1.Deployment) {
				web.Spec.Template.Labels = map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: "exported"}
			})
			d := New(&kube.Cluster{Client: client}, "demo", nil, Options{})
			w, of := &waiter{Deployer: d}, workload{kind: test.of, namespace: "demo", name: "web"}
			got, err := d.rollout(t.Context(), of)
			if err != nil {
				t.Fatal(err)
			}
			missing, again, err := w.diagnose(t.Context(), of, got)
			if missing != test.missing || err != nil || got.missing != "" {
				t.Errorf("%q, %v, and by its status %q", missing, err, got.missing)
			}
			if missing != "" && again == 0 {
				t.Error("it is not looked at again until its status changes")
			}
		})
	}
}

// A pod of an earlier revision that never came up blocks a stateful set, unless it is to stay.
func TestStatefulSetsWhosePodsStay(t *testing.T) {
	for _, test := range []struct {
		name     string
		strategy appsv1.StatefulSetUpdateStrategy
		deleted  int
	}{
		{"rolling", appsv1.StatefulSetUpdateStrategy{}, 1},
		{"replaced by the user", appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}, 0},
		{"not to be replaced yet", appsv1.StatefulSetUpdateStrategy{
			RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](1)}}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pod := container{}.pod(time.Now())
				pod.Labels[appsv1.ControllerRevisionHashLabelKey] = "old"
				pod.Status = waits("ErrImageNeverPull", "not there")
				client := fake.NewClientset(pod, &appsv1.StatefulSet{
					ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web", UID: "web"},
					Spec: appsv1.StatefulSetSpec{UpdateStrategy: test.strategy,
						Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
					Status: appsv1.StatefulSetStatus{Replicas: 1, UpdateRevision: "new"}})
				d := New(&kube.Cluster{Client: client}, "demo", nil, Options{})
				w := &waiter{Deployer: d, stage: event.Sink(func(event.Event) {}).Stage("deploy")}
				of := workload{"statefulset", "demo", "web", &deployed{}}
				for began := time.Now(); time.Since(began) < 2*eventsDelay; {
					now, err := d.rollout(t.Context(), of)
					if err != nil {
						t.Fatal(err)
					}
					if missing, _, err := w.diagnose(t.Context(), of, now); missing == "" || err != nil {
						t.Fatalf("%q, %v", missing, err)
					}
					<-time.After(eventsDelay)
				}
				if got := deletions(client.Actions()); len(got) != test.deleted {
					t.Errorf("deleted %q", got)
				}
			})
		})
	}
}

// A deployment's controller may have seen a template, and not have created its replica set yet.
// Until then, pods and conditions say nothing about the new template.
func TestATemplateWithoutAReplicaSet(t *testing.T) {
	failing := container{}.pod(time.Now())
	failing.Status.ContainerStatuses[0].RestartCount = maxRestarts + 1
	failing.Status.ContainerStatuses[0].State = corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	client := upToDate(failing)
	d := New(&kube.Cluster{Client: client}, "demo", nil, Options{})
	w, of := &waiter{Deployer: d}, workload{kind: "deployment", namespace: "demo", name: "web"}
	diagnose := func() (string, error) {
		t.Helper()
		got, err := d.rollout(t.Context(), of)
		if err != nil {
			t.Fatal(err)
		}
		missing, _, err := w.diagnose(t.Context(), of, got)
		return missing, err
	}
	if _, err := diagnose(); err == nil {
		t.Error("a pod that crashes is no failure")
	}
	changeWeb(t, client, func(web *appsv1.Deployment) {
		web.Spec.Template.Labels = map[string]string{"saved": "again"}
		web.Status = appsv1.DeploymentStatus{Replicas: 1, Conditions: []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded"}}}
	})
	if missing, err := diagnose(); missing != "0 of 1 replicas updated" || err != nil {
		t.Errorf("%q, %v", missing, err)
	}
}

// A deployment may have the failure of its previous template for a moment. One that stays is its
// own.
func TestADeploymentThatFails(t *testing.T) {
	for _, test := range []struct {
		reason  string
		passes  time.Duration // 0 if it stays
		created bool          // the replica set
	}{
		{"ProgressDeadlineExceeded", retryGrace / 2, true},
		{"ProgressDeadlineExceeded", 0, true},
		{"ReplicaSetCreateError", retryGrace / 2, false},
		{"ReplicaSetCreateError", 0, false},
	} {
		t.Run(fmt.Sprint(test.reason, " ", test.passes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := completing(t, test.passes, func(web *appsv1.Deployment) {
					web.Status.AvailableReplicas = 0
					web.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing,
						Status: corev1.ConditionFalse, Reason: test.reason, Message: "the cause"}}
					if !test.created {
						web.Generation = web.Status.ObservedGeneration + 1
					}
				})
				d, began := New(&kube.Cluster{Client: client}, "demo", nil, Options{}), time.Now()
				err := d.Wait(t.Context(), func(event.Event) {}, nil, []Health{{"demo", "app=web"}}, time.Minute)
				took := time.Since(began)
				if test.passes > 0 && (err != nil || took > test.passes+missedChange) {
					t.Errorf("%v after %s", err, took)
				}
				if test.passes == 0 && (err == nil || !strings.Contains(err.Error(), test.reason+": the cause") ||
					took > retryGrace+missedChange) {
					t.Errorf("%v after %s", err, took)
				}
			})
		})
	}
}

// A pod whose first probe is delayed, or whose startup probe is asked every 10 s, as Kubernetes
// does by itself, keeps each save waiting. A readiness probe is asked as soon as its container
// runs.
func TestTheRepositorysPodsAreReadySoon(t *testing.T) {
	loaded, err := loader.Load("../../deploy/dask-session")
	if err != nil {
		t.Fatal(err)
	}
	dask := map[string]any{"workerImage": "worker:1", "gatewayURL": "http://web"}
	values := map[string]any{"dask": dask}
	given, err := chartutil.ToRenderValues(loaded, values, chartutil.ReleaseOptions{Name: "web"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(loaded, given)
	if err != nil {
		t.Fatal(err)
	}
	var deployment appsv1.Deployment
	if err := yaml.UnmarshalStrict([]byte(files["dask-session/templates/deployment.yaml"]), &deployment); err != nil {
		t.Fatal(err)
	}
	for _, c := range deployment.Spec.Template.Spec.Containers {
		if c.ReadinessProbe == nil && c.StartupProbe == nil {
			t.Errorf("container %s has no probe: devloop watches it for %s", c.Name, steadyAfter)
		}
		if probe := c.ReadinessProbe; probe != nil && probe.InitialDelaySeconds != 0 {
			t.Errorf("the readiness probe of container %s: %s", c.Name, probe)
		}
		if probe := c.StartupProbe; probe != nil && probe.InitialDelaySeconds+probe.PeriodSeconds != 1 {
			t.Errorf("the startup probe of container %s: %s", c.Name, probe)
		}
	}
}
