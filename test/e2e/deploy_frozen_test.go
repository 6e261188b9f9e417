//go:build e2e

// A release that is upgraded while the API server hangs. Whoever freezes it calls beginUpgrade
// before and heals after.
package e2e

import (
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
)

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
	p.awaitPod(t, cluster, "job-name=web-hook0") // of the upgrade
	return u
}

// heals checks that the upgrade comes to its end without hands, and that the next one does, too.
func (u upgrade) heals(t *testing.T) {
	t.Helper()
	u.happens(t, ready)
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
	u.replace(t, "devloop.yaml", "sleep 20", "true").arrives(t)
	u.stop(t)
	u.remove(t)
}
