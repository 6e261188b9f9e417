//go:build e2e

// Canaries: pods in which an image is tried before anything is deployed. What they say, and that
// they go, whatever happens.
package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

func TestCanary(t *testing.T) {
	t.Parallel()
	cluster := kubernetesClient(t)
	p := newProject(t, "small")
	plain := p.read(t, "devloop.yaml")
	verify := func(entry string) string { return plain + "verify:\n  - { image: " + p.name + ", " + entry + " }\n" }
	// fails checks that no run is made of it, and that it is said why.
	fails := func(t *testing.T, entry string, want ...string) (log string) {
		t.Helper()
		p.write(t, "devloop.yaml", verify(entry))
		_, log = p.call(t, 1, "run")
		p.noCanary(t, cluster)
		for _, text := range want {
			if !strings.Contains(log, text) {
				t.Errorf("it does not say %q:\n%s", text, log)
			}
		}
		return log
	}
	begins := func(t *testing.T, args ...string) *devloop {
		t.Helper()
		p.write(t, "devloop.yaml", verify(`timeout: 5m, command: [sh, -c, "sleep 600"]`))
		d := p.start(t, args...)
		d.await(t, 0, on(event.ImageVerified, event.Started))
		eventually(t, "a canary is there", func() bool { return len(canaries(t, cluster, p.name)) == 1 })
		return d
	}

	step(t, "what it printed is shown when it fails", func(t *testing.T) {
		log := fails(t, `command: [sh, -c, "for i in $(seq 30); do echo line $i; done; exit 7"]`,
			"ended with exit code 7", "line 30")
		if strings.Contains(log, "line 15\n") {
			t.Errorf("these are more than the last lines:\n%s", log)
		}
		_, err := cluster.CoreV1().Namespaces().Get(t.Context(), p.name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			t.Errorf("the namespace of the release was made (%v)", err)
		}
	})
	step(t, "its time is bounded", func(t *testing.T) { // the command takes longer than a test waits
		fails(t, `timeout: 45s, command: [sh], args: [-c, "echo not $((1)) yet; sleep 600"]`, "not done after 45s",
			"not 1 yet")
	})
	step(t, "a namespace that is not there", func(t *testing.T) {
		fails(t, `namespace: nowhere, command: ["true"]`,
			`nowhere\" not found`, "name a namespace that takes it: verify in devloop.yaml")
	})
	step(t, "a devloop that is killed leaves one, and the next removes it", func(t *testing.T) {
		begins(t, "run").kill(t)
		if n := len(canaries(t, cluster, p.name)); n != 1 {
			t.Fatalf("%d canaries are left", n)
		}
		p.call(t, 0, "delete")
		p.noCanary(t, cluster)
	})
	step(t, "a save while it runs ends it", func(t *testing.T) {
		d := begins(t)
		c := d.save(t, "devloop.yaml", verify(`command: [test, -e, /site/index.html]`))
		c.happens(t, superseded)
		c.arrives(t)
		p.noCanary(t, cluster)
		c = d.replace(t, "devloop.yaml", "port: 80", "port:  80")
		c.arrives(t)
		if n := c.counts(on(event.ImageVerified, event.Started)); n != 0 {
			t.Errorf("an image that had passed was tried %d times", n)
		}
		d.stop(t)
		p.noCanary(t, cluster)
		p.gone(t)
	})
	step(t, "a later devloop does not try again what has passed", func(t *testing.T) {
		d := p.start(t)
		change{d, 0}.arrives(t)
		if n := d.count(0, on(event.ImageVerified, event.Started)); n != 0 {
			t.Errorf("an image that had passed was tried %d times", n)
		}
		d.stop(t)
		p.gone(t)
	})
}

// canaries are those of a project.
func canaries(t *testing.T, cluster kubernetes.Interface, project string) []corev1.Pod {
	t.Helper()
	list, err := cluster.CoreV1().Pods("").List(t.Context(),
		metav1.ListOptions{LabelSelector: "devloop.trial=verify,devloop.project=" + project})
	must(t, err)
	return list.Items
}

func (p *project) noCanary(t *testing.T, cluster kubernetes.Interface) {
	t.Helper()
	for _, pod := range canaries(t, cluster, p.name) {
		t.Errorf("pod %s/%s is left", pod.Namespace, pod.Name)
	}
}

// noCanary checks that none of the platform is left.
func noCanary(t *testing.T, cluster kubernetes.Interface) {
	t.Helper()
	(&project{name: "dask-gateway"}).noCanary(t, cluster)
}
