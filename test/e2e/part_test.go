//go:build e2e

package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// testPart has devloop work on some of three releases. The charts name the images literally.
func testPart(t *testing.T) {
	t.Parallel()
	p := newProject(t, "part")
	// only returns what there is of some releases in the cluster, and their pods.
	only := func(names ...string) []string {
		return slices.DeleteFunc(inventory(t, p.name), func(line string) bool {
			return !slices.ContainsFunc(names, func(name string) bool {
				return strings.Contains(line, p.name+"/"+name) || strings.Contains(line, "sh.helm.release.v1."+name+".")
			})
		})
	}
	p.call(t, 0, "run")
	api := only("api")
	if len(api) < 4 {
		t.Fatalf("of api, there is %q", api)
	}
	unchanged := func(t *testing.T, when string) {
		t.Helper()
		compare(t, when, only("api"), api)
	}
	p.append(t, "Dockerfile.api", "FROM nowhere.invalid/nothing\n")

	step(t, "a part is built, deployed and forwarded", func(t *testing.T) {
		d := p.start(t, "web")
		d.await(t, 0, ready)
		p.awaitPage(t, "first")
		d.save(t, "index.html", "second").arrives(t)
		p.awaitPage(t, "second")
		unchanged(t, "web was saved")
		if n := d.count(0, on(event.ForwardListens)); n != 1 {
			t.Errorf("%d forwards", n)
		}
		out, _ := p.call(t, 0, "status", "--json")
		var state status.State
		must(t, json.Unmarshal([]byte(out), &state))
		var shown []string
		for _, image := range state.Images {
			shown = append(shown, strings.TrimSuffix(image.Name, "-"+p.name))
		}
		for _, r := range state.Releases {
			shown = append(shown, r.Name)
		}
		slices.Sort(shown)
		if !slices.Equal(state.Part, []string{"web"}) || !slices.Equal(shown, []string{"db", "db", "web", "web"}) {
			t.Errorf("the part %q shows %q", state.Part, shown)
		}
		if _, log := p.call(t, 3, "run", "api"); !strings.Contains(log, "one devloop at a time, also for parts") {
			t.Error(log)
		}
		d.stop(t)
		unchanged(t, "web has ended")
		if left := only("web", "db"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})

	step(t, "a release is removed, and what others need is not", func(t *testing.T) {
		p.call(t, 0, "run", "web")
		db := only("db")
		if _, log := p.call(t, 2, "delete", "db"); !strings.Contains(log, "devloop delete db web") {
			t.Error(log)
		}
		p.call(t, 0, "delete", "web")
		unchanged(t, "web was deleted")
		compare(t, "web was deleted", only("db"), db)
		if left := only("web"); len(db) < 4 || len(left) > 0 {
			t.Errorf("left: %q, of db %q", left, db)
		}
		p.call(t, 0, "delete", "db")
		unchanged(t, "db was deleted")
		p.call(t, 0, "delete", "--images")
		p.gone(t)
	})
}
