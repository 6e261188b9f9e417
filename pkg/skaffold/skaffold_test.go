package skaffold

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/strvals"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
)

// oneRelease makes a file complete that is about something else.
const oneRelease = "deploy: { helm: { releases: [{ name: r, chartPath: chart.tgz, namespace: n }] } }\n"

const skaffoldHead = "apiVersion: skaffold/v4beta6\nkind: Config\nmetadata: { name: p }\n"

// skaffolded writes text as skaffold.yaml into dir, where there is no devloop.yaml, and loads it
// there.
func skaffolded(t testing.TB, dir, text string, profiles ...string) (*config.Config, error) {
	t.Helper()
	t.Chdir(dir)
	write(t, "skaffold.yaml", text)
	return config.Load(config.Source{Files: []string{"skaffold.yaml"}, Profiles: profiles, Translate: Translate})
}

// Translate reads a file as skaffold dev does in its folder.
var Translate = Options{}.Translate

// reported is all problems, or all notes.
func reported(c *config.Config, err error) string {
	if err != nil {
		return err.Error()
	}
	lines := make([]string, len(c.Notes))
	for i, p := range c.Notes {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// meant is what a configuration says, wherever it was read from.
func meant(c *config.Config) *config.Config {
	var plain config.Config
	from, to := reflect.ValueOf(*c), reflect.ValueOf(&plain).Elem()
	for i := range to.NumField() {
		if to.Field(i).CanSet() {
			to.Field(i).Set(from.Field(i))
		}
	}
	plain.Path, plain.Format, plain.Notes = "", "", nil
	return &plain
}

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSkaffoldOfThePlatform(t *testing.T) {
	text := read(t, "testdata/platform.skaffold.yaml")
	dir := project(t)
	got, err := skaffolded(t, dir, text)
	if err != nil {
		t.Fatal(err)
	}
	if got.Format != "skaffold/v4beta6" || got.Path != filepath.Join(dir, "skaffold.yaml") {
		t.Errorf("read %s of %s", got.Format, got.Path)
	}
	if want := `skaffold.yaml:15:3: build.tagPolicy: a tag is the hash of all that the image is made from
skaffold.yaml:22:9: deploy.helm.releases[0]: is Dask Gateway: it counts as up when its deployments are (health), ` +
		`and before it is removed, the Dask clusters that users made are (cleanup.before)
skaffold.yaml:34:9: deploy.helm.releases[1]: releases are applied side by side, not one after the other: dependsOn, ` +
		`or wait: true of the one before, keeps an order
skaffold.yaml:43:5: portForward[0]: leads to Dask Gateway: the platform counts as up when /api/health ` +
		`answers here`; reported(got, nil) != want {
		t.Errorf("reported:\n%s\nwant:\n%s", reported(got, nil), want)
	}
	want, err := load(t, dir, platformFile)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(meant(got), meant(want)) {
		t.Errorf("got  %+v\nwant %+v", meant(got), meant(want))
	}
	if c, err := config.Load(config.Source{}); err != nil || c.Format != "" {
		t.Errorf("beside a devloop.yaml, the skaffold.yaml was read: %v", err)
	}
	if c, err := config.Load(config.Source{Files: []string{"skaffold.yaml"}, Translate: Translate}); err != nil ||
		c.Format == "" {
		t.Errorf("-f skaffold.yaml read %v, %v", c, err)
	}
}

func TestSkaffoldV2(t *testing.T) {
	text := read(t, "testdata/v2.skaffold.yaml")
	got, err := skaffolded(t, filepath.Join(project(t), "sub", ".."), text)
	if err != nil {
		t.Fatal(err)
	}
	want, err := load(t, got.Dir, fmt.Sprintf(`apiVersion: devloop/v1
name: %[1]q
images:
  gcr.io/team/web: { dockerfile: Dockerfile.worker, secrets: { token: { file: values.yaml } } }
  api: { dockerfile: Dockerfile.client, aliases: [localhost:5000/api] }
  cache: { context: sub }
releases:
  - { name: web, chart: deploy/dask-session, namespace: default, set: { image: '{{ image "gcr.io/team/web" }}', `+
		`deep.image: '{{ image "cache" }}' } }
  - name: api
    chart: chart.tgz
    namespace: apps
    set: { image.registry: '{{ registry "api" }}', image.repository: '{{ path "api" }}', image.tag: `+
		`'{{ tag "api" }}', image.pullPolicy: Never }
  - { name: cache, chart: redis, repo: https://charts.example.com, namespace: default,
      set: { image.repository: '{{ repository "cache" }}', image.tag: '{{ tag "cache" }}' } }
  - { name: %[1]q, manifests: [k8s/*.yaml], namespace: default }
`, got.Name))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(meant(got), meant(want)) {
		t.Errorf("got  %+v\nwant %+v", meant(got), meant(want))
	}
	if want := `skaffold.yaml:4:3: build.tagPolicy: a tag is the hash of all that the image is made from
skaffold.yaml:7:87: build.artifacts[0].docker.secret.dst: the Dockerfile says where a secret is
skaffold.yaml:8:14: build.artifacts[1].image: the image is called api: ` +
		`devloop brings it to the nodes without that registry
skaffold.yaml:9:7: build.artifacts[1].kaniko: the image is built by BuildKit, as a docker artifact
skaffold.yaml:15:9: deploy.helm.releases[0]: has no namespace: default is taken, whatever the kube context says
skaffold.yaml:18:33: deploy.helm.releases[0].imageStrategy.fqn.property: has no meaning for devloop: ignored
skaffold.yaml:19:9: deploy.helm.releases[1]: releases are applied side by side, not one after the other: dependsOn, ` +
		`or wait: true of the one before, keeps an order
skaffold.yaml:24:58: deploy.helm.releases[1].setValues.image.tag: is set again, and that counts
skaffold.yaml:25:9: deploy.helm.releases[2]: has no namespace: default is taken, whatever the kube context says
skaffold.yaml:31:26: deploy.kubectl.manifests[0]: has no namespace: default is taken, ` +
		`whatever the kube context says`; reported(got, nil) != want {
		t.Errorf("reported:\n%s\nwant:\n%s", reported(got, nil), want)
	}
}

// everything makes a project for testdata/everything.skaffold.yaml.
func everything(t testing.TB) string {
	dir := project(t)
	t.Setenv("SKAFFOLD_TEST", "x")
	t.Setenv("HELM_REPOSITORY_CONFIG", filepath.Join(dir, "repositories.yaml"))
	write(t, filepath.Join(dir, "repositories.yaml"),
		"repositories: [{ name: stable, url: https://charts.example.com/stable }, { name: own, url: https://own, username: "+
			"me }]\n")
	write(t, filepath.Join(dir, "skaffold.yaml"), skaffoldHead)
	write(t, filepath.Join(dir, "secret.txt"), "s{{ecret\n")
	placeFile(t, filepath.Join(dir, "module", "skaffold.yaml"), "apiVersion: skaffold/v4beta6\nkind: Config\n"+
		"metadata: { name: x }\nprofiles: [{ name: p, portForward: [{ resourceType: service, resourceName: s, "+
		"namespace: n, port: 80, localPort: 8080 }] }]\n")
	write(t, filepath.Join(dir, "sops.yaml"), "a: ENC[x]\nsops:\n  version: 3\n")
	return dir
}

// TestSetValuesAreHelms holds that a text of setValues becomes what helm --set makes of it.
func TestSetValuesAreHelms(t *testing.T) {
	for _, text := range []string{"no", "True", "NULL", "null", "0", "-0", "+5", "007", "1.10", "1e3", "0x10", "1_000", "",
		"9223372036854775807", "9223372036854775808", "2001-01-01", `a\,b`, `a\\b`, `\{a}`, "a{b}", "a=b", "~", " x ", "[1]",
		"x,d=8", `x,d\.e=no,f[1]=2`, "{}", "{no,1.10,a\\,b,}"} {
		want := map[string]any{}
		if err := strvals.ParseInto("a="+text, want); err != nil {
			t.Fatal(err)
		}
		c, err := skaffolded(t, project(t), skaffoldHead+fmt.Sprintf("deploy: { helm: { releases: [{ name: r, chartPath: "+
			"chart.tgz, namespace: n, setValues: { a: %q } }] } }\n", text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := map[string]any{}
		maps.Copy(got, c.Releases[0].InlineValues)
		for path, value := range c.Releases[0].Set {
			assigned, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			if _, isText := value.(string); isText {
				err = strvals.ParseJSON(path+"="+string(assigned), got)
			} else {
				err = strvals.ParseInto(path+"="+string(assigned), got)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v, and for Helm %#v", text, got, want)
		}
	}
}

func TestEveryKeyOfSkaffold(t *testing.T) {
	text := read(t, "testdata/everything.skaffold.yaml")
	c, err := skaffolded(t, everything(t), text)
	if err != nil {
		t.Fatal(err)
	}
	if unknown := "skaffold has no such key"; strings.Contains(reported(c, nil), unknown) {
		t.Errorf("a key is not known:\n%s", reported(c, nil))
	}
	two := c.Releases[1]
	for _, check := range []struct{ got, want any }{
		{two.Set, config.SetValues{"flag.a": int64(1), "raw": `a{{ "{{" }}.IMAGE_TAG_worker}}`,
			"a": int64(1), "b.c": "x", "d": true, "deep.e[0]": "f", "deep.e[1].g": "0.5",
			"nothing": nil,
			`h\.i/j`:  nil,
			"image":   `{{ image "worker" }}`, "of-x": `{{ repository "client" }}:{{ tag "client" }}`,
			"domain": `{{ registry "client" }}/{{ path "client" }}`}},
		{two.InlineValues, map[string]any{"text": `{{ "{{" }} .Release.Name }}`,
			"deep": map[string]any{"list": []any{1.0, "two"}}, "list": []any{1.0, " two"},
			"tags": []any{1.0, `{{ tag "worker" }}`}}},
		{two.SetString, map[string]string{"flag.b": "2", "file.text": `s{{ "{{" }}ecret` + "\n"}},
		{two.DependsOn, []string{"one-x"}},
		{c.Releases[0].Version, "1.0.0"},
		{c.Images[0].Args, map[string]string{"A": "x", "B": "1", "E": "5"}},
		{c.Timeouts.Rollout, 90 * time.Second},
		{c.Hooks.Before[1].Command, []string{"sh", "-c", `cd "$0" && exec "$@"`, "sub", "echo", `{{ "{{" }}a`}},
	} {
		if !reflect.DeepEqual(check.got, check.want) {
			t.Errorf("got  %#v\nwant %#v", check.got, check.want)
		}
	}
	resolved, err := two.Resolve(map[string]string{"worker": "worker:1", "client": "host/a/client:2"})
	if err != nil {
		t.Fatal(err)
	}
	if got := resolved.SetString["file.text"] + fmt.Sprint(resolved.InlineValues["text"],
		resolved.Set["domain"]); got != "s{{ecret\n{{ .Release.Name }}host/a/client" {
		t.Errorf("resolved to %q", got)
	}
	if files := c.Files(); !slices.Contains(files, filepath.Join(c.Dir, "secret.txt")) {
		t.Errorf("the file of a value is not among %q", files)
	}
	checkText(t, c)
}

// checkText holds that the devloop.yaml that is made of c means the same.
func checkText(t *testing.T, c *config.Config) {
	t.Helper()
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.Dir, "made.yaml")
	write(t, path, string(text))
	again, err := config.Load(config.Source{Files: []string{path}})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !reflect.DeepEqual(meant(again), meant(c)) {
		t.Errorf("it says %#v\nand not  %#v\n%s", meant(again), meant(c), text)
	}
}

// inHelm is a skaffold.yaml with one release that has these keys.
func inHelm(keys string) string {
	return skaffoldHead + "build: { artifacts: [{ image: worker, docker: { dockerfile: Dockerfile.worker } }] }\n" +
		"deploy: { helm: { releases: [{ name: r, chartPath: chart.tgz, namespace: n,\n" + keys + " }] } }\n"
}

const useWorker = `setValueTemplates: { all: "{{.IMAGE_NAME}}" }, `

var wrongSkaffold = []struct {
	name, text string
	profiles   []string
	want       []string
}{
	{name: "nothing", text: "apiVersion: skaffold/v2alpha1\nkind: Config\nmetadata: { name: p }\nbuild:\ndeploy:\n" +
		"portForward: ~\nprofiles:\n", want: []string{
		`skaffold.yaml:1:1: names nothing to deploy: k8s/*.yaml is deployed, as skaffold does`,
		`skaffold.yaml:1:1: has no namespace: default is taken, whatever the kube context says`,
	}},
	{name: "Windows", text: strings.ReplaceAll(skaffoldHead+
		"build:\n  artifacts:\n  - image: worker\n    docker: { dockerfile: Dockerfile.worker }\n"+oneRelease, "\n", "\r\n")},
	{name: "two configurations with one name", text: skaffoldHead + "---\n" + skaffoldHead, want: []string{
		`skaffold.yaml:7:19: metadata.name: the name p is taken already, on line 3`,
	}},
	{name: "old", text: "apiVersion: skaffold/v1beta15\nkind: Config\nbuild: {}\n", want: []string{
		`skaffold.yaml:1:13: apiVersion: this devloop reads "devloop/v1", and skaffold/v2alpha1 to skaffold/v4beta13, ` +
			`not "skaffold/v1beta15"; ` +
			`skaffold fix --overwrite -f skaffold.yaml writes a newer one`,
	}},
	{name: "unknown keys", text: skaffoldHead + "buld: {}\n.anchors: [&a 1]\nbuild: { artefacts: [] }\n" +
		oneRelease, want: []string{
		`skaffold.yaml:4:1: buld: skaffold has no such key, or devloop does not know it: ignored; did you mean "build"?`,
		`skaffold.yaml:6:10: build.artefacts: skaffold has no such key, or devloop does not know it: ignored; ` +
			`did you mean "artifacts"?`,
	}},
	{name: "kinds", text: "apiVersion: skaffold/v3\nkind: Pod\nmetadata: { name: My_App }\nbuild: []\n" +
		"deploy: { helm: x, statusCheck: maybe, statusCheckDeadlineSeconds: soon }\nportForward: {}\n", want: []string{
		`skaffold.yaml:2:7: kind: must be Config, but is text "Pod"`,
		`skaffold.yaml:4:8: build: must be a mapping, but is a list`,
		`skaffold.yaml:5:17: deploy.helm: must be a mapping, but is text "x"`,
		`skaffold.yaml:5:33: deploy.statusCheck: must be true or false, but is text "maybe"`,
		`skaffold.yaml:5:68: deploy.statusCheckDeadlineSeconds: must be a number of seconds, but is text "soon"`,
		`skaffold.yaml:6:14: portForward: must be a list, but is a mapping`,
	}},
	{name: "a name", text: "apiVersion: skaffold/v4beta1\nkind: Config\nmetadata: { name: My_App }\n" +
		oneRelease, want: []string{
		`skaffold.yaml:3:19: metadata.name: "My_App" is no name for Kubernetes: the project is called my-app`,
	}},
	{name: "artifacts", text: skaffoldHead + `build:
  artifacts:
    - docker: {}
    - { image: a, docker: { dockerfile: Dockerfile.wrker } }
    - { image: a }
    - { image: b, context: nowhere, platforms: [linux/amd64, linux/arm64] }
    - { image: c, docker: { dockerfile: Dockerfile.worker }, requires: [{ image: a, alias: BASE }], platforms: [arm] }
    - { image: "d:v1", docker: { dockerfile: Dockerfile.worker, buildArgs: { A: "{{.NOT_THERE}}", B: [], C: ` +
		`"{{.IMAGE_REPO_a}}" } } }
    - { image: e, context: sub, docker: { dockerfile: Dockerfile.worker, secrets: [{ src: x }, { id: a, src: x, env: ` +
		`y }] } }
    - { image: f, kaniko: { contextSubPath: sub } }
`, want: []string{
		`skaffold.yaml:6:7: build.artifacts[0]: "image" is missing`,
		`skaffold.yaml:7:41: build.artifacts[1].docker.dockerfile: there is no file "Dockerfile.wrker"; ` +
			`did you mean "Dockerfile.worker"?`,
		`skaffold.yaml:8:16: build.artifacts[2].image: a is taken already, on line 7`,
		`skaffold.yaml:9:28: build.artifacts[3].context: there is no folder "nowhere"`,
		`skaffold.yaml:11:16: build.artifacts[5].image: "d:v1" must be an image name without a tag: up to 128 of a-z, ` +
			`0-9 and single . _ - / within`,
		`skaffold.yaml:11:81: build.artifacts[5].docker.buildArgs.A: the environment has no variable "NOT_THERE"`,
		`skaffold.yaml:11:102: build.artifacts[5].docker.buildArgs.B: must be a single value, but is a list`,
		`skaffold.yaml:11:109: build.artifacts[5].docker.buildArgs.C: no image has a variable "IMAGE_REPO_a", ` +
			`nor has the environment; did you mean "IMAGE_REPO_b"?`,
		`skaffold.yaml:12:84: build.artifacts[6].docker.secrets[0]: "id" is missing`,
		`skaffold.yaml:12:118: build.artifacts[6].docker.secrets[1]: has "env" beside "file", ` +
			`but needs exactly one of these keys: file, env`,
		`skaffold.yaml:13:16: build.artifacts[7]: there is no file "Dockerfile"`,
		`skaffold.yaml:13:45: build.artifacts[7].kaniko.contextSubPath: devloop has no part of a context: ` +
			`name the folder as the artifact's context`,
	}},
	{name: "templates", text: inHelm(`setValueTemplates:
 { a: "{{.IMAGE_TAG_wroker}}", c: "{{.NOT_THERE}}", d: "{{ if true }}x{{ end }}", e: ` +
		`"{{ cmd \"ls\" }}", f: "{{ sha1 .A }}",
   g: "{{ upper .IMAGE_TAG }}", h: "{{", i: "{{ default \"x\" .NOT_THERE | quote }}", "{{.IMAGE_TAG}}": x, j: ` +
		`"{{ .A.B }}", k: "{{ trim }}", l: "{{ 1 2 }}", m: "{{ $x := 1 }}" }, valuesFiles: ["{{.IMAGE_TAG}}"]`),
		want: []string{
			`skaffold.yaml:7:7: deploy.helm.releases[0].setValueTemplates.a: no image has a variable "IMAGE_TAG_wroker", ` +
				`nor has the environment; did you mean "IMAGE_TAG_worker"?`,
			`skaffold.yaml:7:35: deploy.helm.releases[0].setValueTemplates.c: the environment has no variable "NOT_THERE"`,
			`skaffold.yaml:7:86: deploy.helm.releases[0].setValueTemplates.e: <cmd "ls">: error calling cmd: commands are ` +
				`not run while the file is read; put what it prints into a variable of the environment`,
			`skaffold.yaml:7:109: deploy.helm.releases[0].setValueTemplates.f: function "sha1" not defined; of functions, ` +
				`devloop knows default, env, lower, quote, replace, squote, trim, trimPrefix, trimSuffix and upper`,
			`skaffold.yaml:8:7: deploy.helm.releases[0].setValueTemplates.g: a function cannot change what is known only when ` +
				`the image is built`,
			`skaffold.yaml:8:36: deploy.helm.releases[0].setValueTemplates.h: unclosed action; of functions, ` +
				`devloop knows default, env, lower, quote, replace, squote, trim, trimPrefix, trimSuffix and upper`,
			`skaffold.yaml:8:105: deploy.helm.releases[0].setValueTemplates.{{.IMAGE_TAG}}: names an image: ` +
				`what is known only when it is built cannot stand here`,
			`skaffold.yaml:8:111: deploy.helm.releases[0].setValueTemplates.j: the environment has no variable "A"`,
			`skaffold.yaml:8:128: deploy.helm.releases[0].setValueTemplates.k: <trim>: wrong number of args for trim: ` +
				`want 1 got 0`,
			`skaffold.yaml:8:145: deploy.helm.releases[0].setValueTemplates.l: <1>: can't give argument to non-function 1`,
			`skaffold.yaml:8:194: deploy.helm.releases[0].valuesFiles[0]: names an image: what is known only when it is built ` +
				`cannot stand here`,
		}},
	{name: "values for helm --set", text: inHelm(useWorker +
		`setValues: { a: "x,y", b: "{1,2", "c[0]": "{1}", "": x }, setFiles: { e: nowhere, f: ` +
		`sub }, overrides: [x]`), want: []string{
		`skaffold.yaml:6:64: deploy.helm.releases[0].setValues.a: helm --set cannot read it: key "y" has no value; ` +
			`a comma within a value is written \,`,
		`skaffold.yaml:6:74: deploy.helm.releases[0].setValues.b: helm --set cannot read it: list must terminate with '}'; ` +
			`a comma within a value is written \,`,
		`skaffold.yaml:6:101: deploy.helm.releases[0].setValues.: has no key`,
		`skaffold.yaml:6:121: deploy.helm.releases[0].setFiles.e: there is no file "nowhere"`,
		`skaffold.yaml:6:133: deploy.helm.releases[0].setFiles.f: "sub" is not a file`,
		`skaffold.yaml:6:151: deploy.helm.releases[0].overrides: must be a mapping, but is a list`,
	}},
	{name: "charts", text: skaffoldHead + `deploy:
  helm:
    releases:
      - { name: a, namespace: n }
      - { name: b, namespace: n, remoteChart: stable/x, chartPath: y }
      - { chartPath: chart.tgz, namespace: n }
      - { name: c, namespace: n, remoteChart: stabel/x }
      - { name: d, namespace: n, remoteChart: own/x }
      - { name: e, namespace: n, remoteChart: x }
      - { name: f, namespace: n, remoteChart: stable/x, version: "{{" }
      - { name: g, namespace: "{{.NOT_THERE}}", remoteChart: stable/x }
      - { name: h, namespace: n, remoteChart: stable/x, artifactOverrides: { image: x } }
      - { name: i, namespace: n, remoteChart: stable/x, useHelmSecrets: true, valuesFiles: [sops.yaml, secrets://x] }
      - x
`, want: []string{
		`skaffold.yaml:7:9: deploy.helm.releases[0]: needs "chartPath" or "remoteChart"`,
		`skaffold.yaml:8:68: deploy.helm.releases[1].chartPath: has "chartPath" beside "remoteChart"`,
		`skaffold.yaml:9:9: deploy.helm.releases[2]: "name" is missing`,
		`skaffold.yaml:10:47: deploy.helm.releases[3].remoteChart: helm knows no chart repository "stabel" (looked in ` +
			`$DIR/repositories.yaml); did you mean "stable"?: call helm repo add, or say where it is by repo`,
		`skaffold.yaml:11:47: deploy.helm.releases[4].remoteChart: helm has a user name for the repository "own", ` +
			`which devloop cannot use: download the chart, and name the archive by chartPath`,
		`skaffold.yaml:12:47: deploy.helm.releases[5].remoteChart: "x" is neither a URL nor a chart in a repository: ` +
			`say which one by repo`,
		`skaffold.yaml:13:66: deploy.helm.releases[6].version: unclosed action; of functions, devloop knows default, env, ` +
			`lower, quote, replace, squote, trim, trimPrefix, trimSuffix and upper`,
		`skaffold.yaml:14:31: deploy.helm.releases[7].namespace: the environment has no variable "NOT_THERE"`,
		`skaffold.yaml:15:85: deploy.helm.releases[8].artifactOverrides.image: no artifact is called "x"`,
		`skaffold.yaml:16:93: deploy.helm.releases[9].valuesFiles[0]: "sops.yaml" is encrypted, ` +
			`and devloop does not use helm-secrets: what it holds would be deployed as it is; decrypt it`,
		`skaffold.yaml:16:104: deploy.helm.releases[9].valuesFiles[1]: "secrets://x" is not on this machine: download it`,
		`skaffold.yaml:17:9: deploy.helm.releases[10]: must be a mapping, but is text "x"`,
	}},
	{name: "charts with notes", text: skaffoldHead + `deploy:
  helm:
    releases:
      - { name: a, namespace: n, remoteChart: stable/x, version: 1 }
      - { name: b, namespace: n, remoteChart: https://charts.example.com/x.tgz, version: 1, dependsOn: [a] }
      - { name: c, namespace: n, chartPath: chart.tgz, version: 1, repo: https://charts.example.com }
`, want: []string{
		`skaffold.yaml:8:81: deploy.helm.releases[1].version: the chart has the version that it has: ` +
			`a version only chooses one of a repository's`,
		`skaffold.yaml:9:56: deploy.helm.releases[2].version: the chart has the version that it has: ` +
			`a version only chooses one of a repository's`,
		`skaffold.yaml:9:68: deploy.helm.releases[2].repo: the chart is in a folder of this machine: no repository is asked`,
	}},
	{name: "hooks", text: skaffoldHead + "deploy: { helm: { hooks: { before: [{ host: { os: [" + runtime.GOOS +
		"] } }, { host: { command: [a, []] } }], after: [{ host: { command: [b] } }] } } }\n", want: []string{
		`skaffold.yaml:4:45: deploy.helm.hooks.before[0].host: "command" is missing`,
		`skaffold.yaml:4:` + strconv.Itoa(82+len(runtime.GOOS)) +
			`: deploy.helm.hooks.before[1].host.command[1]: must be a single value, but is a list`,
	}},
	{name: "commands around all", text: skaffoldHead + `deploy: { helm: { releases: [{ name: r, chartPath: chart.tgz }` +
		`], hooks: { after: [{ host: { command: [b] } }] } } }
`, want: []string{
		`skaffold.yaml:4:30: deploy.helm.releases[0]: has no namespace: default is taken, whatever the kube context says`,
		`skaffold.yaml:4:91: deploy.helm.hooks.after[0].host: the commands run around all releases, and only if any of ` +
			`these differs; they have the variable KUBECONFIG, and none of skaffold's`,
	}},
	{name: "what other tools deploy", text: skaffoldHead + `manifests: { kustomize: { paths: [.], buildArgs: [--x] }, ` +
		`kpt: [p] }
deploy:
  kubectl: { flags: { apply: [--x] }, defaultNamespace: n, remoteManifests: [] }
  kustomize: { flags: {}, defaultNamespace: n }
  kpt: { dir: d }
  docker: { images: [i], useCompose: true }
  cloudrun: { region: r, hooks: { after: [{ command: [a] }] } }
`, want: []string{
		`skaffold.yaml:4:51: manifests.kustomize.buildArgs[0]: kustomize is not called: without --x`,
		`skaffold.yaml:4:59: manifests.kpt: kpt is not called: what these packages hold is not deployed`,
		`skaffold.yaml:6:31: deploy.kubectl.flags.apply[0]: kubectl is not called: without --x`,
		`skaffold.yaml:7:14: deploy.kustomize: releases are applied side by side, not one after the other: ` +
			`dependsOn, or wait: true of the one before, keeps an order`,
		`skaffold.yaml:8:3: deploy.kpt: kpt is not called: what it would apply is not deployed`,
		`skaffold.yaml:9:3: deploy.docker: these containers are not started: devloop deploys to a cluster`,
		`skaffold.yaml:10:3: deploy.cloudrun: is not deployed: devloop does not deploy to Cloud Run`,
	}},
	{name: "kubectl alone", text: skaffoldHead + "deploy: { kubectl: {} }\n", want: []string{
		`skaffold.yaml:4:11: deploy.kubectl: names nothing to deploy: k8s/*.yaml is deployed, as skaffold does`,
		`skaffold.yaml:4:20: deploy.kubectl: has no namespace: default is taken, whatever the kube context says`,
	}},
	{name: "values that helm reads otherwise", text: inHelm(useWorker + `setValues: { a: 1.10, b: "1.10" }, overrides: ` +
		`{ c: no, d: ["on", { on: Y }] }`), want: []string{
		`skaffold.yaml:6:64: deploy.helm.releases[0].setValues.a: skaffold makes 1.1 of 1.10, and so helm --set gets that: ` +
			`quotes keep what is written`,
	}},
	{name: "digests", text: inHelm(`setValueTemplates: { a: "{{.IMAGE_DIGEST}}", b: "{{.IMAGE_TAG}}@{{.IMAGE_DIGEST}}" }`),
		want: []string{
			`skaffold.yaml:6:25: deploy.helm.releases[0].setValueTemplates.a: the digest is left out: ` +
				`an image that is not pushed has none, and its tag is a hash of its content`,
			`skaffold.yaml:6:49: deploy.helm.releases[0].setValueTemplates.b: the digest is left out: ` +
				`an image that is not pushed has none, and its tag is a hash of its content`,
		}},
	{name: "forwards", text: skaffoldHead + `portForward:
- {}
- { resourceType: service }
- { resourceType: service, resourceName: s }
- { resourceType: service, resourceName: s, port: 80, namespace: n, localPort: 8001 }
- { resourceType: SERVICE, resourceName: s, port: 81, namespace: n, localPort: 8001 }
- { resourceType: pod, resourceName: s, port: 0, namespace: n }
`, want: []string{
		`skaffold.yaml:5:3: portForward[0]: "resourceType" is missing`,
		`skaffold.yaml:6:3: portForward[1]: "resourceName" is missing`,
		`skaffold.yaml:7:3: portForward[2]: "port" is missing`,
		`skaffold.yaml:10:47: portForward[5].port: must be ` + aPort + `, but is a number (0)`,
	}},
	{name: "forwards with notes", text: skaffoldHead + `portForward:
- { resourceType: StatefulSet, resourceName: s, port: http }
- { resourceType: container, resourceName: s, port: 80 }
- { resourceType: svc, resourceName: a, port: 80 }
- { resourceType: deploy, resourceName: b, port: 80 }
` + oneRelease, want: []string{
		`skaffold.yaml:5:3: portForward[0]: has no namespace: n is taken`,
		`skaffold.yaml:5:3: portForward[0]: has no localPort: a free port is taken, which the log names`,
		`skaffold.yaml:6:3: portForward[1]: the port is not forwarded: devloop forwards to a service, a deployment, ` +
			`a stateful set or a pod, not to "container"`,
		`skaffold.yaml:7:3: portForward[2]: has no namespace: n is taken`,
		`skaffold.yaml:8:3: portForward[3]: has no namespace: n is taken`,
		`skaffold.yaml:8:3: portForward[3]: the local port 80 is that of the forward at skaffold.yaml:7: ` +
			`a free port is taken, which the log names`,
	}},
	{name: "no such profile", text: profiled, profiles: []string{"gup"}, want: []string{
		`skaffold.yaml: there is no profile "gup" (there are gpu, patched, wrong); did you mean "gpu"?`,
	}},
	{name: "patches that do not fit", text: profiled, profiles: []string{"wrong"}, want: []string{
		`skaffold.yaml:31:17: profiles[2].patches[0].path: the patch does not fit: there is nothing at ` +
			`/build/artifacts/7/image`,
		`skaffold.yaml:32:17: profiles[2].patches[1].path: the patch does not fit: there is nothing at /build/nothing/here`,
		`skaffold.yaml:33:29: profiles[2].patches[2].path: "build" is no path like /build/artifacts/0/image`,
		`skaffold.yaml:34:27: profiles[2].patches[3].path: the patch does not fit: /build/artifacts/0/image is not what it ` +
			`tests for`,
		`skaffold.yaml:35:26: profiles[2].patches[4].path: there is no operation "mix"; there are add, replace, remove, ` +
			`test, move and copy`,
		`skaffold.yaml:36:9: profiles[2].patches[5]: "value" is missing`,
		`skaffold.yaml:37:44: profiles[2].patches[6].from: there is nothing at /deploy/nothing`,
		`skaffold.yaml:38:9: profiles[2].patches[7]: "from" is missing`,
		`skaffold.yaml:39:9: profiles[2].patches[8]: "path" is missing`,
	}},
}

// profiled is a file with profiles.
const profiled = skaffoldHead + `build:
  artifacts:
    - { image: worker, docker: { dockerfile: Dockerfile.worker } }
  local: { push: false }
deploy:
  kubeContext: minikube
  helm: { releases: [{ name: r, chartPath: chart.tgz, namespace: n, setValues: { a: 1 }, setValueTemplates: { i: ` +
	`"{{.IMAGE_TAG_worker}}" } }] }
profiles:
  - name: gpu
    activation: [{ command: deploy }]
    build:
      artifacts:
        - { image: worker, context: sub }
      cluster: {}
    deploy: { statusCheckDeadlineSeconds: 60, kubeContext: "" }
    portForward: []
    unknown: 1
  - name: patched
    patches:
      - { path: /build/artifacts/0/docker/dockerfile, value: Dockerfile.client }
      - { op: add, path: /deploy/helm/releases/-, value: { name: s, chartPath: chart.tgz, namespace: n, dependsOn: ` +
	`[r] } }
      - { op: add, path: /deploy/helm/releases/name=r/setValues/b~1c, value: [1] }
      - { op: remove, path: /deploy/helm/releases/0/setValues/a }
      - { op: move, from: /deploy/kubeContext, path: /metadata/name }
      - { op: test, path: /metadata, value: { name: minikube } }
  - name: wrong
    patches:
      - { path: /build/artifacts/7/image, value: x }
      - { path: /build/nothing/here, value: x }
      - { op: remove, path: build }
      - { op: test, path: /build/artifacts/0/image, value: x }
      - { op: mix, path: /build }
      - { op: add, path: /build/x }
      - { op: copy, path: /deploy/x, from: /deploy/nothing }
      - { op: move, path: /deploy/x }
      - { value: x }
`

func TestWrongSkaffold(t *testing.T) {
	for _, c := range wrongSkaffold {
		t.Run(c.name, func(t *testing.T) {
			dir := everything(t)
			got := reported(skaffolded(t, dir, c.text, c.profiles...))
			got = strings.ReplaceAll(got, dir, "$DIR")
			if want := strings.Join(c.want, "\n"); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestSkaffoldProfiles(t *testing.T) {
	dir := everything(t)
	c, err := skaffolded(t, dir, profiled, "gpu")
	if err != nil {
		t.Fatal(err)
	}
	if want := `skaffold.yaml:17:7: profiles[0].build.cluster: images are built by the node or by Docker on this machine
skaffold.yaml:20:5: profiles[0].unknown: skaffold has no such key, or devloop does not know it: ignored`; reported(c,
		nil) != want {
		t.Errorf("reported:\n%s\nwant:\n%s", reported(c, nil), want)
	}
	if c.Images[0].Context != "sub" || c.Images[0].Dockerfile != "sub/Dockerfile" || c.Timeouts.Rollout != time.Minute ||
		c.KubeContext != "minikube" || len(c.Releases) != 1 {
		t.Errorf("gpu made %+v", c)
	}
	c, err = config.Load(config.Source{Files: []string{"skaffold.yaml"}, Translate: Translate,
		Profiles: []string{"patched"}, Set: []config.Assignment{{From: "--set", Text: "releases[s].set.x=1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Images[0].Dockerfile != "Dockerfile.client" || c.KubeContext != "" || c.Name != "minikube" ||
		len(c.Releases) != 2 ||
		!reflect.DeepEqual(c.Releases[0].Set, config.SetValues{"b/c[0]": int64(1), "i": `{{ tag "worker" }}`}) ||
		!reflect.DeepEqual(c.Releases[1].DependsOn, []string{"r"}) ||
		!reflect.DeepEqual(c.Releases[1].Set, config.SetValues{"x": int64(1)}) {
		t.Errorf("patched made %+v", c)
	}
	checkText(t, c)
	if got, want := config.ProfileNames(config.Source{Files: []string{"skaffold.yaml"}, Translate: Translate}),
		[]string{"gpu", "patched", "wrong"}; !reflect.DeepEqual(got, want) {
		t.Errorf("ProfileNames = %q, want %q", got, want)
	}
}

// Flags of docker may stand before or after buildArgs, and hold templates.
func TestFlagsOfDocker(t *testing.T) {
	t.Setenv("FOO", "foo")
	const flags = `cliFlags: ["--build-arg=A={{.FOO}}", --target, "{{.FOO}}", --label, x=y]`
	for _, docker := range []string{flags + ", buildArgs: { A: a, B: b }", "buildArgs: { A: a, B: b }, " + flags} {
		c, err := skaffolded(t, everything(t), skaffoldHead+"build: { artifacts: [{ image: a, docker: { "+docker+
			", dockerfile: Dockerfile.worker } }] }\n"+oneRelease)
		if err != nil {
			t.Fatal(err)
		}
		image := c.Images[0]
		if image.Target != "foo" || !maps.Equal(image.Args, map[string]string{"A": "foo", "B": "b"}) {
			t.Errorf("%s: the target is %q, and the arguments are %v", docker, image.Target, image.Args)
		}
		if got := reported(c, nil); !strings.Contains(got, "does not get this label") {
			t.Errorf("%s: reported are %s", docker, got)
		}
	}
}

// TestHarmlessNotes holds that what is lost does not drown in what is only said.
func TestHarmlessNotes(t *testing.T) {
	dir := everything(t)
	for name, want := range map[string]string{
		"platform": "",
		"v2":       "",
		"everything": `requires[1] requires[2] requires[3] test verify customActions resourceSelector ` +
			`manifests.remoteManifests manifests.kpt ` +
			`manifests.kustomize.buildArgs[0] manifests.kustomize.buildArgs[2] manifests.transform
			deploy.kubectl.flags.apply[0] deploy.kubectl.remoteManifests deploy.cloudrun deploy.docker deploy.kpt
			build.hooks build.artifacts[0].sync.hooks.before build.artifacts[0].docker.cliFlags[0]
			build.artifacts[1].kaniko.label
			deploy.kubectl.hooks.before[0].host deploy.helm.hooks.before[1].container deploy.helm.flags`,
	} {
		c, err := convert((&tree.Report{}).Parse(&tree.Origin{Name: "skaffold.yaml"},
			[]byte(read(t, "testdata/"+name+".skaffold.yaml"))), dir)
		if err != nil {
			t.Fatal(err)
		}
		var lost []string
		for _, note := range c.Notes {
			if path, _, _ := strings.Cut(note.Message, ": "); !note.Harmless {
				lost = append(lost, path)
			}
		}
		for _, path := range strings.Fields(want) {
			if !slices.Contains(lost, path) {
				t.Errorf("%s: nothing is lost with %s", name, path)
			}
		}
		if len(strings.Fields(want)) < 2 && len(lost) > len(strings.Fields(want)) {
			t.Errorf("%s: lost are %q", name, lost)
		}
		for _, path := range []string{"build.tagPolicy", "metadata.labels", "deploy.logs", "build.artifacts[1].kaniko"} {
			if slices.Contains(lost, path) {
				t.Errorf("%s: %s is lost", name, path)
			}
		}
	}
}

// TestWrongLaterInSkaffold holds that what turns out later has its place in skaffold.yaml, too.
func TestWrongLaterInSkaffold(t *testing.T) {
	c, err := skaffolded(t, everything(t), profiled)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.WrongValue("r", "set", "a", "is wrong", "").Error(),
		"skaffold.yaml:10:85: deploy.helm.releases[0].setValues.a: is wrong"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestSkaffoldAndMore lays a devloop.yaml over a skaffold.yaml.
func TestSkaffoldAndMore(t *testing.T) {
	dir := everything(t)
	if _, err := skaffolded(t, dir, profiled); err != nil {
		t.Fatal(err)
	}
	write(t, "mine.yaml", "images: { worker: { target: dev } }\nprofiles: { gpu: { keepImages: 5 } }\n")
	c, err := config.Load(config.Source{Files: []string{"skaffold.yaml", "mine.yaml"}, Profiles: []string{"gpu"},
		Translate: Translate})
	if err != nil || c.Images[0].Target != "dev" || c.Images[0].Context != "sub" || c.KeepImages != 5 {
		t.Errorf("%+v, %v", c, err)
	}
}

// leaves are the single values of a tree, but for those of profiles that are not selected.
func leaves(n *tree.Node) (list []*tree.Node) {
	for _, e := range n.Entries {
		if n.Path != "" || e.Key.Value != "" && e.Key.Value != "profiles" && !strings.HasPrefix(e.Key.Value, ".") {
			list = append(list, leaves(e.Value)...)
		}
	}
	for _, item := range n.Items {
		list = append(list, leaves(item)...)
	}
	if n.IsScalar() && !n.IsNull() && n.Value != "" {
		list = append(list, n)
	}
	return list
}

// changed is the tree with another value in one of its leaves.
func changed(n, leaf *tree.Node) *tree.Node {
	y := *leaf.Node
	if y.Tag == "!!bool" {
		y.Value = strconv.FormatBool(strings.EqualFold(y.Value, "false"))
	} else if number, err := strconv.Atoi(y.Value); err == nil {
		y.Value = strconv.Itoa(number + 1)
	} else {
		y.Value += "x"
	}
	other := *leaf
	other.Node = &y
	return replaced(n, leaf, &other)
}

// replaced is the tree with another value for one of its leaves.
func replaced(n, leaf, other *tree.Node) *tree.Node {
	if n == leaf {
		return other
	}
	c := n.Clone()
	for i, e := range c.Entries {
		c.Entries[i].Value = replaced(e.Value, leaf, other)
	}
	for i, item := range c.Items {
		c.Items[i] = replaced(item, leaf, other)
	}
	return c
}

// convert is what Load makes of the tree of a skaffold.yaml in dir, whatever stands in the file
// there.
func convert(root *tree.Node, dir string) (*config.Config, error) {
	return convertAll([]*tree.Node{root}, dir)
}

// convertAll is convert for a file with several documents.
func convertAll(documents []*tree.Node, dir string, profiles ...string) (*config.Config, error) {
	return config.Load(config.Source{Files: []string{filepath.Join(dir, "skaffold.yaml")}, Profiles: profiles,
		Translate: func(r *tree.Report, o tree.Original) *tree.Translation {
			o.Documents = documents
			return Translate(r, o)
		}})
}

// isSaid tells whether something is said about a value, or one that it stands in.
func isSaid(c *config.Config, err error, path string) bool {
	problems := []tree.Problem(nil)
	var e *tree.Error
	if errors.As(err, &e) {
		problems = e.Problems
	} else {
		for _, note := range c.Notes {
			problems = append(problems, note.Problem)
		}
	}
	for _, p := range problems {
		for i := range len(path) + 1 {
			if (i == len(path) || path[i] == '.' || path[i] == '[') && strings.HasPrefix(p.Message, path[:i]+": ") {
				return true
			}
		}
	}
	return false
}

// withoutEffect are the ends of paths of values that may change without a difference: what they say
// is so anyway, or depends on others.
var withoutEffect = []string{".wait", ".remote", ".explicitRegistry", ".upgradeOnChange"}

// checkLeaf holds that a value is used, or that something is said about it: if it was another one,
// there would be a difference.
func checkLeaf(t *testing.T, root, leaf *tree.Node, dir string) {
	t.Helper()
	c, err := convert(root, dir)
	if err != nil || isSaid(c, err, leaf.Path) || strings.Contains(leaf.Path, ".os[") ||
		slices.ContainsFunc(withoutEffect, func(end string) bool { return strings.HasSuffix(leaf.Path, end) }) {
		return
	}
	other, err := convert(changed(root, leaf), dir)
	if err == nil && reflect.DeepEqual(meant(c), meant(other)) && reflect.DeepEqual(c.Notes, other.Notes) {
		t.Errorf("%s (%q) is neither used nor reported", leaf.Path, leaf.Value)
	}
}

func TestEveryLeafOfSkaffold(t *testing.T) {
	texts := []string{read(t, "testdata/everything.skaffold.yaml"), read(t, "testdata/platform.skaffold.yaml"),
		read(t, "testdata/v2.skaffold.yaml"), profiled}
	dir := everything(t)
	for _, text := range texts {
		root := (&tree.Report{}).Parse(&tree.Origin{Name: "skaffold.yaml"}, []byte(text))
		if _, err := convert(root, dir); err != nil {
			t.Fatal(err)
		}
		for _, leaf := range leaves(root) {
			checkLeaf(t, root, leaf, dir)
		}
	}
}

// parsed is text as YAML, or else as text.
func parsed(text string) *yaml.Node {
	if value, err := tree.DecodeDocument(yaml.NewDecoder(strings.NewReader(text))); err == nil {
		return value
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
}

func FuzzSkaffold(f *testing.F) {
	for i, name := range []string{"everything", "platform", "v2"} {
		text := []byte(read(f, "testdata/"+name+".skaffold.yaml"))
		f.Add(text, "", uint(i), "")
		for i, value := range []string{"", "{{.IMAGE_TAG}}@{{.IMAGE_DIGEST}}", "{a,{{.IMAGE_TAG}}}", "a,b=c",
			"{ a: { b: [1.0, {}] }, c.d: ~ }", "[[]]", "{", "1e3", "~", "2024-01-02", " a\n b\t\n", "a{{{b"} {
			f.Add(text, "", uint(17*i), value)
		}
	}
	for i, c := range wrongSkaffold {
		f.Add([]byte(c.text), strings.Join(c.profiles, ","), uint(i), "x")
	}
	f.Add([]byte(skaffoldHead+".x: &x { image: worker, docker: &d { dockerfile: Dockerfile.worker } }\n"+
		"build: { artifacts: [*x, { <<: *x, image: 8, docker: { <<: *d, target: 08 } }] }\n"), "", uint(3), "")
	two := head("one") + "requires: [{ configs: [two], activeProfiles: [{ name: p }] }, { path: module }]\n---\n" +
		head("two") +
		"build: { artifacts: [{ image: worker, docker: { dockerfile: Dockerfile.worker } }] }\n" +
		"deploy: { kubeContext: a, statusCheckDeadlineSeconds: 5, helm: { releases: [{ name: r, chartPath: chart.tgz, " +
		"namespace: n }] } }\nprofiles: [{ name: p, activation: [{ env: A=b }, { command: '!run' }] }]\n"
	for i, value := range []string{"", "two", "one", "module", "../x", "[two]", "{ path: . }"} {
		f.Add([]byte(two), "", uint(i+2), value)
		f.Add([]byte(two+"requires: [{ configs: [one] }]\n"), "p,-p", uint(i+2), value)
	}
	dir := everything(f)
	f.Fuzz(func(t *testing.T, text []byte, profile string, leaf uint, value string) {
		r := &tree.Report{}
		documents := r.ParseAll(&tree.Origin{Name: "skaffold.yaml"}, text)
		if len(r.Problems) > 0 {
			return
		}
		root := documents[0]
		if v := root.Get("apiVersion"); v == nil || !strings.HasPrefix(v.Value, "skaffold/") {
			return
		}
		// Most changes of the text are no YAML.
		if all := leaves(root); value != "" && utf8.ValidString(value) && len(all) > 0 {
			at := all[leaf%uint(len(all))]
			if other := r.Build(root.Origin, parsed(value), at.Path); other != nil {
				root = replaced(root, at, other)
				documents[0] = root
			}
		}
		var profiles []string
		if profile != "" {
			profiles = strings.Split(profile, ",")
		}
		c, err := convertAll(documents, dir, profiles...)
		if e := (*tree.Error)(nil); errors.As(err, &e) {
			if strings.Count(e.Error(), "\n") != len(e.Problems)-1 {
				t.Errorf("not one line each: %v", e)
			}
			return
		}
		if strings.Count(reported(c, nil), "\n") != max(len(c.Notes)-1, 0) {
			t.Errorf("not one line each: %v", reported(c, nil))
		}
		checkText(t, c)
		if all := leaves(root); profile == "" && len(all) > 0 && len(documents) == 1 {
			checkLeaf(t, root, all[leaf%uint(len(all))], dir)
		}
	})
}
