//go:build e2e

// A release is written when what it is made from differs, and never else, by Helm's records.
package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// turns is how often something is tried that must never write.
func turns() int {
	if soaking() {
		return 10
	}
	return 3
}

func testExact(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/exact")
	p.pack(t, "part") // as helm dependency build leaves it
	d := p.start(t)
	d.await(t, 0, ready)
	revisions := func() (newest int) { // by its number: Helm keeps ten records
		t.Helper()
		ours := metav1.ListOptions{LabelSelector: "owner=helm,name=hostile"}
		secrets, err := cluster.CoreV1().Secrets(p.name).List(t.Context(), ours)
		must(t, err)
		for _, secret := range secrets.Items {
			version, err := strconv.Atoi(secret.Labels["version"])
			must(t, err)
			newest = max(newest, version)
		}
		return newest
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
		makes(1, what, func() { d.replace(t, file, old, new).arrives(t) })
	}
	has := func(kind, name, path, want string) {
		t.Helper()
		got := kubectl(t, "get", kind, name, "--namespace", p.name, "--output", "jsonpath="+path)
		if got != want {
			t.Errorf("%s %s has %s, not %s", kind, name, got, want)
		}
	}

	eventually(t, "the cluster has removed the job that was done", func() bool {
		return kubectl(t, "get", "jobs", "--namespace", p.name, "--output", "name") == ""
	})
	makes(0, "to write a chart again, and to run, several times", func() {
		for range turns() {
			p.writeAgain(t, "hostile/templates/objects.yaml")
			d.again(t).arrives(t)
		}
	})
	saved("a changed hook alone", "hostile/templates/hook.yaml", "text: one", "text: two")
	has("configmap", "hook", "{.data.text}", "two")
	saved("a chart that it depends on", "part/templates/part.yaml", "text: one", "text: two")
	has("configmap", "part", "{.data.text}", "two")
	makes(0, "to open a file, and to leave a copy", func() {
		must(t, os.Mkdir(filepath.Join(p.dir, "hostile", ".git"), 0o755))
		for _, name := range []string{"hostile/.values.yaml.swp", "hostile/templates/4913", "hostile/templates/hook.yaml~",
			"part/templates/#part.yaml#", "hostile/.git/index"} {
			p.write(t, name, "text: old")
		}
		must(t, os.Symlink("me@host.42:17", filepath.Join(p.dir, "hostile", "templates", ".#hook.yaml")))
		d.again(t).arrives(t)
	})
	saved("a changed values file", "values.yaml", "file: one", "file: two")
	saved("a changed inline value", "devloop.yaml", "inline: one", "inline: two")
	saved("a changed single value", "devloop.yaml", "single: one", "single: two")
	saved("a changed template", "hostile/templates/objects.yaml", "values: {{", "more: two\n  values: {{")
	saved("a changed definition", "hostile/crds/things.yaml", "first: {", "second: { type: string }, first: {")
	has("crd", "things."+p.name+".test", "{.spec.versions[0].schema.openAPIV3Schema.properties}",
		`{"first":{"type":"string"},"second":{"type":"string"}}`)
	has("configmap", "known", "{.data.values} {.data.more}",
		`{"file":"two","inline":"two","part":{"global":{}},"run":"sleep infinity","single":"two"} two`)
	makes(0, "an object that is gone", func() {
		kubectl(t, "delete", "secret", "random", "--namespace", p.name)
		c := d.again(t)
		c.arrives(t)
		c.happens(t, onRelease("hostile", recreated).with("object", "^secret/random$"))
		kubectl(t, "get", "secret", "random", "--namespace", p.name)
	})
	makes(0, "to run once more", func() { d.again(t).arrives(t) })
	d.stop(t)
	p.remove(t)
}

func testExactCrashing(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/exact")
	must(t, os.RemoveAll(filepath.Join(p.dir, "hostile", "crds"))) // they are the other test's
	p.edit(t, "hostile/values.yaml", "sleep infinity", "exit 1")
	for range turns() {
		p.writeAgain(t, "hostile/templates/objects.yaml")
		if _, log := p.call(t, 1, "run"); !strings.Contains(log, "CrashLoopBackOff") {
			t.Errorf("it fails for another reason:\n%s", log)
		}
	}
	if got := records(t, cluster, p.name)["hostile"]; got != "deployed" {
		t.Errorf("Helm's records: %s", got)
	}
	p.remove(t)
}

// writeAgain saves a file with what it holds.
func (p *project) writeAgain(t *testing.T, name string) {
	t.Helper()
	p.write(t, name, p.read(t, name))
}

// pack puts the archive of a chart into the charts folder of hostile.
func (p *project) pack(t *testing.T, chart string) {
	t.Helper()
	folder := filepath.Join(p.dir, "hostile", "charts")
	must(t, os.Mkdir(folder, 0o755))
	archive := filepath.Join(folder, chart+"-1.0.0.tgz")
	if out, err := exec.Command("tar", "--create", "--gzip", "--file", archive, "--directory", p.dir,
		chart).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
