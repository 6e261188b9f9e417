package deploy

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
)

// deleted marks an object as one that is being deleted.
func deleted(finalizers ...string) func(*unstructured.Unstructured) {
	return func(u *unstructured.Unstructured) {
		now := metav1.Now()
		u.SetDeletionTimestamp(&now)
		u.SetFinalizers(finalizers)
	}
}

func TestWhatIsWaitedForIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := cluster(t, permits{})
		pod := ending{resource: corev1.Resource("pods"), namespace: "demo", name: "web-1"}
		stuck := ending{resource: things.GroupResource(), namespace: "demo", name: "stuck",
			finalizers: []string{"example.test/a", "example.test/b"}}
		began := time.Now()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("not empty after 1m"))
		defer cancel()
		err := l.awaitGone(ctx, l.stage(), func() ([]ending, error) {
			switch passed := time.Since(began); {
			case passed < 20*time.Second:
				return []ending{pod, stuck}, nil
			case passed < 30*time.Second:
				return nil, errors.New("etcd is away")
			}
			return []ending{stuck}, nil
		}, "release", "web")
		const name = "things/stuck (finalizers example.test/a example.test/b)"
		if err == nil || err.Error() != name+": not empty after 1m" {
			t.Errorf("it ends with %v", err)
		}
		if hint := event.Hint(err); !strings.HasSuffix(hint, "kubectl describe things.example.test stuck -n demo") ||
			!strings.Contains(hint, "finalizers") {
			t.Errorf("the hint is %q", hint)
		}
		const waiting = "waiting for objects that are being deleted [release web objects "
		const want = waiting + "pods/web-1 " + name + " at most 54s] <nil>\n" + waiting + name + " at most 30s] <nil>\n"
		if log := l.log(); log != want {
			t.Errorf("it says\n%swant\n%s", log, want)
		}
	})
}

func TestShortWaitsAreSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := cluster(t, permits{})
		began := time.Now()
		err := l.awaitGone(t.Context(), l.stage(), func() ([]ending, error) {
			if time.Since(began) < noteAfter-pollInterval {
				return []ending{{name: "web"}}, nil
			}
			return nil, nil
		})
		if log := l.log(); err != nil || log != "" {
			t.Errorf("%v, it says %q", err, log)
		}
	})
}

func TestNamespaceThatDoesNotGetEmptyTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := cluster(t, permits{journal.Namespace: {"demo"}}, of("ConfigMap", "stuck", deleted("example.test/never")))
		l.namespace(t, made)
		err := l.deleteNamespace(t.Context(), l.stage(), "demo")
		const stuck = "configmaps/stuck (finalizers example.test/never)"
		if err == nil || !strings.Contains(err.Error(), stuck+": not empty after") ||
			!strings.Contains(event.Hint(err), "kubectl describe configmaps stuck -n demo") {
			t.Errorf("it ends with %v, hint %q", err, event.Hint(err))
		}
		if log := l.log(); !strings.Contains(log, stuck) {
			t.Errorf("it does not say what it waits for: %q", log)
		}
	})
}

func TestNamespaceThatEndsTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := cluster(t, permits{})
		err := l.client.Tracker().Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "demo", UID: "now"},
			Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating, Conditions: []corev1.NamespaceCondition{
				{Type: corev1.NamespaceFinalizersRemaining, Status: corev1.ConditionTrue, Message: "example.test/never remains"}}}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.ensureNamespace(t.Context(), l.stage(), "demo")
		const why = "namespaces/demo (example.test/never remains): still being deleted"
		if err == nil || !strings.Contains(err.Error(), why) ||
			!strings.Contains(event.Hint(err), "kubectl describe namespaces demo") {
			t.Errorf("it ends with %v, hint %q", err, event.Hint(err))
		}
	})
}

// A pod is still there after its release was removed, until it has ended.
func TestWhatIsStillEndingIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := cluster(t, permits{}, of("ConfigMap", "stuck", ofRelease("web"), deleted("example.test/never")),
			of("ConfigMap", "kept", ofRelease("web")))
		now := metav1.Now()
		for name, owner := range map[string]string{"ending": "kept", "orphan": "gone", "of-kept": "kept"} {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, UID: types.UID(name),
				OwnerReferences: of("ConfigMap", "", ownedBy("ConfigMap", owner, types.UID("uid-"+owner))).GetOwnerReferences()}}
			if name == "ending" {
				pod.DeletionTimestamp, pod.Finalizers = &now, []string{"example.test/pod"}
			}
			if err := l.client.Tracker().Add(pod); err != nil {
				t.Fatal(err)
			}
		}
		left := remnants{Deployer: l.Deployer, releases: []Release{{Name: "web", Namespace: "demo"}},
			objects: []object{{kind: configMaps.GroupVersion().WithKind("ConfigMap"), namespace: "demo", name: "stuck"},
				{kind: configMaps.GroupVersion().WithKind("ConfigMap"), namespace: "demo", name: "kept"}},
			pods: map[types.UID]string{"ending": "demo", "orphan": "demo", "of-kept": "demo"}}
		began := time.Now()
		names, err := left.stillEnding(t.Context())
		got := strings.Join(names, ", ")
		want := "configmaps/stuck (finalizers example.test/never), pods/ending (finalizers example.test/pod), pods/orphan"
		if err != nil || got != want || time.Since(began) > endingGrace {
			t.Errorf("after %s: %s, %v\nwant %s", time.Since(began), got, err, want)
		}
	})
}
