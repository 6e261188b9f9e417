//go:build e2e

// A release is written when what it is made from differs, or an object of it is gone, and never else: counted by Helm's records.
package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func testExact(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/exact")
	d := p.start(t, "--verbose")
	d.await(t, 0, ready)
	revisions := func() (newest int) { // by its number: Helm keeps ten records
		t.Helper()
		secrets, err := cluster.CoreV1().Secrets("exact").List(t.Context(), metav1.ListOptions{LabelSelector: "owner=helm,name=hostile"})
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets.Items {
			version, err := strconv.Atoi(secret.Labels["version"])
			if err != nil {
				t.Fatal(err)
			}
			newest = max(newest, version)
		}
		return newest
	}
	again := func() {
		t.Helper()
		mark := d.mark()
		must(t, d.cmd.Process.Signal(syscall.SIGHUP))
		d.await(t, mark, ready)
	}
	// makes checks how many revisions come of something.
	makes := func(want int, what string, do func()) {
		t.Helper()
		before := revisions()
		do()
		if made := revisions() - before; made != want {
			t.Errorf("%s makes %d revisions", what, made)
		}
	}
	saved := func(what, file, old, new string) {
		t.Helper()
		makes(1, what, func() {
			mark := d.mark()
			p.edit(t, file, old, new)
			d.await(t, mark, ready)
		})
	}

	eventually(t, "the cluster has removed the job that was done", func() bool {
		return kubectl(t, "get", "jobs", "--namespace", "exact", "--output", "name") == ""
	})
	makes(0, "to write a chart again, and to run, ten times", func() {
		for range 10 {
			p.writeAgain("hostile/templates/objects.yaml")
			again()
		}
	})
	saved("a changed hook alone", "hostile/templates/hook.yaml", "text: one", "text: two")
	if got := kubectl(t, "get", "configmap", "hook", "--namespace", "exact", "--output", "jsonpath={.data.text}"); got != "two" {
		t.Errorf("the hook made %q", got)
	}
	saved("a changed values file", "values.yaml", "file: one", "file: two")
	saved("a changed inline value", "devloop.yaml", "inline: one", "inline: two")
	saved("a changed single value", "devloop.yaml", "single: one", "single: two")
	saved("a changed template", "hostile/templates/objects.yaml", "values: {{", "more: two\n  values: {{")
	saved("a changed definition", "hostile/crds/things.yaml", "first: {", "second: { type: string }, first: {")
	if got := kubectl(t, "get", "crd", "things.exact.test", "--output", "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties}"); !strings.Contains(got, `"second"`) {
		t.Errorf("the changed definition did not arrive: %s", got)
	}
	if got := kubectl(t, "get", "configmap", "known", "--namespace", "exact", "--output", "jsonpath={.data.values} {.data.more}"); got != `{"file":"two","inline":"two","run":"sleep infinity","single":"two"} two` {
		t.Errorf("what arrived is %s", got)
	}
	makes(1, "an object that is gone", func() {
		kubectl(t, "delete", "secret", "random", "--namespace", "exact")
		mark := d.mark()
		again()
		d.says(t, mark, `object missing, release will be applied again .*object=secret/random`)
		kubectl(t, "get", "secret", "random", "--namespace", "exact")
	})
	makes(0, "to run once more", again)
	d.stop(t)
	p.remove(t)
}

func testExactCrashing(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/exact")
	if err := os.RemoveAll(filepath.Join(p.dir, "hostile", "crds")); err != nil { // they are the other test's
		t.Fatal(err)
	}
	p.edit(t, "devloop.yaml", "name: exact", "name: exact-crashing")
	p.edit(t, "devloop.yaml", "namespace: exact", "namespace: exact-crashing")
	p.edit(t, "hostile/values.yaml", "sleep infinity", "exit 1")
	for range 10 {
		p.writeAgain("hostile/templates/objects.yaml")
		if _, log := p.call(t, 1, "run"); !strings.Contains(log, "CrashLoopBackOff") {
			t.Errorf("it fails for another reason:\n%s", log)
		}
	}
	if got := records(t, cluster, "exact-crashing")["hostile"]; got != "deployed" {
		t.Errorf("Helm's records: %s", got)
	}
	p.remove(t)
}

// writeAgain saves a file with what it holds.
func (p *project) writeAgain(name string) {
	p.t.Helper()
	content, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(t, name, string(content))
}
