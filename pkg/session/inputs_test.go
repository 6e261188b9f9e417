package session

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	dockerconfig "github.com/docker/cli/cli/config"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/filediff"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/watch"
)

// projectInputs is a project with every kind of input. After what is there at first it says what is
// saved then: "" stands for no file, and "gone" says that it is removed.
var projectInputs = []struct{ name, before, after string }{
	{"devloop.yaml", `
apiVersion: devloop/v1
name: demo
images:
  app:
    context: app
    secrets: { token: { file: token }, netrc: { file: netrc } }
    ssh: ["key=id_ed25519"]
  tool: { context: app, dockerfile: tool/Dockerfile }
releases:
  - name: web
    namespace: demo
    chart: charts/web
    values: [values.yaml]
    hooks: { before: [{ command: [./migrate.sh] }], after: [{ command: [sh, smoke/test.sh] }] }
  - { name: packed, namespace: demo, chart: packed-1.0.0.tgz }
  - { name: fetched, namespace: demo, chart: "oci://registry.invalid/charts/fetched" }
  - { name: plain, namespace: demo, manifests: [plain.yaml, "*-dev.yaml", "some/**/k8s/?.yaml", all] }
  - { name: made, namespace: demo, kustomize: overlays/dev }
local: { sync: true, requirements: requirements.txt }
`, "again"},
	{"local.yaml", "watch: { quiet: 10ms }\n", "watch: { quiet: 11ms }\n"},
	{"requirements.txt", "-r base.txt\n-c limits/all.txt\n", "-r base.txt\n-c limits/all.txt\ndask\n"},
	{"base.txt", "numpy\n", "pandas\n"},
	{"limits/all.txt", "", "numpy<3\n"},

	{"app/Dockerfile", "FROM scratch\nCOPY app.py lib /\n", "FROM scratch\nLABEL a=b\nCOPY app.py lib /\n"},
	{"app/app.py", "a", "b"},
	{"app/lib/deep/x.py", "a", "b"},
	{"app/lib/y.py", "", "a"},
	{"app/.dockerignore", "", "lib/y.py\n"},
	{"app/Dockerfile.dockerignore", "", "lib/deep\n"},
	{"tool/Dockerfile", "FROM scratch\nCOPY app.py /\n", "FROM scratch\nCOPY app.py /b\n"},
	{"tool/Dockerfile.dockerignore", "", "app.py\n"},

	{"values.yaml", "a: 1\n", "a: 2\n"},
	{"charts/web/Chart.yaml", `
apiVersion: v2
name: web
version: 1.0.0
dependencies:
- { name: lib, version: 1.0.0, repository: "file://../lib" }
- { name: far, version: 1.0.0, repository: "@mine" }
`, "again"},
	{"charts/web/Chart.lock", "", "{}"},
	{"charts/web/requirements.yaml", "", "{}"},
	{"charts/web/values.yaml", "a: 1\n", "a: 2\n"},
	{"charts/web/values.schema.json", "", "{}"},
	{"charts/web/.helmignore", "", "*.md\n"},
	{"charts/web/templates/a.yaml", "a: 1\n", "a: 2\n"},
	{"charts/web/files/a.txt", "a", "b"},
	{"charts/web/crds/a.yaml", "", "a: 1\n"},
	{"charts/web/charts/far-1.0.0.tgz", "", "archive"},
	{"charts/web/charts/in/Chart.yaml",
		"name: in\ndependencies: [{ name: leaf, version: 1.0.0, repository: \"file://../../../leaf\" }]\n", "again"},
	{"charts/lib/Chart.yaml", "name: lib\ndependencies: [{ name: low, repository: \"file://../low\" }]\n", "again"},
	{"charts/lib/.helmignore", "", "*.md\n"},
	{"charts/lib/templates/a.yaml", "a: 1\n", "a: 2\n"},
	{"charts/low/Chart.yaml", "", "name: low\n"},
	{"charts/leaf/Chart.yaml", "", "name: leaf\n"},
	{"packed-1.0.0.tgz", "archive", "another"},
	{"plain.yaml", "a: 1\n", "a: 2\n"},
	{"b-dev.yaml", "", "a: 1\n"},
	{"some/deep/k8s/a.yaml", "a: 1\n", "a: 2\n"},
	{"some/new/k8s/b.yaml", "", "a: 1\n"},
	{"all/deep/a.yaml", "", "a: 1\n"},
	{"all/a.json", "{}", "gone"},
	{"overlays/dev/kustomization.yaml", `
resources: [../../base, "https://host.invalid/a.yaml"]
components: [../part]
patches: [{ path: patch.yaml }]
configMapGenerator: [{ name: settings, files: [color=files/color.txt], envs: [.env] }]
`, "again"},
	{"overlays/dev/patch.yaml", "a: 1\n", "a: 2\n"},
	{"overlays/dev/files/color.txt", "red", "blue"},
	{"overlays/dev/.env", "", "A=b\n"},
	{"overlays/part/kustomization.yml", "", "resources: []\n"},
	{"base/Kustomization", "resources: [web.yaml, more, later.yaml]\n", "again"},
	{"base/web.yaml", "a: 1\n", "gone"},
	{"base/later.yaml", "", "a: 1\n"},
	{"base/more/kustomization.yaml", "resources: [a.yaml]\n", "again"},
	{"base/more/a.yaml", "a: 1\n", "a: 2\n"},
	{"linked/chart.yaml", "a: 1\n", "a: 2\n"},
	{"linked/manifest.yaml", "a: 1\n", "a: 2\n"},
	{"migrate.sh", "true", "false"},
	{"smoke/test.sh", "", "true"},
	{"helm/repositories.yaml", "", "repositories: []\n"},
	{"helm/registry/config.json", "", "{}"},
}

// neededOnce are the files without which a run may have failed, and of which it does not count what
// they hold.
var neededOnce = []string{"token", "netrc", "id_ed25519", "docker/config.json"}

// noInputs are files whose change starts nothing.
var noInputs = []string{
	"README.md", "app/notes.txt", "charts/web/settings.yaml~", "charts/web/.values.yaml.swp", "charts/web/templates/4913",
	"charts/web/templates/#a.yaml#", "charts/lib/templates/b.yaml~", "charts/web/.git/index", ".values.yaml.swp",
	"all/README.md", "all/deep/a.yaml~", "some/new/k8s/ab.yaml", "some/new/c.yaml", "deep/x-dev.yaml", "base/other.yaml",
	"base/kustomization.yaml~", "overlays/dev/files/size.txt",
	"app/lib/.x.py.swp", "app/lib/#x.py#", "values.yaml~",
}

// failing is a platform with the files of the real one.
type failing struct {
	quickStages
	files []string
	fails *atomic.Bool
}

func (f failing) Files() []string { return f.files }
func (f failing) Apply(
	ctx context.Context, _ event.Sink, _ *loop.Target, begin func(context.Context) error,
) error {
	if f.fails.Load() {
		return errors.New("it fails")
	}
	return begin(ctx)
}

// hashOnly is an image stage whose images are on the host.
type hashOnly struct{ imageStage }

func (hashOnly) Build(context.Context, event.Sink, *loop.Image) (bool, error) { return false, nil }

// A change of anything that a run reads starts another one, also if it was not there before. A
// change of anything else starts none.
func TestEveryInputIsWatched(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HELM_CONFIG_HOME", filepath.Join(dir, "helm"))
	before := dockerconfig.Dir()
	dockerconfig.SetDir(filepath.Join(dir, "docker"))
	t.Cleanup(func() { dockerconfig.SetDir(before) })
	save := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, input := range projectInputs {
		if input.before != "" {
			save(input.name, input.before)
		}
	}
	for link, target := range map[string]string{"charts/web/templates/linked.yaml": "../../../linked/chart.yaml",
		"all/linked.yaml": "../linked/manifest.yaml"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, link)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	type run struct {
		files string // that it runs for
		err   error
	}
	runs := make(chan run, 100)
	var files string
	sink := event.Sink(func(e event.Event) {
		switch start, _ := e.Payload.(event.RunStart); {
		case e.Message == event.RunStarts:
			files = start.Files
		case e.Message == event.RunComplete && e.Phase != event.Started && e.Phase != event.Superseded:
			runs <- run{files, e.Err}
		}
	})
	watcher, err := watch.New(sink, watch.Options{Quiet: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	builders := &builders{main: build.Remote("tcp://127.0.0.1:1", nil, t.TempDir()), sink: sink}
	var fails atomic.Bool
	load := func(context.Context) (loop.Stages, error) {
		c, err := config.Load(config.Source{
			Files: []string{filepath.Join(dir, "devloop.yaml"), filepath.Join(dir, "local.yaml")},
		})
		if err != nil {
			return loop.Stages{}, err
		}
		q := quickStages{}
		return loop.Stages{Files: append(c.Files(), includedRequirements(c)...),
			Images: hashOnly{imageStage{builders: builders, config: c}}, Nodes: q, Local: q,
			Platform: failing{q, ReleaseFiles(c), &fails}, Forwards: q, Proof: quickProof{}}, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = watcher.Run(ctx) })
	asking := &requests{stage: sink.Stage("devloop"), batches: watcher.Batches()}
	changes := make(chan loop.Change)
	running.Go(func() { asking.run(ctx, changes) })
	running.Go(func() { loop.New(load, watcher, &filediff.Tracker{}, changes, sink).Run(ctx) })
	await := func(what string) error {
		t.Helper()
		for {
			select {
			case ended := <-runs:
				for _, name := range noInputs {
					if slices.Contains(strings.Fields(ended.files), filepath.Base(name)) {
						t.Errorf("a run for %s", ended.files)
					}
				}
				if len(runs) == 0 {
					return ended.err
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s starts no run", what)
			}
		}
	}
	if err := await("devloop"); err != nil {
		t.Fatal(err)
	}
	for _, input := range projectInputs {
		for _, name := range noInputs {
			save(name, input.name)
		}
		if input.after == "again" {
			input.after = input.before + "# again\n"
		}
		if input.after == "gone" {
			if err := os.Remove(filepath.Join(dir, input.name)); err != nil {
				t.Fatal(err)
			}
		} else {
			save(input.name, input.after)
		}
		if err := await(input.name); err != nil {
			t.Errorf("%s: %v", input.name, err)
		}
	}
	fails.Store(true)
	save("values.yaml", "a: 3\n")
	if err := await("values.yaml"); err == nil {
		t.Fatal("the run does not fail")
	}
	for _, name := range neededOnce {
		save(name, "{}")
		if err := await(name); err == nil {
			t.Fatal("the run does not fail")
		}
	}
}

// Which keys of devloop.yaml name files of this machine: TestEveryInputIsWatched has one of each.
// What has a check is a name, a number or the like; these are the others.
func TestKeysThatNameFiles(t *testing.T) {
	files := []string{"images.context", "images.dockerfile", "images.secrets.file", "images.ssh", "releases.chart",
		"releases.values", "releases.hooks.before.command", "releases.hooks.after.command", "local.requirements",
		"releases.manifests", "releases.kustomize", "hooks.before.command", "hooks.after.command"}
	others := []string{"kubeContext", "allowContexts", "images.target", "images.args", "images.secrets.env",
		"verify.command", "verify.args", "images.sync.then",
		"local.venv"} // it is compared with the images, and decides nothing
	var found []string
	var look func(of reflect.Type, path string)
	look = func(of reflect.Type, path string) {
		switch of.Kind() {
		case reflect.Slice, reflect.Map, reflect.Pointer:
			look(of.Elem(), path)
		case reflect.Struct:
			for i := range of.NumField() {
				field := of.Field(i)
				key, _, _ := strings.Cut(field.Tag.Get("key"), ",")
				check := field.Tag.Get("check")
				if key == "" || key == "*" || key == "profiles" || check != "" && check != "chart" && check != "ssh" {
					continue
				}
				look(field.Type, strings.TrimPrefix(path+"."+key, "."))
			}
		case reflect.String:
			found = append(found, path)
		default:
		}
	}
	look(reflect.TypeFor[config.Config](), "")
	want := slices.Sorted(slices.Values(slices.Concat(files, others)))
	if slices.Sort(found); !slices.Equal(found, want) {
		t.Errorf("keys are %q,\nknown are %q:\nadd what is new to one of the lists, and to projectInputs if it names files",
			found, want)
	}
}
