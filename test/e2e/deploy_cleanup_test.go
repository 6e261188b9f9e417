//go:build e2e

// What a clean-up removes, what it leaves and says so, and that nothing of it hangs.
package e2e

import (
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

// What a clean-up says.
const (
	crdsStay     = "CRDs stay, with all objects of their kinds"
	namespaceHas = "namespace kept, it is not empty"
)

func testCleanup(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/cleanup")
	mine := p.name + "-mine"
	kubectl(t, "create", "namespace", mine)
	d := p.start(t)
	d.await(t, 0, ready)
	kubectl(t, "wait", "pod", "slow", "--namespace", mine, "--for=jsonpath={.status.phase}=Running", "--timeout=60s")
	things := "things." + p.name + ".test"
	p.write(t, "users.yaml", strings.ReplaceAll(`
apiVersion: $NAME.test/v1
kind: Thing
metadata: { name: plain }
---
apiVersion: $NAME.test/v1
kind: Thing
metadata: { name: stuck, finalizers: [cleanup.test/nobody] }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: data-db-0, labels: { app: db } }
spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Mi } } }
`, "$NAME", p.name))
	kubectl(t, "apply", "--namespace", p.name, "--filename", p.dir+"/users.yaml")

	mark := d.mark()
	d.stop(t)
	for _, want := range []expectation{
		on("finalizers removed, their controller did not do so").with("objects", "^stuck$"),
		on("objects deleted").with("resource", "^"+things+"$").with("namespace", "^"+p.name+"$").
			with("objects", "^plain stuck$"),
		onRelease("guest", "release is uninstalled without its hooks, since they failed").
			because(`\nthe hook will not\n`),
		on("waiting for objects that are being deleted").with("objects",
			`^things/stuck \(finalizers cleanup\.test/nobody\)$`),
		on("some of what was deleted is still ending").with("objects", "^pods/slow$"),
		onRelease("guest", event.ReleaseUninstalled),
		onRelease("data", event.ReleaseUninstalled),
		on("volume claim stays, it holds data").with("claim", "^"+p.name+"/data-db-0$").
			with("remove it with", "^devloop delete --volumes$"),
		on(crdsStay).with("crds", "^"+things+"$").with("remove them with", "^devloop delete --crds$"),
		on(namespaceHas).with("namespace", "^"+p.name+"$").with("holds", "^persistentvolumeclaims/data-db-0$"),
	} {
		if n := d.count(mark, want); n != 1 {
			t.Errorf("%d lines say %s", n, want)
		}
	}
	for _, namespace := range []string{p.name, mine} {
		if got := records(t, cluster, namespace); len(got) != 0 {
			t.Errorf("releases left: %v", got)
		}
	}
	kubectl(t, "get", "namespace", mine)
	kubectl(t, "get", "persistentvolumeclaim", "data-db-0", "--namespace", p.name)
	if got := kubectl(t, "get", things, "--all-namespaces", "--output", "name"); got != "" {
		t.Errorf("objects left: %s", got)
	}

	_, log := p.call(t, 0, "delete", "--volumes")
	for _, want := range []string{
		"volume claim deleted claim=" + p.name + "/data-db-0", "namespace deleted namespace=" + p.name, "CRDs stay",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("delete --volumes does not say %q:\n%s", want, log)
		}
	}
	kubectl(t, "get", "crd", things)
	if _, log := p.call(t, 0, "delete", "--crds"); !strings.Contains(log, "CRD deleted crd="+things) {
		t.Errorf("delete --crds says:\n%s", log)
	}
	if got := kubectl(t, "get", "crd", things, "--ignore-not-found"); got != "" {
		t.Errorf("left: %s", got)
	}
	kubectl(t, "delete", "namespace", mine) // which is still there, since it is not devloop's
	p.gone(t)
}

// testKept: what was there before, or is annotated to be kept, outlives the release.
func testKept(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/kept")
	definition := p.read(t, "things/crds/things.yaml")
	p.write(t, "theirs.yaml", strings.Replace(definition, "theirs: {", "before: { type: string }, theirs: {", 1))
	kubectl(t, "create", "--filename", p.dir+"/theirs.yaml")
	things := "things." + p.name + ".test"
	properties := func() string {
		t.Helper()
		return kubectl(t, "get", "crd", things,
			"--output", "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties}")
	}
	before := properties()
	d := p.start(t)
	d.await(t, 0, ready)
	d.only(t, on("CRD stays as it is, devloop did not make it").with("crd", "^"+things+"$"))
	d.stop(t)
	if n := d.count(0, on(crdsStay)); n != 0 {
		t.Error("it offers to delete a CRD that is not its own")
	}
	d.only(t, on(namespaceHas).with("namespace", "^"+p.name+"$").with("holds", "^configmaps/kept$"))
	if got := records(t, cluster, p.name); len(got) != 0 {
		t.Errorf("releases left: %v", got)
	}

	p.call(t, 0, "delete", "--crds", "--volumes")
	kubectl(t, "get", "configmap", "kept", "--namespace", p.name)
	if got := kubectl(t, "get", "configmap", "not-kept", "--namespace", p.name, "--ignore-not-found"); got != "" {
		t.Errorf("left: %s", got)
	}
	if after := properties(); after != before {
		t.Errorf("somebody else's CRD went from %s to %s", before, after)
	}
	kubectl(t, "delete", "configmap", "kept", "--namespace", p.name)
	kubectl(t, "delete", "crd", things)
	p.remove(t)
}
