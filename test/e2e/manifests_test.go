//go:build e2e

// Releases of plain manifests, in several namespaces, one of which is someone else's.
package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

func TestManifests(t *testing.T) {
	t.Parallel()
	p := newProject(t, "manifests")
	jobs, theirs := p.name+"-jobs", p.name+"-theirs"
	kubectl(t, "create", "namespace", theirs)
	t.Cleanup(func() {
		for _, namespace := range []string{p.name, jobs, theirs} {
			_, _ = command(t.Context(), os.Environ(), "kubectl", "delete", "namespace", namespace, "--ignore-not-found")
		}
	})
	kubectl(t, "create", "configmap", "--namespace", theirs, "theirs")
	kubectl(t, "create", "configmap", "--namespace", theirs, "adopted", "--from-literal=text=before",
		"--from-literal=old=x")
	get := func(t *testing.T, namespace, object, path string) string {
		t.Helper()
		return kubectl(t, "get", object, "--namespace", namespace, "--ignore-not-found", "--output=jsonpath={"+path+"}")
	}

	step(t, "what others made is not touched unasked", func(t *testing.T) {
		_, log := p.call(t, 1, "run")
		for _, text := range []string{"k8s/base/list.yaml:5: configmap/adopted is there already", "--adopt"} {
			if !strings.Contains(log, text) {
				t.Errorf("it does not say %s:\n%s", text, log)
			}
		}
		if made := get(t, p.name, "namespace/"+p.name, ".metadata.name"); made != "" {
			t.Error("it has made a namespace before")
		}
	})

	d := p.start(t, "--adopt", "--logs")
	d.await(t, 0, ready)
	step(t, "all of it is there, in its namespace", func(t *testing.T) {
		p.awaitPage(t, "first")
		for _, want := range [][4]string{
			{theirs, "configmap/adopted", ".data", `{"text":"{{ ours }}"}`},
			{theirs, "namespace/" + theirs, ".metadata.labels.team", "web"},
			{p.name, "namespace/" + p.name, ".metadata.labels.team", "web"},
			{jobs, "gadgets." + p.name + ".example.test/gadget", ".metadata.name", "gadget"},
			{p.name, "configmap/moves", ".data.text", "first"},
		} {
			if got := get(t, want[0], want[1], want[2]); got != want[3] {
				t.Errorf("%s in %s has %s %q, not %q", want[1], want[0], want[2], got, want[3])
			}
		}
		d.await(t, 0, on(event.PodLog).with("pod", "^worker-").with("line", "^at work$"))
		if out, _ := p.call(t, 0, "status", "--chain"); !strings.Contains(out, jobs) {
			t.Errorf("the chain leaves the pod in %s out:\n%s", jobs, out)
		}
	})

	step(t, "an object moves from one release to another", func(t *testing.T) {
		before := get(t, p.name, "configmap/moves", ".metadata.uid")
		mark := d.mark()
		must(t, os.Rename(filepath.Join(p.dir, "side", "moves.yaml"), filepath.Join(p.dir, "k8s", "moves.yaml")))
		d.await(t, mark, ready)
		if after := get(t, p.name, "configmap/moves", ".metadata.uid"); after != before {
			t.Errorf("it was made anew: %s, before %s", after, before)
		}
		d.again(t).arrives(t)
		if owner := get(t, p.name, "configmap/moves", `.metadata.annotations.meta\.helm\.sh/release-name`); owner != "web" {
			t.Errorf("it belongs to %s", owner)
		}
		content := p.read(t, "k8s/moves.yaml")
		d.save(t, "side/again.yaml", content).fails(t, `configmap/moves is both in .*side/again.yaml:1`)
		c := d.next()
		must(t, os.Remove(filepath.Join(p.dir, "side", "again.yaml")))
		c.arrives(t)
	})

	step(t, "what fails in another namespace says why", func(t *testing.T) {
		d.replace(t, "side/jobs.yaml", "echo at work", "echo no work; exit 3").fails(t, `(?s)deployment `+jobs+
			`/worker.*no work`)
		d.replace(t, "side/jobs.yaml", "echo no work; exit 3", "echo at work").arrives(t)
	})

	step(t, "a change by hand in another namespace is reverted", func(t *testing.T) {
		kubectl(t, "scale", "deployment/worker", "--replicas=2", "--namespace", jobs)
		kubectl(t, "delete", "configmap", "adopted", "--namespace", theirs)
		d.replace(t, "k8s/moves.yaml", "first", "second").arrives(t)
		d.again(t).arrives(t)
		if n := get(t, jobs, "deployment/worker", ".spec.replicas"); n != "1" {
			t.Errorf("the worker has %s replicas", n)
		}
		if text := get(t, theirs, "configmap/adopted", ".data.text"); text != "{{ ours }}" {
			t.Errorf("the config map has %q", text)
		}
	})

	step(t, "what cannot be is said before anything is written", func(t *testing.T) {
		d.save(t, "k8s/job.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata:\n  generateName: job-\n").
			fails(t, `k8s/job.yaml:\d+.*generateName`)
		d.save(t, "k8s/job.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: lost, namespace: nowhere }\n").
			fails(t, `k8s/job.yaml:1: configmap/lost lies in the namespace nowhere`)
		c := d.next()
		must(t, os.Remove(filepath.Join(p.dir, "k8s", "job.yaml")))
		c.arrives(t)
	})

	step(t, "only what is devloop's goes", func(t *testing.T) {
		d.stop(t)
		if made := get(t, theirs, "configmap/adopted", ".metadata.name"); made != "" {
			t.Error("what was adopted is left")
		}
		if made := get(t, theirs, "configmap/theirs", ".metadata.name"); made != "theirs" {
			t.Error("what was not adopted is gone")
		}
		for _, namespace := range []string{p.name, jobs} {
			if left := get(t, namespace, "namespace/"+namespace, ".metadata.name"); left != "" {
				t.Errorf("namespace %s is left", left)
			}
		}
		kubectl(t, "delete", "namespace", theirs)
		p.remove(t)
	})
}
