//go:build e2e

// What a clean-up removes, what it leaves and says so, and that nothing of it hangs.
package e2e

import (
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
)

func testCleanup(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/cleanup")
	kubectl(t, "create", "namespace", "cleanup-mine")
	d := p.start(t)
	d.await(t, 0, ready)
	p.write(t, "users.yaml", `
apiVersion: cleanup.test/v1
kind: Thing
metadata: { name: plain, namespace: cleanup }
---
apiVersion: cleanup.test/v1
kind: Thing
metadata: { name: stuck, namespace: cleanup, finalizers: [cleanup.test/nobody] }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: data-db-0, namespace: cleanup }
spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Mi } } }
`)
	kubectl(t, "apply", "--filename", p.dir+"/users.yaml")

	mark, begin := d.mark(), time.Now()
	d.stop(t)
	t.Logf("the clean-up took %s", time.Since(begin).Round(time.Millisecond))
	for _, want := range []string{
		`WARN cleanup: finalizers taken away, their controller did not do so .*objects=stuck`,
		`cleanup: objects deleted resource=things.cleanup.test namespace=cleanup objects="plain stuck"`,
		`WARN cleanup: release is uninstalled without its hooks, since that failed with them .*release=guest`,
		`│ the hook will not$`,
		`cleanup: release uninstalled release=guest`,
		`cleanup: release uninstalled release=data`,
		`cleanup: volume claim stays, it holds data claim=cleanup/data-db-0 remove it with="devloop delete --volumes"`,
		`cleanup: CRDs stay, with all objects of their kinds crds=things.cleanup.test remove them with="devloop delete --crds"`,
		`WARN cleanup: namespace kept, it is not empty namespace=cleanup holds=persistentvolumeclaims/data-db-0`,
	} {
		if d.count(mark, want) != 1 {
			t.Errorf("it does not say once %s", want)
		}
	}
	for _, namespace := range []string{"cleanup", "cleanup-mine"} {
		if got := records(t, cluster, namespace); len(got) != 0 {
			t.Errorf("releases left: %v", got)
		}
	}
	kubectl(t, "get", "namespace", "cleanup-mine")
	kubectl(t, "get", "persistentvolumeclaim", "data-db-0", "--namespace", "cleanup")
	if got := kubectl(t, "get", "things.cleanup.test", "--all-namespaces", "--output", "name"); got != "" {
		t.Errorf("objects left: %s", got)
	}

	_, log := p.call(t, 0, "delete", "--volumes")
	for _, want := range []string{"volume claim deleted claim=cleanup/data-db-0", "namespace deleted namespace=cleanup", "CRDs stay"} {
		if !strings.Contains(log, want) {
			t.Errorf("delete --volumes does not say %q:\n%s", want, log)
		}
	}
	kubectl(t, "get", "crd", "things.cleanup.test")
	if _, log := p.call(t, 0, "delete", "--crds"); !strings.Contains(log, "CRD deleted crd=things.cleanup.test") {
		t.Errorf("delete --crds says:\n%s", log)
	}
	if got := kubectl(t, "get", "namespace/cleanup", "crd/things.cleanup.test", "--ignore-not-found"); got != "" {
		t.Errorf("left: %s", got)
	}
	kubectl(t, "get", "namespace", "cleanup-mine")
	kubectl(t, "delete", "namespace", "cleanup-mine")
}
