//go:build e2e

// A cluster that is not there: paused, stopped, deleted, and another one under its name.
package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// atOnce is how long an end may take that waits for nothing.
const atOnce = 3 * time.Second

func TestAway(t *testing.T) {
	startCluster(t, "away", "--bare")
	node := onlyNode(t)
	minikube := t.TempDir() // the user's command, of which the cluster needs but one answer
	const says = "#!/bin/sh\necho '{\"Name\":\"away\",\"Host\":\"Stopped\",\"APIServer\":\"Stopped\"}'\nexit 7\n"
	must(t, os.WriteFile(filepath.Join(minikube, "minikube"), []byte(says), 0o755))
	t.Setenv("PATH", minikube+":"+os.Getenv("PATH"))

	p := newProject(t, "small")
	d := p.start(t)
	d.await(t, 0, ready)
	notes := make([]*devloop, 3)
	for i := range notes {
		other := newProject(t, "deploy/never")
		kubectl(t, "create", "namespace", other.name)
		notes[i] = other.start(t)
		notes[i].await(t, 0, ready)
	}
	away := func(state event.ClusterState) expectation {
		return on(event.ClusterAway).with("state", "^"+string(state)+"$")
	}

	step(t, "paused", func(t *testing.T) {
		mark := d.mark()
		mend := fault(t, node, "pause kube-apiserver")
		d.await(t, mark, away(event.ClusterPaused).because(`(?s)paused.*pkill -CONT kube-apiserver`))
		mend()
		d.await(t, mark, on(event.ClusterBack))
		d.save(t, "index.html", "after a pause\n").arrives(t)
	})

	step(t, "stopped", func(t *testing.T) {
		mark := d.mark()
		mend := fault(t, node, "network off")
		d.await(t, mark, away(event.ClusterStopped).because(`(?s)it is stopped.*minikube start -p away`))
		var state status.State
		text, _ := p.call(t, 0, "status", "--json")
		must(t, json.Unmarshal([]byte(text), &state))
		if state.Health != status.Degraded || state.Away == nil || state.Away.State != event.ClusterStopped {
			t.Errorf("the state is %s: %s, %+v", state.Health, state.Reason, state.Away)
		}
		for _, pod := range state.Pods {
			if pod.Ready || pod.Phase != "Unknown" {
				t.Errorf("of the pod %s, devloop claims that it is %s, ready: %t", pod.Name, pod.Phase, pod.Ready)
			}
		}
		shown, _ := p.call(t, 0, "status")
		for _, want := range []string{"it is stopped", "→ minikube start -p away", "unknown"} {
			if !strings.Contains(shown, want) {
				t.Errorf("devloop status does not say %q:\n%s", want, shown)
			}
		}
		d.save(t, "index.html", "while it is stopped\n").fails(t, `(?s)it is stopped.*minikube start -p away`)
		if n := d.count(mark, on(event.ClusterAway)); n != 1 {
			t.Errorf("it is said %d times", n)
		}

		notes[0].await(t, 0, away(event.ClusterStopped))
		begin := time.Now()
		code := notes[0].interrupt(t)
		if took := time.Since(begin); code != 1 || took > atOnce {
			t.Errorf("Ctrl+C takes %s, exit code %d:\n%s", took, code, notes[0].text())
		}
		for _, want := range []string{"still there: release " + notes[0].name + "/notes",
			"minikube start -p away; then devloop delete"} {
			if !strings.Contains(notes[0].text(), want) {
				t.Errorf("Ctrl+C does not say %q:\n%s", want, notes[0].text())
			}
		}
		mend()
		d.await(t, mark, on(event.ClusterBack))
		d.await(t, mark, ready)
		p.awaitPage(t, "while it is stopped")
		notes[0].call(t, 0, "delete")
	})

	step(t, "deleted", func(t *testing.T) {
		profile := filepath.Join(setting(t, "MINIKUBE_HOME"), ".minikube", "profiles", "away")
		kept := filepath.Join(t.TempDir(), "away")
		must(t, os.CopyFS(kept, os.DirFS(profile)))
		mark, before := notes[1].mark(), d.mark()
		mend := fault(t, node, "network off")
		must(t, os.RemoveAll(profile))
		notes[1].await(t, mark, away(event.ClusterDeleted).because("minikube has no profile away any more"))
		begin := time.Now()
		notes[1].stop(t)
		if took := time.Since(begin); took > atOnce {
			t.Errorf("Ctrl+C takes %s", took)
		}
		notes[1].await(t, mark, on("nothing to remove, the cluster is deleted"))
		d.await(t, before, away(event.ClusterDeleted)) // it asks at other times
		must(t, os.CopyFS(profile, os.DirFS(kept)))
		mend()
		d.await(t, before, on(event.ClusterBack))
	})

	step(t, "another one under its name", func(t *testing.T) {
		mark := d.mark()
		script(t, "down", "away")
		script(t, "up", "away", "--bare")
		d.await(t, mark, away(event.ClusterReplaced).because("start devloop again"))
		d.save(t, "index.html", "for another cluster\n").fails(t, "another cluster answers there now")
		for _, message := range []string{event.ImageBuilt, event.ImageLoaded, event.ReleaseApplied} {
			if n := d.count(mark, on(message)); n != 0 {
				t.Errorf("%d times: %s", n, message)
			}
		}
		for _, one := range []*devloop{d, notes[2]} {
			one.await(t, 0, away(event.ClusterReplaced))
			begin := time.Now()
			one.stop(t)
			if took := time.Since(begin); took > atOnce {
				t.Errorf("Ctrl+C takes %s", took)
			}
			one.gone(t)
		}
	})
}
