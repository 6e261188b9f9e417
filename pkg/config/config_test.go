package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/config/tree"
)

// platform is the file for the Dask Gateway platform.
const platformFile = `apiVersion: devloop/v1
name: dask-gateway
images:
  worker:     { dockerfile: Dockerfile.worker }
  daskclient: { dockerfile: Dockerfile.client }
releases:
  - name: dask-gateway
    chart: https://helm.dask.org/dask-gateway-2024.1.0.tgz
    namespace: dask-gateway
    createNamespace: true
    values: [deploy/dask-gateway/values.yaml]
    set:
      gateway.backend.image.name: '{{ repository "worker" }}'
      gateway.backend.image.tag: '{{ tag "worker" }}'
      traefik.service.type: ClusterIP
  - name: dask-session
    chart: deploy/dask-session
    namespace: dask-gateway
    set:
      dask.image: '{{ image "daskclient" }}'
      dask.workerImage: '{{ image "worker" }}'
      dask.gatewayURL: http://traefik-dask-gateway.dask-gateway.svc.cluster.local:80
health:
  - { deployment: 'app.kubernetes.io/name=dask-gateway', namespace: dask-gateway }
cleanup:
  before: [daskclusters.gateway.dask.org]
forwards:
  - { service: traefik-dask-gateway, namespace: dask-gateway, port: 80, local: 8001, ready: /api/health }
`

// project makes the files that platformFile names, and some more.
func project(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{
		"Dockerfile.worker", "Dockerfile.client", "sub/Dockerfile", "values.yaml", "chart.tgz",
		"deploy/dask-gateway/values.yaml", "deploy/dask-session/Chart.yaml",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load writes text as devloop.yaml into dir, and loads it there.
func load(t testing.TB, dir, text string) (*Config, error) {
	t.Helper()
	t.Chdir(dir)
	write(t, FileName, text)
	return Load(Source{})
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// said returns a configuration without what it remembers of its files.
func said(c *Config) *Config {
	plain := *c
	plain.files, plain.root, plain.variables = nil, nil, nil
	return &plain
}

func TestPlatform(t *testing.T) {
	dir := project(t)
	got, err := load(t, dir, platformFile)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Path: filepath.Join(dir, FileName), Dir: dir, Name: "dask-gateway",
		Images: []Image{
			{Name: "worker", Dockerfile: "Dockerfile.worker", Context: ".", Rollout: "later"},
			{Name: "daskclient", Dockerfile: "Dockerfile.client", Context: ".", Rollout: "later"},
		},
		BuildIn: "auto", KeepImages: 3,
		Releases: []Release{{
			Name: "dask-gateway", Chart: "https://helm.dask.org/dask-gateway-2024.1.0.tgz", Namespace: "dask-gateway",
			CreateNamespace: true, Values: []string{"deploy/dask-gateway/values.yaml"}, OnFailure: "keep",
			Set: map[string]any{
				"gateway.backend.image.name": `{{ repository "worker" }}`,
				"gateway.backend.image.tag":  `{{ tag "worker" }}`,
				"traefik.service.type":       "ClusterIP",
			},
		}, {
			Name: "dask-session", Chart: "deploy/dask-session", Namespace: "dask-gateway", OnFailure: "keep",
			Set: map[string]any{
				"dask.image":       `{{ image "daskclient" }}`,
				"dask.workerImage": `{{ image "worker" }}`,
				"dask.gatewayURL":  "http://traefik-dask-gateway.dask-gateway.svc.cluster.local:80",
			},
		}},
		Health:  []Health{{Deployment: "app.kubernetes.io/name=dask-gateway", Namespace: "dask-gateway"}},
		Cleanup: Cleanup{Before: []string{"daskclusters.gateway.dask.org"}},
		Forwards: []Forward{{Service: "traefik-dask-gateway", Namespace: "dask-gateway", Port: "80", Local: 8001,
			Bind: "localhost", Ready: "/api/health", Hold: 30 * time.Second}},
		Timeouts: Timeouts{Rollout: 5 * time.Minute},
		Watch:    Watch{Quiet: 100 * time.Millisecond, Limit: time.Second},
		Local:    Local{Requirements: "requirements.txt"},
	}
	if !reflect.DeepEqual(said(got), want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	files := []string{filepath.Join(dir, FileName), filepath.Join(dir, "deploy/dask-gateway/values.yaml")}
	if !reflect.DeepEqual(got.Files(), files) {
		t.Errorf("Files() = %q, want %q", got.Files(), files)
	}
	if got.Releases[0].ChartIsLocal() || !got.Releases[1].ChartIsLocal() {
		t.Error("the first chart is a URL, the second one is local")
	}
}

func TestEveryKey(t *testing.T) {
	got, err := load(t, project(t), `apiVersion: devloop/v1
name: &name all
kubeContext: minikube
allowContexts: [staging]
images:
  plain: { context: sub }
  full: &full
    context: sub
    dockerfile: sub/Dockerfile
    target: final
    args: { PYTHON: 3.10, DEBUG: true }
    platform: linux/arm64
    secrets: { pip.conf: { file: ~/pip.conf }, token: { env: TOKEN } }
    ssh: [default, deploy=~/.ssh/id]
    sync:
      - { from: "src/**/*.py", to: /app/src, then: restart }
      - { from: ./conf/, to: etc, then: nothing }
      - { from: static, then: [kill, -HUP, "1"] }
      - { from: ., then: [] }
    rollout: now
  copy: { <<: [*full], target: first }
releases:
  - { name: a, chart: chart.tgz, namespace: *name, sha256: `+strings.Repeat("ab", 32)+` }
  - name: b
    chart: demo
    repo: https://charts.example.com/stable
    version: ^1.2
    namespace: n
    dependsOn: [c, a]
    inlineValues:
      map: &map { 8080: web, True: y, 0x1F: z, a.b: ~, "8": text }
      list: [1, -1.5, 9007199254740993, 18446744073709551615, true, text, 2024-01-02, [], {}, ]
      merged: { <<: *map, a.b: false }
    setString: { a.b: 1.10, c: true, d: , 'e\.f': 2024-01-02, g: "" }
    hooks:
      before: [{ command: [make, test] }]
      after:
      - { command: [a], timeout: 1.5s }
      - { command: [b], timeout: }
    onFailure: rollback
  - { name: c, chart: "oci://localhost:5000/charts/demo:1.2", namespace: n, hooks: }
forwards:
  - { service: s, namespace: n, port: 80, local: 8001, hold: 1m }
  - { deployment: d.e, namespace: n, port: http, local: 0, bind: 0.0.0.0 }
  - { statefulset: db, namespace: n, port: "5432", local: 5432, bind: "::", ready: / }
  - { pod: p-0, namespace: n, port: 0x50, local: 0, hold: 0 }
  - { selector: "a=b,c in (d, e)", namespace: n, port: 9p-x, local: 8001, bind: 10.0.0.1 }
timeouts: { rollout: 90s }
watch: { quiet: 0.2s, limit: 1m }
verify:
  - { image: full, command: [python, -c, import dask] }
  - { image: plain, args: ["true"], namespace: n, timeout: 10s }
local: { venv: ~/env, sync: true, requirements: values.yaml, images: [plain, copy] }
health:
`)
	if err != nil {
		t.Fatal(err)
	}
	args := map[string]string{"PYTHON": "3.10", "DEBUG": "true"}
	secrets, agents := []Secret{{ID: "pip.conf", File: "~/pip.conf"}, {ID: "token", Env: "TOKEN"}},
		[]string{"default", "deploy=~/.ssh/id"}
	rules := []Sync{{"src/**/*.py", "/app/src", Then{"restart"}}, {"./conf/", "etc", nil},
		{"static", "", Then{"kill", "-HUP", "1"}}, {From: "."}}
	want := &Config{
		Path: got.Path, Dir: got.Dir, Name: "all", KubeContext: "minikube", AllowContexts: []string{"staging"},
		Images: []Image{
			{Name: "plain", Context: "sub", Dockerfile: "sub/Dockerfile", Rollout: "later"},
			{"full", "sub", "sub/Dockerfile", "final", args, "linux/arm64", secrets, agents, nil, rules, "now"},
			{"copy", "sub", "sub/Dockerfile", "first", args, "linux/arm64", secrets, agents, nil, rules, "now"},
		},
		BuildIn: "auto", KeepImages: 3,
		Releases: []Release{
			{Name: "a", Chart: "chart.tgz", Namespace: "all", SHA256: strings.Repeat("ab", 32), OnFailure: "keep"},
			{
				Name: "b", Chart: "demo", Repo: "https://charts.example.com/stable", Version: "^1.2", Namespace: "n",
				DependsOn: []string{"c", "a"},
				InlineValues: map[string]any{
					"map": map[string]any{"8080": "web", "true": true, "31": "z", "a.b": nil, "8": "text"},
					"list": []any{1.0, -1.5, 9007199254740992.0, float64(math.MaxUint64), true, "text", "2024-01-02", []any{},
						map[string]any{}},
					"merged": map[string]any{"8080": "web", "true": true, "31": "z", "a.b": false, "8": "text"},
				},
				SetString: map[string]string{"a.b": "1.10", "c": "true", `e\.f`: "2024-01-02", "g": ""},
				Hooks: Hooks{
					Before: []Hook{{[]string{"make", "test"}, time.Minute}},
					After:  []Hook{{[]string{"a"}, 1500 * time.Millisecond}, {[]string{"b"}, time.Minute}},
				},
				OnFailure: "rollback",
			},
			{Name: "c", Chart: "oci://localhost:5000/charts/demo:1.2", Namespace: "n", OnFailure: "keep"},
		},
		Forwards: []Forward{
			{Service: "s", Namespace: "n", Port: "80", Local: 8001, Bind: "localhost", Hold: time.Minute},
			{Deployment: "d.e", Namespace: "n", Port: "http", Bind: "0.0.0.0", Hold: 30 * time.Second},
			{StatefulSet: "db", Namespace: "n", Port: "5432", Local: 5432, Bind: "::", Ready: "/", Hold: 30 * time.Second},
			{Pod: "p-0", Namespace: "n", Port: "80", Bind: "localhost"},
			{Selector: "a=b,c in (d, e)", Namespace: "n", Port: "9p-x", Local: 8001, Bind: "10.0.0.1", Hold: 30 * time.Second},
		},
		Timeouts: Timeouts{Rollout: 90 * time.Second},
		Watch:    Watch{Quiet: 200 * time.Millisecond, Limit: time.Minute},
		Verify: []Verify{
			{Image: "full", Command: []string{"python", "-c", "import dask"}, Timeout: time.Minute},
			{Image: "plain", Args: []string{"true"}, Namespace: "n", Timeout: 10 * time.Second},
		},
		Local: Local{Venv: "~/env", Sync: true, Requirements: "values.yaml", Images: []string{"plain", "copy"}},
	}
	if !reflect.DeepEqual(said(got), want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.Releases[1].ChartIsLocal() || got.Releases[2].ChartIsLocal() {
		t.Error("a chart of a repository and one of a registry are not local")
	}
	for i, want := range [][2]string{{"service", "s"}, {"deployment", "d.e"}, {"statefulset", "db"}, {"pod", "p-0"},
		{"selector", "a=b,c in (d, e)"}} {
		if kind, name := got.Forwards[i].Target(); kind != want[0] || name != want[1] {
			t.Errorf("forward %d is to %s %q, want %q", i, kind, name, want)
		}
	}
}

// TestLocalAddresses holds which of two forwards with the same local port are in each other's way.
func TestLocalAddresses(t *testing.T) {
	t.Chdir(project(t))
	const (
		localhost = "localhost"
		all       = "0.0.0.0"
		dual      = "'::'"
		four      = "10.0.0.1"
		six       = "fd00::1"
	)
	for _, c := range []struct {
		binds [2]string
		taken bool
	}{
		{[2]string{localhost, localhost}, true},
		{[2]string{localhost, "127.0.0.1"}, true},
		{[2]string{localhost, "'::1'"}, true},
		{[2]string{localhost, "'::ffff:127.0.0.1'"}, true},
		{[2]string{localhost, "127.0.0.2"}, false},
		{[2]string{localhost, four}, false},
		{[2]string{localhost, six}, false},
		{[2]string{localhost, all}, true},
		{[2]string{localhost, dual}, true},
		{[2]string{all, all}, true},
		{[2]string{all, four}, true},
		{[2]string{all, six}, false},
		{[2]string{all, "'::1'"}, false},
		{[2]string{all, dual}, true},
		{[2]string{dual, dual}, true},
		{[2]string{dual, four}, true},
		{[2]string{dual, six}, true},
		{[2]string{four, four}, true},
		{[2]string{four, "10.0.0.2"}, false},
		{[2]string{four, six}, false},
		{[2]string{six, six}, true},
		{[2]string{six, "'FD00:0::1'"}, true},
		{[2]string{six, "fd00::2"}, false},
		{[2]string{"127.0.0.1", "'::1'"}, false},
	} {
		for _, local := range []string{"80", "0"} {
			for range 2 {
				write(t, FileName, "apiVersion: devloop/v1\nname: p\nforwards:\n"+
					"- { service: a, namespace: n, port: 80, local: "+local+", bind: "+c.binds[0]+" }\n"+
					"- { service: b, namespace: n, port: 80, local: "+local+", bind: "+c.binds[1]+" }\n")
				want := ""
				if c.taken && local != "0" {
					want = "devloop.yaml:5:48: forwards[1].local: 80 is taken already, on line 4"
				}
				_, err := Load(Source{})
				if got := fmt.Sprint(err); got != want && (want != "" || err != nil) {
					t.Errorf("%s, port %s: got %s, want %s", c.binds, local, got, want)
				}
				c.binds[0], c.binds[1] = c.binds[1], c.binds[0]
			}
		}
	}
}

// TestPushed names images in a registry: the digest is a part of the reference alone, since labels
// take none.
func TestPushed(t *testing.T) {
	const file = `apiVersion: devloop/v1
name: p
push: %s
images:
  worker: { dockerfile: Dockerfile.worker }
releases:
- { name: r, chart: chart.tgz, namespace: n, set: { all: '{{ image "worker" }}', tag: '{{ tag "worker" }}', ` +
		`repository: '{{ repository "worker" }}' } }
`
	for push, want := range map[string]struct {
		repository string
		plain      bool
	}{
		"registry.example/team":          {"registry.example/team/worker", false},
		"registry.example:5000":          {"registry.example:5000/worker", false},
		"localhost/team/":                {"localhost/team/worker", false},
		"127.0.0.1:5000/team":            {"127.0.0.1:5000/team/worker", false},
		"https://registry.example/a/b_c": {"registry.example/a/b_c/worker", false},
		"http://registry:5000/team":      {"registry:5000/team/worker", true},
	} {
		c, err := load(t, project(t), fmt.Sprintf(file, push))
		if err != nil {
			t.Errorf("%s: %v", push, err)
			continue
		}
		if got := c.Repository("worker"); got != want.repository || c.PushPlain() != want.plain {
			t.Errorf("%s: %s, plain http %t", push, got, c.PushPlain())
		}
		resolved, err := c.Releases[0].Resolve(map[string]string{"worker": want.repository + ":3fa@sha256:cd1"})
		if err != nil {
			t.Fatal(err)
		}
		if set := (SetValues{"all": want.repository + ":3fa@sha256:cd1", "tag": "3fa",
			"repository": want.repository}); !reflect.DeepEqual(resolved.Set, set) {
			t.Errorf("%s: %v", push, resolved.Set)
		}
	}
	for _, push := range []string{"team", "team/images", "ftp://registry.example", "registry.example/Team",
		"user@registry.example/team", "registry.example/team:tag"} {
		if _, err := load(t, project(t), fmt.Sprintf(file, push)); err == nil ||
			!strings.Contains(err.Error(), "devloop.yaml:3:7: push: ") {
			t.Errorf("%s: %v", push, err)
		}
	}
}

func TestResolve(t *testing.T) {
	c, err := load(t, project(t), `apiVersion: devloop/v1
name: p
images:
  team/worker: { dockerfile: Dockerfile.worker }
releases:
- name: r
  chart: chart.tgz
  namespace: n
  set:
    number: 8
    text: "8"
    truth: true
    part: 0.5
    nothing: null
    day: 2024-01-02
    a\.b.c[0]: x
    empty: ""
    all: '{{ image "team/worker" }}'
    repository: '{{repository "team/worker"}}'
    both: 'img={{ repository "team/worker" }} tag={{- tag "team/worker" -}} .'
  setString: { tag: '{{ tag "team/worker" }}', numeral: 8 }
  inlineValues: { deep: [{ image: '{{ image "team/worker" }}' }, 8, ~], text: x }
  hooks:
    before: [{ command: [push, '{{ image "team/worker" }}'] }]
    after: [{ command: [test, 'tag={{ tag "team/worker" }}'] }, { command: [done] }]
`)
	if err != nil {
		t.Fatal(err)
	}
	before := fmt.Sprint(c.Releases)
	got, err := c.Releases[0].Resolve(map[string]string{"team/worker": "localhost:5000/worker:3fa"})
	if err != nil {
		t.Fatal(err)
	}
	if after := fmt.Sprint(c.Releases); after != before {
		t.Errorf("Resolve changed the release from\n%s to\n%s", before, after)
	}
	want := c.Releases[0]
	want.Set = SetValues{
		"number": int64(8), "text": "8", "truth": true, "part": "0.5", "nothing": nil, "day": "2024-01-02", `a\.b.c[0]`: "x",
		"empty": "",
		"all":   "localhost:5000/worker:3fa", "repository": "localhost:5000/worker",
		"both": "img=localhost:5000/worker tag=3fa.",
	}
	want.SetString = map[string]string{"tag": "3fa", "numeral": "8"}
	want.InlineValues = map[string]any{"deep": []any{map[string]any{"image": "localhost:5000/worker:3fa"}, 8.0, nil},
		"text": "x"}
	want.Hooks = Hooks{
		Before: []Hook{{[]string{"push", "localhost:5000/worker:3fa"}, time.Minute}},
		After:  []Hook{{[]string{"test", "tag=3fa"}, time.Minute}, {[]string{"done"}, time.Minute}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
	hooks, err := c.Releases[0].Hooks.Resolve(map[string]string{"team/worker": "localhost:5000/worker:3fa"})
	if err != nil || !reflect.DeepEqual(hooks, want.Hooks) {
		t.Errorf("hooks by themselves: %v, %v", hooks, err)
	}
	_, err = c.Releases[0].Resolve(nil)
	if err == nil || !strings.Contains(err.Error(), `image "team/worker" has not been built`) {
		t.Errorf("an image without a reference: %v", err)
	}
	if got, err := (Release{Name: "r"}).Resolve(nil); err != nil || !reflect.DeepEqual(got, Release{Name: "r"}) {
		t.Errorf("a release without values: %+v, %v", got, err)
	}
}

func TestNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	_, err := Load(Source{Files: []string{path}})
	var e *tree.Error
	if !errors.As(err, &e) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Load = %v", err)
	}
	if !strings.Contains(err.Error(), path) || !strings.Contains(e.Hint(), "devloop init") {
		t.Errorf("message %q, hint %q", err, e.Hint())
	}
	if !reflect.DeepEqual(e.Files(), []string{path}) {
		t.Errorf("Files() = %q", e.Files())
	}

	_, err = Load(Source{Files: []string{t.TempDir()}})
	if err == nil || !strings.Contains(err.Error(), "cannot be read: is a directory") {
		t.Errorf("a folder: %v", err)
	}
}

func TestMissingFilesAreNamed(t *testing.T) {
	dir := project(t)
	_, err := load(t, dir, "apiVersion: devloop/v1\nname: p\nimages: { a: { dockerfile: soon } }\n")
	var e *tree.Error
	if !errors.As(err, &e) {
		t.Fatalf("Load = %v", err)
	}
	if want := []string{filepath.Join(dir, FileName), filepath.Join(dir, "soon")}; !reflect.DeepEqual(e.Files(), want) {
		t.Errorf("Files() = %q, want %q", e.Files(), want)
	}
}

// assembled is what Load makes of the trees of the source's files.
func assembled(r *tree.Report, dir string, source Source, roots ...*tree.Node) *Config {
	l := &loader{Report: r, source: source, dir: dir, files: source.Files}
	for i, root := range roots {
		if roots[i] = l.layer([]*tree.Node{root}); roots[i] == nil {
			return nil
		}
	}
	return l.assemble(roots)
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(platformFile), []byte(nil), "", "")
	f.Add([]byte(base), []byte("releases: [{ name: one, set: { a: 1 } }]"), "gpu", "forwards[db].local=1")
	f.Add([]byte(base), []byte("forwards:\nhealth: ~"), "bare", "images="+bomb)
	f.Add([]byte(base), []byte("releases: [{ name: two, inlineValues: { a: [{ b: '{{ tag \"worker\" }}' }] }, "+
		"dependsOn: [one] }]"), "", "releases[two].inlineValues.a[0].b.c=1")
	f.Add([]byte(base), []byte("forwards: [{ selector: a=b, namespace: n, port: '80', local: 0, bind: '::' }]"), "gpu",
		"forwards[a=b].port=http")
	for _, c := range wrong {
		f.Add([]byte(c.text), []byte(c.text), "p", "releases[0].set.a="+c.text)
	}
	dir := project(f)
	schema := compiled(f)
	f.Fuzz(func(t *testing.T, first, second []byte, profile, set string) {
		r := &tree.Report{}
		source := Source{Files: []string{FileName}}
		roots := []*tree.Node{r.Parse(&tree.Origin{Name: FileName}, first)}
		if len(second) > 0 {
			source.Files = append(source.Files, "second")
			roots = append(roots, r.Parse(&tree.Origin{Name: "second", Order: 1}, second))
		}
		if profile != "" {
			source.Profiles = []string{profile}
		}
		if set != "" {
			source.Set = []Assignment{{"--set", set}}
		}
		var c *Config
		if !slices.Contains(roots, nil) {
			c = assembled(r, dir, source, roots...)
		}
		if len(r.Problems) > 0 {
			e := r.AsError(nil)
			if strings.Count(e.Error(), "\n") != len(e.Problems)-1 {
				t.Errorf("not one line each: %v", e)
			}
			return
		}
		refs := map[string]string{}
		for _, image := range c.Images {
			refs[image.Name] = image.Name + ":tag"
		}
		for _, release := range c.Releases {
			if _, err := release.Resolve(refs); err != nil {
				t.Errorf("a valid release cannot be resolved: %v", err)
			}
		}
		_ = c.Wrong(profile, set, "")
		if len(second) == 0 && profile == "" && set == "" {
			if err := schema.Validate(plain(roots[0])); err != nil {
				t.Errorf("the schema refuses what Load accepts: %v", err)
			}
		}
	})
}

// TestBases holds the order of images that are built from others, and what they are given.
func TestBases(t *testing.T) {
	c, err := load(t, project(t), `apiVersion: devloop/v1
name: p
images:
  app:  { dockerfile: Dockerfile.worker, args: { V: "1", BASE: '{{ image "mid" }}', '{{': '{{ "{{" }} .x }}' } }
  free: { dockerfile: Dockerfile.worker }
  mid:  { dockerfile: Dockerfile.worker, args: { REPO: '{{ repository "base" }}', TAG: '{{ tag "base" }}' } }
  base: { dockerfile: Dockerfile.worker }
`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, image := range c.Images {
		got = append(got, fmt.Sprint(image.Name, image.Bases()))
	}
	if want := []string{"base[]", "mid[base]", "app[mid]", "free[]"}; !slices.Equal(got, want) {
		t.Errorf("the order is %v, not %v", got, want)
	}
	reference := func(image string) string { return "localhost:5000/" + image + ":abc" }
	if args := c.Images[2].ResolveArgs(reference); !reflect.DeepEqual(args,
		map[string]string{"V": "1", "BASE": "localhost:5000/mid:abc", "{{": "{{ .x }}"}) {
		t.Errorf("app gets %v", args)
	}
	if args := c.Images[1].ResolveArgs(reference); !reflect.DeepEqual(args,
		map[string]string{"REPO": "localhost:5000/base", "TAG": "abc"}) {
		t.Errorf("mid gets %v", args)
	}
}
