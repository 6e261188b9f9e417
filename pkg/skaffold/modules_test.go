package skaffold

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
)

// head is the beginning of a configuration with this name.
func head(name string) string {
	return fmt.Sprintf("apiVersion: skaffold/v4beta11\nkind: Config\nmetadata: { name: %s }\n", name)
}

// helm is a configuration with one release that is called like it, and these others keys.
func helm(name, keys string) string {
	return head(name) + "deploy: { helm: { releases: [{ name: " + name + ", chartPath: chart, namespace: n" + keys +
		" }] } }\n"
}

// repository makes a folder with these files, beside a chart and a Dockerfile in some folders, and
// makes it the current one.
func repository(t testing.TB, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Chdir(dir)
	for _, folder := range []string{".", "a", "b", "c", "sub"} {
		placeFile(t, filepath.Join(folder, "chart", "Chart.yaml"), "apiVersion: v2\nname: c\nversion: 1.0.0\n")
		placeFile(t, filepath.Join(folder, "Dockerfile"), "FROM scratch\n")
		placeFile(t, filepath.Join(folder, "values.yaml"), "a: 1\n")
	}
	for name, text := range files {
		placeFile(t, name, text)
	}
	return dir
}

// loadWith reads the skaffold.yaml here.
func loadWith(o Options, profiles ...string) (*config.Config, error) {
	return config.Load(config.Source{Files: []string{"skaffold.yaml"}, Profiles: profiles, Translate: o.Translate})
}

// releases are the names of the releases and their charts.
func releases(c *config.Config) string {
	if c == nil {
		return ""
	}
	var list []string
	for _, r := range c.Releases {
		list = append(list, r.Name+" "+r.Chart)
	}
	return strings.Join(list, ", ")
}

func TestModules(t *testing.T) {
	for _, test := range []struct {
		name    string
		files   map[string]string
		modules []string
		want    string // the releases, in their order
		says    string // what is reported
	}{
		{name: "a folder, a file, and a diamond", files: map[string]string{
			"skaffold.yaml":   head("all") + "requires: [{ path: a }, { path: b/other.yaml }]\n",
			"a/skaffold.yaml": helm("a", "") + "requires: [{ path: ../c }]\n",
			"b/other.yaml":    helm("b", "") + "requires: [{ path: ../c/skaffold.yaml }]\n",
			"c/skaffold.yaml": helm("c", ""),
		}, want: "c c/chart, a a/chart, b b/chart"},
		{name: "a cycle", files: map[string]string{
			"skaffold.yaml":   helm("all", "") + "requires: [{ path: a }]\n",
			"a/skaffold.yaml": helm("a", "") + "requires: [{ path: ../skaffold.yaml }]\n",
		}, want: "a a/chart, all chart"},
		{name: "itself", files: map[string]string{"skaffold.yaml": helm("all", "") + "requires: [{}, { path: . }]\n"},
			want: "all chart"},
		{name: "several documents", files: map[string]string{
			"skaffold.yaml": helm("one", "") + "requires: [{ configs: [two] }]\n---\n" + helm("two", "") + "---\n---\n" +
				helm("three", "") + "---\n"}, want: "two chart, one chart, three chart"},
		{name: "some of a file", files: map[string]string{
			"skaffold.yaml":   head("all") + "requires: [{ path: a, configs: [y] }]\n",
			"a/skaffold.yaml": helm("x", "") + "---\n" + helm("y", "") + "requires: [{ configs: [z] }]\n---\n" + helm("z", "")},
			want: "z a/chart, y a/chart"},
		{name: "-m", files: map[string]string{
			"skaffold.yaml":   helm("all", "") + "requires: [{ path: a }, { path: b }]\n---\n" + helm("extra", ""),
			"a/skaffold.yaml": helm("a", "") + "requires: [{ path: ../c }]\n",
			"b/skaffold.yaml": helm("b", ""), "c/skaffold.yaml": helm("c", ""),
		}, modules: []string{"extra", "a"}, want: "c c/chart, a a/chart, extra chart"},
		{name: "-m for what is not there", files: map[string]string{
			"skaffold.yaml": head("all") + "requires: [{ git: { repo: https://git.example/x } }]\n---\n" + helm("web", "")},
			modules: []string{"wab", "web"}, says: "skaffold.yaml: there is no configuration \"wab\" (there are all, web); " +
				"did you mean \"web\"?; those that are in other repositories are not read"},
		{name: "elsewhere", files: map[string]string{
			"skaffold.yaml": helm("all", "") + "requires:\n- git: { repo: https://git.example/x }\n" +
				"- path: https://example.com/skaffold.yaml\n"}, want: "all chart",
			says: `skaffold.yaml:6:3: requires[0]: what is not on this machine is not read: what these configurations ` +
				`build and deploy is missing; download them, and name their folder by path
skaffold.yaml:7:3: requires[1]: what is not on this machine is not read: what these configurations ` +
				`build and deploy is missing; download them, and name their folder by path`},
		{name: "missing", files: map[string]string{
			"skaffold.yaml":   head("all") + "requires:\n- path: d\n- path: a\n- path: b\n  configs: [bb, bbb]\n",
			"b/skaffold.yaml": helm("bbbb", "")},
			says: `skaffold.yaml:5:9: requires[0].path: there is no file "d"; did you mean "a"?
skaffold.yaml:6:9: requires[1].path: there is no file "a/skaffold.yaml"
skaffold.yaml:8:13: requires[2].configs[0]: b/skaffold.yaml has no configuration "bb"
skaffold.yaml:8:17: requires[2].configs[1]: b/skaffold.yaml has no configuration "bbb"; did you mean "bbbb"?`},
		{name: "what is no module", files: map[string]string{
			"skaffold.yaml": head("all") + "requires: [{ path: a }, { path: b }, { path: c }, { path: sub }, { path: [x] }, " +
				"{ paths: a }]\n",
			"a/skaffold.yaml": "apiVersion: skaffold/v1beta2\nkind: Config\n",
			"b/skaffold.yaml": "[]\n",
			"c/skaffold.yaml": "a: b: c\n", "sub/skaffold.yaml": head("s") + "---\nkind: Config\n"},
			says: `a/skaffold.yaml:1:13: apiVersion: this devloop reads "devloop/v1", and skaffold/v2alpha1 to ` +
				`skaffold/v4beta13, not "skaffold/v1beta2"; skaffold fix --overwrite -f a/skaffold.yaml writes a newer one
b/skaffold.yaml:1:1: must be a mapping, but is a list
c/skaffold.yaml:1: mapping values are not allowed in this context (a text with ": " in it needs quotes)
skaffold.yaml:4:74: requires[4].path: must be a single value, but is a list
sub/skaffold.yaml:5:1: "apiVersion" is missing: a skaffold.yaml has one in each of its documents`},
		{name: "names twice", files: map[string]string{
			"skaffold.yaml": helm("all", "") + "build: { artifacts: [{ image: i }] }\nrequires: [{ path: a }]\n",
			"a/skaffold.yaml": strings.Replace(helm("a", ""), "name: a,", "name: all,", 1) +
				"build: { artifacts: [{ image: i }] }\n"},
			says: `skaffold.yaml:4:38: deploy.helm.releases[0].name: all is taken already, on line 4 of a/skaffold.yaml
skaffold.yaml:5:31: build.artifacts[0].image: i is taken already, on line 5 of a/skaffold.yaml`},
		{name: "profiles that are not there", files: map[string]string{
			"skaffold.yaml": head("all") + "requires: [{ path: a, activeProfiles: [{ name: p }, { name: q, activatedBy: " +
				"[r] }] }]\n",
			"a/skaffold.yaml": helm("a", "") + "profiles: [{ name: q }]\n"}, want: "a a/chart",
			says: `skaffold.yaml:4:42: requires[0].activeProfiles[0].name: nothing that is required here has this profile: ` +
				`ignored
skaffold.yaml:4:78: requires[0].activeProfiles[1].activatedBy[0]: there is no such profile here: ignored`},
		{name: "one name in two files", files: map[string]string{
			"skaffold.yaml": head("a") + "requires: [{ path: a }]\n", "a/skaffold.yaml": helm("a", "")},
			says: `a/skaffold.yaml:3:19: metadata.name: the name a is taken already, on line 3 of skaffold.yaml`},
		{name: "two kube contexts", files: map[string]string{
			"skaffold.yaml":   head("all") + "deploy: { kubeContext: one }\nrequires: [{ path: a }, { path: b }]\n",
			"a/skaffold.yaml": head("a") + "deploy: { kubeContext: two }\n",
			"b/skaffold.yaml": head("b") + "deploy: { kubeContext: two }\n"},
			says: `skaffold.yaml:4:24: deploy.kubeContext: "one" here, and "two" on line 4 of b/skaffold.yaml: ` +
				`a project has one`},
	} {
		t.Run(test.name, func(t *testing.T) {
			repository(t, test.files)
			c, err := loadWith(Options{Modules: test.modules})
			if c != nil { // said of each configuration
				c.Notes = slices.DeleteFunc(c.Notes, func(n tree.Note) bool { return n.Harmless })
			}
			if got := releases(c); got != test.want {
				t.Errorf("the releases are %q", got)
			}
			if got := reported(c, err); got != test.says {
				t.Errorf("reported:\n%s\nwant:\n%s", got, test.says)
			}
		})
	}
}

// TestPathsOfModules holds that paths of the main file count from the current folder, and those of
// modules from their own, also in the devloop.yaml that is written here.
func TestPathsOfModules(t *testing.T) {
	const everyPath = "build: { artifacts: [{ image: I, docker: { secrets: [{ id: s, src: values.yaml }] } }, { image: " +
		"J, context: chart, docker: { dockerfile: Dockerfile } }] }\n"
	module := func(name string) string {
		return strings.Replace(helm(name, ", valuesFiles: [values.yaml], setFiles: { f: values.yaml }"), "helm: {",
			"helm: { hooks: { before: [{ host: { command: [ls], dir: chart } }] },", 1) +
			"manifests: { rawYaml: [values.yaml], kustomize: { paths: [chart] } }\n" +
			strings.NewReplacer("I", "i-"+name, "J", "j-"+name).Replace(everyPath)
	}
	dir := repository(t, map[string]string{"sub/skaffold.yaml": module("sub") + "requires: [{ path: ../a }]\n",
		"a/skaffold.yaml": module("a"), "skaffold.env": "A=1\n", "sub/skaffold.env": "nothing\n"})
	file := filepath.Join("sub", "skaffold.yaml")
	for _, test := range []struct{ folder, main, a string }{{".", "", "a/"}, {"sub", "", "../a/"}, {"b", "", "../a/"}} {
		here := filepath.Join(dir, test.folder)
		t.Chdir(here)
		name, err := filepath.Rel(here, filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.Source{Files: []string{name}, Translate: Options{Dir: here}.Translate})
		if err != nil {
			t.Fatalf("%s: %v", test.folder, err)
		}
		if c.Dir != here || c.Name != "sub" {
			t.Errorf("%s: %s, paths relative to %s", test.folder, c.Name, c.Dir)
		}
		for i, folder := range []string{test.a, test.main} {
			if got := c.Hooks.Before[i].Command[3]; got != folder+"chart" {
				t.Errorf("%s: the hook runs in %q", test.folder, got)
			}
			release, image, other := c.Releases[i], c.Images[2*i], c.Images[2*i+1]
			got := []string{release.Chart, release.Values[0], image.Dockerfile, image.Secrets[0].File, other.Context,
				other.Dockerfile}
			want := []string{folder + "chart", folder + "values.yaml", folder + "Dockerfile", folder + "values.yaml",
				folder + "chart", folder + "Dockerfile"}
			if !slices.Equal(got, want) || release.SetString["f"] != "a: 1\n" {
				t.Errorf("%s: got %q, want %q", test.folder, got, want)
			}
		}
		for _, name := range []string{filepath.Join(dir, "a", "skaffold.yaml"), filepath.Join(here, envFile)} {
			if !slices.Contains(c.Files(), name) {
				t.Errorf("%s: %s is not watched: %q", test.folder, name, c.Files())
			}
		}
		checkText(t, c)
	}
}

// TestWrongModulesAreWatched holds that an error passes once the module is there, or right.
func TestWrongModulesAreWatched(t *testing.T) {
	dir := repository(t, map[string]string{"skaffold.yaml": head("x") + "requires: [{ path: a }, { path: b }]\n",
		"b/skaffold.yaml": "{"})
	_, err := loadWith(Options{})
	var e *tree.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	files := e.Files()
	for _, name := range []string{"a/skaffold.yaml", "b/skaffold.yaml"} {
		if !slices.Contains(files, filepath.Join(dir, name)) {
			t.Errorf("%s is not among %q", name, files)
		}
	}
}

func TestImagesOfOtherModules(t *testing.T) {
	repository(t, map[string]string{
		"skaffold.yaml": helm("all", `, setValueTemplates: { a: "{{.IMAGE_TAG_a}}", b: "{{.IMAGE_REPO2}}" }`) +
			"build: { artifacts: [{ image: b }] }\nrequires: [{ path: a }]\n",
		"a/skaffold.yaml": helm("a", `, setValueTemplates: { b: "{{.IMAGE_TAG_b}}" }`) +
			"build: { artifacts: [{ image: a }] }\n"})
	c, err := loadWith(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a, all := c.Releases[0].Set, c.Releases[1].Set; a["b"] != `{{ tag "b" }}` || all["a"] != `{{ tag "a" }}` ||
		all["b"] != `{{ repository "b" }}` {
		t.Errorf("the values are %v and %v", a, all)
	}
}

// TestReleasesOfModules holds that a release waits for those that its configuration requires, and
// that two folders of one name make two releases.
// An image may be built from one of a configuration that comes later.
func TestImagesFromThoseOfOtherModules(t *testing.T) {
	repository(t, map[string]string{
		"skaffold.yaml": head("all") + "requires: [{ path: a }, { path: b }]\n",
		"a/skaffold.yaml": helm("a", "") +
			"build: { artifacts: [{ image: web, requires: [{ image: base, alias: BASE }] }] }\n",
		"a/Dockerfile":    "ARG BASE\nFROM $BASE\n",
		"b/skaffold.yaml": helm("b", "") + "build: { artifacts: [{ image: base }] }\n",
	})
	c, err := loadWith(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range c.Images {
		if got := image.Args["BASE"]; image.Name == "web" && got != `{{ image "base" }}` {
			t.Errorf("BASE is %q", got)
		}
	}
}

func TestReleasesOfModules(t *testing.T) {
	const manifests = "apiVersion: skaffold/v4beta11\nkind: Config\nmanifests: { rawYaml: [k.yaml] }\n" +
		"deploy: { kubectl: {} }\n"
	repository(t, map[string]string{
		"skaffold.yaml":   helm("web", ", dependsOn: [x]") + "requires: [{ path: a }, { path: sub/a }]\n",
		"a/skaffold.yaml": manifests + "requires: [{ path: ../b }, { path: .. }]\n", "a/k.yaml": "{}",
		"sub/a/skaffold.yaml": manifests, "sub/a/k.yaml": "{}", "b/skaffold.yaml": helm("x", "")})
	c, err := loadWith(Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.Releases {
		got = append(got, fmt.Sprint(r.Name, r.Manifests, r.DependsOn))
	}
	want := []string{"x[] []", "a[a/k.yaml] [x]", "a-manifests[sub/a/k.yaml] []", "web[] [x a a-manifests]"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProjectOfModules(t *testing.T) {
	repository(t, map[string]string{
		"skaffold.yaml": head("all") + "deploy: { statusCheckDeadlineSeconds: 90, helm: {} }\nrequires: [{ path: a }]\n" +
			"portForward: [{ resourceType: service, resourceName: s, port: 80, localPort: 8000, namespace: n }]\n",
		"a/skaffold.yaml": head("a") + "deploy: { statusCheckDeadlineSeconds: 300, kubeContext: kind, helm: { releases: " +
			"[{ name: r, chartPath: r.tgz, " +
			"namespace: n }] } }\n" +
			"portForward: [{ resourceType: service, resourceName: a, port: 80, localPort: 8001, namespace: n }]\n",
		"a/r.tgz": ""})
	for _, modules := range [][]string{nil, {"a"}} {
		c, err := loadWith(Options{Modules: modules})
		if err != nil {
			t.Fatal(err)
		}
		if c.Name != "all" || c.KubeContext != "kind" || c.Timeouts.Rollout != 5*time.Minute ||
			len(c.Forwards) != 2-len(modules) || c.Forwards[0].Service != "a" {
			t.Errorf("-m %s: %+v", modules, c)
		}
	}
	t.Setenv("SKAFFOLD_KUBE_CONTEXT", "other")
	if c, err := loadWith(Options{}); err != nil || c.KubeContext != "other" {
		t.Errorf("%v, %v", c, err)
	}
}

// activated is a project of which each profile adds a release that is called like it.
func activated(t testing.TB, profiles string) {
	profile := func(name, keys string) string {
		return "- { name: " + name + ", " + keys + "patches: [{ op: add, path: /deploy/helm/releases/-, value: { name: " +
			name + "-CONFIG, chartPath: chart, namespace: n } }] }\n"
	}
	text := "deploy: { helm: { releases: [] } }\nprofiles:\n"
	for _, line := range strings.Split(profiles, "\n") {
		name, keys, _ := strings.Cut(line, " ")
		text += profile(name, keys)
	}
	repository(t, map[string]string{
		"skaffold.yaml": head("x") + "requires: [{ path: a, activeProfiles: [{ name: q, activatedBy: [p, other] }, { name: " +
			"always }] }]\n" + strings.ReplaceAll(text, "CONFIG", "x"),
		"a/skaffold.yaml": head("a") + strings.ReplaceAll(text, "CONFIG", "a")})
}

func TestProfilesOfModules(t *testing.T) {
	for _, test := range []struct {
		profiles []string
		off      string // a variable that is false
		want     string
	}{
		{nil, "", "always-a"},
		{[]string{"p"}, "", "q-a, always-a, p-a, p-x"},
		{[]string{"q"}, "", "always-a, q-a, q-x"},
		{[]string{"p", "-p"}, "", "always-a"},
		{[]string{"p"}, "SKAFFOLD_PROPAGATE_PROFILES", "q-a, always-a, p-x"},
	} {
		activated(t, "p \nq \nalways ")
		if test.off != "" {
			t.Setenv(test.off, "false")
		}
		c, err := loadWith(Options{}, test.profiles...)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.ReplaceAll(releases(c)+",", " chart,", ",")
		if strings.ReplaceAll(got, " a/chart", "") != test.want+"," {
			t.Errorf("%q: %q, want %q", test.profiles, got, test.want)
		}
	}
	if _, err := loadWith(Options{}, "-z"); err == nil || !strings.Contains(err.Error(), `no profile "z"`) {
		t.Error(err)
	}
}

func TestProfilesInTwoWays(t *testing.T) {
	repository(t, map[string]string{
		"skaffold.yaml":   head("x") + "requires: [{ path: a, activeProfiles: [{ name: p }] }, { path: b }]\n",
		"b/skaffold.yaml": head("b") + "requires: [{ path: ../a }]\n",
		"a/skaffold.yaml": head("a") + "profiles: [{ name: p }]\n"})
	_, err := loadWith(Options{})
	if want := "b/skaffold.yaml:4:12: requires[0]: requires a with no profile, and it is required with the profiles p " +
		"elsewhere: it is taken once"; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}

func TestActivation(t *testing.T) {
	dev := Options{CurrentContext: "minikube"}
	for _, test := range []struct {
		activation string
		options    Options
		want       bool
	}{
		{"activation: [{ command: dev }], ", dev, true},
		{"activation: [{ command: run }], ", dev, false},
		{"activation: [{ command: run }], ", Options{Command: "run"}, true},
		{"activation: [{ command: '!dev' }], ", dev, false},
		{"activation: [{ command: 'dev|run' }], ", dev, true},
		{"activation: [{ env: ACTIVE=yes }], ", dev, true},
		{"activation: [{ env: ACTIVE=y.s$ }], ", dev, true},
		{"activation: [{ env: ACTIVE=!yes }], ", dev, false},
		{"activation: [{ env: ACTIVE=!no }], ", dev, true},
		{"activation: [{ env: ACTIVE= }], ", dev, false},
		{"activation: [{ env: NOT_THERE= }], ", dev, true},
		{"activation: [{ env: NOT_THERE=!x }], ", dev, true},
		{"activation: [{ env: IN_FILE=a=b }], ", dev, true},
		{"activation: [{ env: 'ACTIVE=(' }], ", dev, false},
		{"activation: [{ kubeContext: mini }], ", dev, true},
		{"activation: [{ kubeContext: kind }], ", dev, false},
		{"activation: [{ kubeContext: kind }], ", Options{KubeContext: "kind-x", CurrentContext: "minikube"}, true},
		{"activation: [{ command: dev, kubeContext: kind }], ", dev, false},
		{"activation: [{ command: run }, { kubeContext: mini }], ", dev, true},
		{"activation: [{ command: run }, { kubeContext: mini }], requiresAllActivations: true, ", dev, false},
		{"activation: [{ command: dev }, { kubeContext: mini }], requiresAllActivations: true, ", dev, true},
		{"activation: [], requiresAllActivations: true, ", dev, false},
		{"activation: [{}], ", dev, true},
	} {
		activated(t, "p "+test.activation+"\nr activation: [{}], ")
		t.Setenv("ACTIVE", "yes")
		write(t, envFile, "IN_FILE=a=b\n")
		for _, off := range []string{"", "-p"} {
			c, err := loadWith(test.options, strings.Fields(off)...)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(releases(c), "p-x"); got != (test.want && off == "") {
				t.Errorf("%s, %+v, %q: active is %t", test.activation, test.options, off, got)
			}
		}
	}
}

// TestActivationIsShared holds that a profile that applies by itself does so in other layers, too.
func TestActivationIsShared(t *testing.T) {
	activated(t, "p activation: [{ command: dev }], ")
	write(t, "mine.yaml", "profiles: { p: { keepImages: 7 } }\n")
	c, err := config.Load(config.Source{Files: []string{"skaffold.yaml", "mine.yaml"}, Translate: Translate})
	if err != nil || c.KeepImages != 7 {
		t.Errorf("%v, %v", c, err)
	}
	want := "skaffold.yaml:7:26: profiles[0].activation: the profile applies by itself: -p -p switches it off"
	if !strings.Contains(reported(c, nil), want) {
		t.Error(reported(c, nil))
	}
}

func TestWrongActivation(t *testing.T) {
	repository(t, map[string]string{"skaffold.yaml": helm("x", "") + "profiles:\n" +
		"- { name: p, activation: [{ kubeContext: minikube, nothing: 1 }], deploy: { kubeContext: other } }\n" +
		"- { name: q, activation: [{ env: A }] }\n"})
	_, err := loadWith(Options{CurrentContext: "minikube"})
	if want := `skaffold.yaml:6:11: profiles[0].name: applies because of the kube context "minikube", but ` +
		`deploy.kubeContext is "other": choose the context by --kube-context
skaffold.yaml:7:34: profiles[1].activation[0].env: must be NAME=pattern, but is text "A"`; reported(nil, err) != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestVariablesForFlags(t *testing.T) {
	activated(t, "p \nq \nother \nalways ")
	t.Setenv("SKAFFOLD_DEFAULT_REPO", "registry.example/team")
	t.Setenv("SKAFFOLD_UPDATE_CHECK", "false")
	write(t, envFile, "SKAFFOLD_PROFILE=p,q\nSKAFFOLD_MODULE=a\nSKAFFOLD_TAG=v1\n")
	c, err := loadWith(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := releases(c), "q-a a/chart, always-a a/chart, p-a a/chart"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	c.Notes = slices.DeleteFunc(c.Notes, func(n tree.Note) bool { return n.Harmless })
	if want := `skaffold.env:3: SKAFFOLD_TAG is a flag of skaffold: without it
the environment: SKAFFOLD_DEFAULT_REPO is a flag of skaffold: images are not called after registry.example/team: ` +
		`the nodes get them from devloop, and --set push=REGISTRY pushes them`; reported(c, nil) != want {
		t.Errorf("reported:\n%s", reported(c, nil))
	}
	if c, err = loadWith(Options{}, "q"); err != nil || strings.Contains(releases(c), "p-") {
		t.Errorf("-p q: %s, %v", releases(c), err)
	}
}

// TestManyModules holds that a project cannot make devloop read without end.
func TestManyModules(t *testing.T) {
	files := map[string]string{"skaffold.yaml": head("x") + "requires:\n"}
	for i := range maxFiles + 1 {
		files["skaffold.yaml"] += fmt.Sprintf("- path: m/%d.yaml\n", i)
		files[fmt.Sprintf("m/%d.yaml", i)] = "apiVersion: skaffold/v4beta11\nkind: Config\nrequires: [{ path: 0.yaml }]\n"
	}
	repository(t, files)
	_, err := loadInTime(t, config.Source{Files: []string{"skaffold.yaml"}, Translate: Translate})
	if err == nil || !strings.HasPrefix(err.Error(),
		"skaffold.yaml:204:3: requires[199]: the project's configurations are in more than 200 files") {
		t.Error(err)
	}
	write(t, "skaffold.yaml", head("x")+"requires:\n"+strings.Repeat("- {}\n", 100_000))
	_, err = loadInTime(t, config.Source{Files: []string{"skaffold.yaml"}, Translate: Translate})
	if err == nil || !strings.Contains(err.Error(), "requires[2000]: more than 2000 configurations are required") {
		t.Error(err)
	}
	write(t, "skaffold.yaml", strings.Repeat("kind: Config\n---\n", 200))
	_, err = loadInTime(t, config.Source{Files: []string{"skaffold.yaml"}, Translate: Translate})
	if err == nil || !strings.Contains(err.Error(), "the file has more than 100 YAML documents") {
		t.Error(err)
	}
}

// Modules that were chosen are a part: the releases of the others are known, and stay.
func TestChosenModulesAreAPart(t *testing.T) {
	files := map[string]string{
		"skaffold.yaml":   head("shop") + "requires: [{ path: a }, { path: b }]\n",
		"a/skaffold.yaml": helm("a", "") + "requires: [{ path: ../c }]\n",
		"b/skaffold.yaml": helm("b", "") + "requires: [{ path: ../c }]\n",
		"c/skaffold.yaml": helm("c", ""),
	}
	for _, test := range []struct {
		modules, only      []string
		variable           string
		part, list, others string
		needsNarrowing     bool
	}{
		{nil, nil, "", "", "c, a, b", "", false},
		{[]string{"shop"}, nil, "", "", "c, a, b", "", false},
		{[]string{"a"}, nil, "", "c, a", "c, a", "b", false},
		{nil, nil, "a", "c, a", "c, a", "b", false},
		{[]string{"c"}, nil, "", "c", "c", "a, b", false},
		{[]string{"a"}, []string{"c"}, "", "c", "c", "a, b", true},
	} {
		repository(t, files)
		t.Setenv("SKAFFOLD_MODULE", test.variable)
		c, err := config.Load(config.Source{Files: []string{"skaffold.yaml"}, Only: test.only,
			Translate: Options{Modules: test.modules}.Translate})
		if err != nil {
			t.Fatal(err)
		}
		others := &config.Config{Releases: c.Others}
		part, list, left := strings.Join(c.Part, ", "), strings.Join(c.ReleaseNames(), ", "),
			strings.Join(others.ReleaseNames(), ", ")
		if part != test.part || list != test.list || left != test.others || c.NeedsNarrowing() != test.needsNarrowing {
			t.Errorf("%v: part %q, releases %q, others %q, %v", test, part, list, left, c.NeedsNarrowing())
		}
	}

	files["b/skaffold.yaml"] = helm("b", ", nonsense: {}") + "build: { artifacts: [{ image: x, context: nowhere }] }\n"
	repository(t, files)
	c, err := loadWith(Options{Modules: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Part == nil || c.Others != nil {
		t.Errorf("beside a module that is wrong: part %v, others %v", c.Part, c.Others)
	}
}
