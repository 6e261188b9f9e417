package deploy

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	clientgotesting "k8s.io/client-go/testing"

	"github.com/devloop/devloop/pkg/journal"
)

func TestNamespaceIsDeletedOnlyIfItIsOursAndEmpty(t *testing.T) {
	unlisted := &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{
		things.GroupVersion(): errors.New("no endpoints")}}
	ours := permits{journal.Namespace: {"demo"}, journal.UID: {"namespace demo@now"}}
	for _, test := range []struct {
		name    string
		journal permits
		labels  map[string]string
		objects []*unstructured.Unstructured
		change  func(*live)
		deleted bool
		log     string
	}{
		{"empty", ours, made, nil, nil, true, "namespace deleted"},
		{"with what every namespace has", ours, made, []*unstructured.Unstructured{of("ConfigMap", "kube-root-ca.crt")}, nil,
			true, "namespace deleted"},
		{"made by an earlier devloop", permits{journal.Namespace: {"demo"}}, made, nil, nil, true, "namespace deleted"},
		{"recreated by someone else", permits{journal.Namespace: {"demo"}, journal.UID: {"namespace demo@before"}}, made,
			nil, nil, false, ""},
		{"without our label", ours, nil, nil, nil, false, ""},
		{"with an object", ours, made, []*unstructured.Unstructured{of("ConfigMap", "theirs")}, nil, false, "not empty"},
		{"with an object of a kind that came since", ours, made, []*unstructured.Unstructured{of("Thing", "theirs")},
			func(l *live) { l.kinds.now = resources(configMaps, things) }, false, "things/theirs"},
		{"with kinds that the API server does not list", ours, made, nil, func(l *live) { l.kinds.err = unlisted }, false,
			"does not list all"},
		{"with an object, and kinds that are not listed", ours, made, []*unstructured.Unstructured{of("ConfigMap", "theirs")},
			func(l *live) { l.kinds.err = unlisted }, false, "configmaps/theirs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := cluster(t, test.journal, test.objects...)
				l.namespace(t, test.labels)
				if test.change != nil {
					test.change(l)
				}
				if err := l.deleteNamespace(t.Context(), l.stage(), "demo"); err != nil {
					t.Fatal(err)
				}
				var want []string
				if test.deleted {
					want = []string{"demo UID now"}
				}
				if got := deletions(l.client.Actions()); !slices.Equal(got, want) {
					t.Errorf("deleted %q, want %q", got, want)
				}
				if log := l.log(); !strings.Contains(log, test.log) || test.log == "" && log != "" {
					t.Errorf("the log is %q", log)
				}
			})
		})
	}
}

func TestNamespaceThatCannotBeAskedForStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := cluster(t, permits{journal.Namespace: {"demo"}})
		l.namespace(t, made)
		l.client.PrependReactor("get", "namespaces", func(clientgotesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("etcd is away")
		})
		if err := l.deleteNamespace(t.Context(), l.stage(), "demo"); err == nil || len(deletions(l.client.Actions())) > 0 {
			t.Errorf("deleted %v, %v", deletions(l.client.Actions()), err)
		}
	})
}

func TestEnsuredNamespaceIsKnownByItsUID(t *testing.T) {
	remembered := onDisk(t)
	l := cluster(t, remembered)
	l.client.PrependReactor("create", "namespaces", func(a clientgotesting.Action) (bool, runtime.Object, error) {
		namespace := a.(clientgotesting.CreateAction).GetObject().(*corev1.Namespace)
		namespace.UID = "made"
		return false, namespace, nil
	})
	if _, err := l.ensureNamespace(t.Context(), l.stage(), "demo"); err != nil {
		t.Fatal(err)
	}
	there := &metav1.ObjectMeta{Name: "demo", UID: "made", Labels: made}
	another := &metav1.ObjectMeta{Name: "demo", UID: "another", Labels: made}
	if !l.isOurNamespace(there) || l.isOurNamespace(another) {
		t.Errorf("the journal has %q", remembered.Names(journal.UID))
	}
	if err := l.forgetEntry(journal.Namespace, "demo"); err != nil ||
		len(remembered.Names(journal.UID))+len(remembered.Names(journal.Namespace)) > 0 {
		t.Errorf("forgotten: %v, the journal has %q", err, remembered.Names(journal.UID))
	}
}
