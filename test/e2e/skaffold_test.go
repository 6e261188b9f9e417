//go:build e2e

// Repositories with a skaffold.yaml and no devloop.yaml: manifests, a kustomization, modules, and
// a chart whose subchart names its image.
package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// skaffoldStories are the repositories in testdata/skaffold. Each has a Deployment, whose image
// serves index.html, and a ConfigMap in a file of its own.
var skaffoldStories = []struct {
	template string
	page     string // of index.html
	images   string // the objects that have images which were built, as kubectl names them
	settings string // the file of the ConfigMap
	listed   string // the file that names it, "" if nothing does
	name     string // of the ConfigMap
	web      string // the file of the Deployment
	right    string // a text in it
	wrong    string // in place of that: it breaks the file
}{
	{template: "manifests", page: "index.html", images: "deployment/web", settings: "k8s/settings.yaml", name: "settings",
		web: "k8s/web.yaml", right: "    spec:", wrong: "    spec: {"},
	{template: "kustomize", page: "index.html", images: "deployment/dev-web", settings: "base/settings.yaml",
		listed: "base/kustomization.yaml", name: "dev-settings", web: "base/web.yaml",
		right: "    spec:", wrong: "    spec: {"},
	{template: "modules", page: "web/index.html", images: "deployment/web deployment/api deployment/worker",
		settings: "web/settings.yaml", listed: "web/skaffold.yaml", name: "settings", web: "web/web.yaml",
		right: "    spec:", wrong: "    spec: {"},
	{template: "subchart", page: "index.html", images: "deployment/web",
		settings: "chart/templates/settings.yaml", name: "settings", web: "chart/charts/page/templates/web.yaml",
		right: "page.image", wrong: "page.imag"},
}

func TestSkaffold(t *testing.T) {
	t.Parallel()
	for _, story := range skaffoldStories {
		t.Run(story.template, func(t *testing.T) {
			t.Parallel()
			p := newProject(t, "skaffold/"+story.template)
			kubectl(t, "create", "namespace", p.name)
			t.Cleanup(func() {
				_, err := command(context.Background(), os.Environ(), "kubectl", "delete", "namespace", p.name, "--wait=false")
				must(t, err)
			})
			kubectl(t, "create", "configmap", "--namespace", p.name, "not-devloops")
			var before []string
			eventually(t, "the namespace has what Kubernetes puts into each", func() bool {
				before = inventory(t, p.name)
				return len(before) == 3 // a service account and its certificates
			})
			image := func(object string) string {
				return kubectl(t, "get", "--namespace", p.name, object,
					"--output=jsonpath={.spec.template.spec.containers[0].image}")
			}

			d := p.start(t)
			d.await(t, 0, ready)
			first := map[string]string{}
			step(t, "it runs what was built", func(t *testing.T) {
				p.awaitPage(t, "first")
				for object := range strings.FieldsSeq(story.images) {
					first[object] = image(object)
					_, tag, _ := strings.Cut(first[object], ":")
					if len(tag) < 12 || strings.Contains(first[object], "localhost") {
						t.Errorf("%s has the image %s", object, first[object])
					}
				}
			})
			step(t, "a save arrives", func(t *testing.T) {
				d.save(t, story.page, "second").arrives(t)
				p.awaitPage(t, "second")
				web := strings.Fields(story.images)[0]
				if image(web) == first[web] {
					t.Errorf("%s still has the image %s", web, first[web])
				}
			})
			step(t, "nothing differs", func(t *testing.T) {
				p.call(t, 0, "diff", "--exit-code")
				d.again(t).arrives(t)
				p.call(t, 0, "diff", "--exit-code")
			})
			step(t, "one object is no longer named", func(t *testing.T) {
				with := inventory(t, p.name)
				c := d.next()
				if story.listed != "" {
					list := p.read(t, story.listed)
					p.write(t, story.listed, strings.NewReplacer(", settings.yaml", "", "  - settings.yaml\n", "").Replace(list))
				}
				must(t, os.Remove(filepath.Join(p.dir, story.settings)))
				c.arrives(t)
				eventually(t, "its object goes", func() bool {
					return kubectl(t, "get", "configmap", "--namespace", p.name, "--ignore-not-found", story.name) == ""
				})
				without := inventory(t, p.name)
				for _, line := range with {
					kind, _, _ := strings.Cut(line, " ")
					if !strings.Contains(strings.Join(without, "\n"), line) && !strings.HasSuffix(line, "/"+story.name) &&
						kind != "Pod" && kind != "Job" {
						t.Errorf("it took along %s", line)
					}
				}
			})
			step(t, "what is broken is named, and the platform stays", func(t *testing.T) {
				d.replace(t, story.web, story.right, story.wrong).fails(t, filepath.Base(story.web)+`:\d+`)
				p.awaitPage(t, "second")
				d.replace(t, story.web, story.wrong, story.right).arrives(t)
				p.awaitPage(t, "second")
			})
			step(t, "what was there before stays", func(t *testing.T) {
				d.stop(t)
				eventually(t, "its pods have ended", func() bool {
					return kubectl(t, "get", "pods", "--namespace", p.name, "--output=name") == ""
				})
				compare(t, "after Ctrl+C", inventory(t, p.name), before)
			})
		})
	}
}
