//go:build e2e

// The Dask clusters that users start: when they are up, why they wait, how they end.
package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

func TestClusters(t *testing.T) {
	kubernetesClient(t)
	p := newProject(t, platform)
	python := laptop(t)
	d := p.start(t)
	d.await(t, 0, ready)

	state := func(t *testing.T) (s status.State) {
		t.Helper()
		out, _ := p.call(t, 0, "status", "--json")
		must(t, json.Unmarshal([]byte(out), &s))
		return s
	}
	runs := func(t *testing.T, owner, workers string) {
		t.Helper()
		eventually(t, workers+" workers of "+owner+" run", func() bool {
			return slices.ContainsFunc(state(t).Clusters, func(c status.DaskCluster) bool {
				return c.Owner == owner && c.Ended == nil && strconv.Itoa(c.Running) == workers
			})
		})
	}
	story := t // a client outlives the step that starts it
	starts := func(t *testing.T, owner string, options ...string) (u *user, name string) {
		t.Helper()
		u = startClient(story, python, append([]string{"--loose", "--user", owner}, options...)...)
		return u, u.next(t, "cluster")["cluster"].(string)
	}
	ends := func(t *testing.T, u *user) {
		t.Helper()
		_, err := io.WriteString(u.stdin, "\n")
		must(t, err)
		u.next(t, "done")
	}
	scale := func(t *testing.T, u *user, workers string) {
		t.Helper()
		_, err := io.WriteString(u.stdin, workers+"\n")
		must(t, err)
		u.next(t, "scaled")
	}

	step(t, "the forward's address can be opened, and leads to the gateway", func(t *testing.T) {
		if f := state(t).Forwards[0]; f.URL != "http://localhost:8001" || !f.Gateway {
			t.Errorf("it is %+v", f)
		}
	})

	var ada, grace *user
	var adas, graces string
	step(t, "clusters of two owners are up, and their dashboards answer", func(t *testing.T) {
		mark := d.mark()
		ada, adas = starts(t, "ada", "--workers", "1")
		grace, graces = starts(t, "grace", "--workers", "1")
		for owner, name := range map[string]string{"ada": adas, "grace": graces} {
			up := d.await(t, mark, on(event.ClusterUp, event.Noted).with("owner", "^"+owner+"$"))
			same(t, "the dashboard of "+owner, "http://localhost:8001/clusters/"+name+"/status", up.field("dashboard"))
			response, err := http.Get(up.field("dashboard"))
			must(t, err)
			must(t, response.Body.Close())
			same(t, "its answer", http.StatusOK, response.StatusCode)
			runs(t, owner, "1")
		}
		p.prints(t, 0, "clusters", "(?m)^"+adas+" +ada +worker:\\w+ +1/1 +"+
			"http://localhost:8001/clusters/"+adas+"/status +\\d")
	})

	var hint string
	step(t, "workers without room are told, and the hint is right", func(t *testing.T) {
		ends(t, ada)
		mark := d.mark()
		ada, _ = starts(t, "ada", "--workers", "3", "--set", "worker_cores=0.9")
		waits := d.await(t, mark, on(event.ClusterWaits, event.Warned).with("owner", "^ada$"))
		hint = waits.field("hint")
		if why := waits.field("reason"); !regexp.MustCompile(`^\d workers? of ada waits?: 0/1 nodes are available: ` +
			`1 Insufficient cpu: \d × 0.9 CPU asked, [0-9.]+ free$`).MatchString(why) {
			t.Errorf("it says %q", why)
		}
		p.prints(t, 0, "clusters", `of ada waits?: 0/1 nodes are available`)
		if fits := regexp.MustCompile(`cluster\.scale\((\d+)\)`).FindStringSubmatch(hint); fits != nil {
			scale(t, ada, fits[1])
			runs(t, "ada", fits[1])
		}
		ends(t, ada)
	})
	step(t, "so is what it says of smaller workers", func(t *testing.T) {
		cores := regexp.MustCompile(`a new cluster with worker_cores ([0-9.]+)`).FindStringSubmatch(hint)
		if cores == nil {
			t.Fatalf("the hint is %q", hint)
		}
		ada, adas = starts(t, "ada", "--workers", "3", "--set", "worker_cores="+cores[1])
		runs(t, "ada", "3")
	})

	step(t, "a scheduler that dies is told, with its last lines", func(t *testing.T) {
		mark := d.mark()
		name := strings.TrimPrefix(graces, namespace+".")
		execLast(t, namespace, "dask-scheduler-"+name, "python", "-c", "import os; os.kill(1, 15)")
		gone := d.await(t, mark, on(event.ClusterGone, event.Warned).with("owner", "^grace$").
			with("reason", "^its scheduler"))
		same(t, "its name", name, gone.field("name"))
		for _, c := range state(t).Clusters {
			if string(c.Name) == name && (c.Ended == nil || !strings.Contains(c.Output, "Scheduler")) {
				t.Errorf("the state keeps %+v", c)
			}
		}
		grace.kill()
	})

	step(t, "a mistyped image is told", func(t *testing.T) {
		mark := d.mark()
		startClient(t, python, "--loose", "--user", "bob", "--set", "image=worker:mistyped")
		waits := d.await(t, mark, on(event.ClusterWaits, event.Warned).with("owner", "^bob$").with("reason", "Image"))
		name := fmt.Sprintf("%s.%s", waits.field("namespace"), waits.field("name"))
		p.call(t, 0, "clusters", "stop", name)
		d.await(t, mark, on(event.ClusterGone, event.Noted).with("owner", "^bob$"))
	})

	step(t, "a restart loads the code that was saved", func(t *testing.T) {
		const file = "analysis/robust.py"
		submits := func(t *testing.T, function string) any {
			t.Helper()
			_, err := io.WriteString(ada.stdin, "submit "+p.dir+" analysis.robust "+function+"\n")
			must(t, err)
			return ada.next(t, "result")["result"]
		}
		same(t, "the answer", 2.5, submits(t, "trimmed_mean"))
		c := d.replace(t, file, "def without_outliers(",
			"def total(values):\n    return sum(values)\n\n\ndef without_outliers(")
		c.happens(t, on(event.FilesSynced).with("image", "^worker$"))
		c.arrives(t)
		if result := fmt.Sprint(submits(t, "total")); !strings.Contains(result, "deserialization of the task graph") {
			t.Errorf("the scheduler, which has imported the module before, says %s", result)
		}
		p.prints(t, 0, "clusters restart "+adas, "(?m)^restarted: "+adas+" of ada, 3 workers$")
		same(t, "the answer of the new function", 406.0, submits(t, "total"))
		p.call(t, 2, "clusters", "restart", adas, "unknown")
	})
	ends(t, ada)
	d.stop(t)
}
