package deploy

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/devloop/devloop/pkg/kube"
)

// rollingOut returns a cluster in which the deployment web completes later.
func rollingOut(t *testing.T, later time.Duration) *fake.Clientset {
	t.Helper()
	return completing(t, later, func(web *appsv1.Deployment) { web.Status.AvailableReplicas = 0 })
}

// completing returns a cluster in which the deployment web is as incomplete makes it, and completes
// later, or never if that is 0.
func completing(t *testing.T, later time.Duration, incomplete func(*appsv1.Deployment)) *fake.Clientset {
	t.Helper()
	client := upToDate(container{probe: &corev1.Probe{}}.pod(time.Now()))
	var complete *appsv1.Deployment
	changeWeb(t, client, func(web *appsv1.Deployment) {
		complete = web.DeepCopy()
		incomplete(web)
	})
	if later > 0 {
		time.AfterFunc(later, func() {
			changeWeb(t, client, func(web *appsv1.Deployment) { *web = *complete })
		})
	}
	return client
}

// changeWeb changes the deployment web, without an action of the client's.
func changeWeb(t *testing.T, client *fake.Clientset, change func(*appsv1.Deployment)) {
	t.Helper()
	found, err := client.Tracker().Get(appsDeployments, "demo", "web")
	if err != nil {
		t.Error(err)
		return
	}
	web := found.DeepCopyObject().(*appsv1.Deployment)
	change(web)
	if err := client.Tracker().Update(appsDeployments, web, "demo"); err != nil {
		t.Error(err)
	}
}

// looks counts how often the deployment was looked at.
func looks(client *fake.Clientset) (count int) {
	for _, a := range client.Actions() {
		if a.Matches("get", "deployments") {
			count++
		}
	}
	return count
}

// A change is seen at once where it can be watched. Where it cannot, or where a watch tells of
// nothing, it is seen a little later.
func TestRolloutIsFollowed(t *testing.T) {
	const complete = 7*time.Second + 777*time.Millisecond
	deaf := func(clienttesting.Action) (bool, watch.Interface, error) { return true, watch.NewFake(), nil }
	for _, test := range []struct {
		name  string
		watch clienttesting.WatchReactionFunc // nil for one that works
		late  time.Duration                   // at most
		looks int                             // at most
	}{
		{"watched", nil, 0, 14},
		{"refused", func(clienttesting.Action) (bool, watch.Interface, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", nil)
		}, pollInterval, 65},
		{"deaf", deaf, missedChange, 14},
		{"ends at once, each time", func(clienttesting.Action) (bool, watch.Interface, error) {
			ended := watch.NewFake()
			ended.Stop()
			return true, ended, nil
		}, pollInterval, 75},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := rollingOut(t, complete)
				if test.watch != nil {
					client.PrependWatchReactor("*", test.watch)
				}
				took := waitForWeb(t, New(&kube.Cluster{Client: client}, "demo", nil, Options{}))
				if took < complete || took > complete+test.late {
					t.Errorf("it took %s, not %s", took, complete)
				}
				if got := looks(client); got > test.looks {
					t.Errorf("the deployment was looked at %d times", got)
				}
			})
		})
	}
}

// What is complete already is looked at once, and never watched.
func TestNothingIsFollowedForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := upToDate(container{probe: &corev1.Probe{}}.pod(time.Now()))
		waitForWeb(t, New(&kube.Cluster{Client: client}, "demo", nil, Options{}))
		for _, a := range client.Actions() {
			if a.GetVerb() == "watch" {
				t.Errorf("watched: %s", a.GetResource().Resource)
			}
		}
		if got := looks(client); got != 1 {
			t.Errorf("looked at %d times", got)
		}
	})
}

// Other workloads of the namespace change all the time.
func TestChangesOfOthersDoNotBecomeRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const complete = 20*time.Second + 50*time.Millisecond
		client := rollingOut(t, complete)
		for i := range 200 {
			time.AfterFunc(time.Duration(i)*complete/200, func() {
				other := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: fmt.Sprint("other-", i)}}
				if err := client.Tracker().Create(appsDeployments, other, "demo"); err != nil {
					t.Error(err)
				}
			})
		}
		took := waitForWeb(t, New(&kube.Cluster{Client: client}, "demo", nil, Options{}))
		if took != complete {
			t.Errorf("it took %s", took)
		}
		if got := looks(client); got > 25 {
			t.Errorf("the deployment was looked at %d times", got)
		}
	})
}

// A watch that broke is made again, and what changed in between is not missed.
func TestBrokenWatchIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const complete = 10*time.Second + 345*time.Millisecond
		client := rollingOut(t, complete)
		watches := 0
		client.PrependWatchReactor("deployments", func(clienttesting.Action) (bool, watch.Interface, error) {
			if watches++; watches > 1 {
				return false, nil, nil
			}
			broken := watch.NewFake()
			time.AfterFunc(3*time.Second, func() {
				broken.Error(&metav1.Status{Reason: metav1.StatusReasonExpired})
			})
			return true, broken, nil
		})
		if took := waitForWeb(t, New(&kube.Cluster{Client: client}, "demo", nil, Options{})); took != complete {
			t.Errorf("it took %s, not %s", took, complete)
		}
		if watches != 2 {
			t.Errorf("%d watches", watches)
		}
	})
}

// A workload that was up counts as up only if it still is at the end.
func TestWorkloadThatWasUpIsLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const complete, recovers = 2 * time.Second, 4 * time.Second
		client := rollingOut(t, complete)
		web := client.AppsV1().Deployments("demo")
		other, err := web.Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		other.Name, other.UID, other.Status.AvailableReplicas = "other", "other", 1
		if err := client.Tracker().Create(appsDeployments, other, "demo"); err != nil {
			t.Fatal(err)
		}
		set, err := client.AppsV1().ReplicaSets("demo").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		set.Name, set.OwnerReferences[0].UID = "other", "other"
		if err := client.Tracker().Add(set); err != nil {
			t.Fatal(err)
		}
		available := func(replicas int32) func() {
			return func() {
				now := other.DeepCopy()
				now.Status.AvailableReplicas = replicas
				if err := client.Tracker().Update(appsDeployments, runtime.Object(now), "demo"); err != nil {
					t.Error(err)
				}
			}
		}
		time.AfterFunc(complete/2, available(0))
		time.AfterFunc(recovers, available(1))
		if took := waitForWeb(t, New(&kube.Cluster{Client: client}, "demo", nil, Options{})); took != recovers {
			t.Errorf("it took %s, not %s", took, recovers)
		}
	})
}

var appsDeployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
