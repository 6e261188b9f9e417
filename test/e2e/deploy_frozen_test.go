//go:build e2e

// A release that is upgraded while the API server hangs. Whoever freezes it calls beginUpgrade
// before and heals after.
package e2e

import (
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

// webHook selects the pods of the first hook of the release "web".
const webHook = "job-name=web-hook0"

// upgrade is one in the middle of its write: a hook of it runs.
type upgrade struct {
	change
	cluster kubernetes.Interface
}

func beginUpgrade(t *testing.T, cluster kubernetes.Interface) upgrade {
	t.Helper()
	p := newProject(t, "deploy/frozen")
	d := p.start(t)
	d.await(t, 0, ready)
	u := upgrade{d.replace(t, "devloop.yaml", "value: first", "value: second"), cluster}
	p.awaitPod(t, cluster, webHook)
	return u
}

// heals checks that the upgrade comes to its end without hands, and that the next one does, too.
func (u upgrade) heals(t *testing.T) {
	t.Helper()
	if n := u.counts(on(event.ReleaseApplied)); n != 0 {
		t.Errorf("the upgrade did not last as long as the fault")
	}
	// The hook that ran meanwhile, or the one of another try.
	eventually(t, "the hook is told to end, and the upgrade comes to its end", func() bool {
		running := metav1.ListOptions{LabelSelector: webHook, FieldSelector: "status.phase=Running"}
		pods, err := u.cluster.CoreV1().Pods(u.name).List(t.Context(), running)
		must(t, err)
		for _, pod := range pods.Items { // it may just have ended
			_, _ = command(t.Context(), os.Environ(), "kubectl", "exec", "--namespace", u.name, pod.Name, "--", "touch",
				"/tmp/go")
		}
		return u.counts(ready) > 0
	})
	t.Logf("%d runs had failed", u.counts(failed))
	statuses := records(t, u.cluster, u.name)["web"]
	if strings.Contains(statuses, "pending") || !strings.HasSuffix(statuses, "deployed") {
		t.Errorf("Helm's records: %s", statuses)
	}
	got := kubectl(t, "get", "deployment", "web", "--namespace", u.name,
		"--output", "jsonpath={.spec.template.spec.containers[0].env[0].value}")
	if got != "second" {
		t.Errorf("the deployment has the value %s", got)
	}
	u.replace(t, "devloop.yaml", "until [ -e /tmp/go ]; do sleep 0.1; done", "true").arrives(t)
	u.stop(t)
	u.remove(t)
}
