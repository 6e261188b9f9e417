package manifests

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      containers: [{name: web, image: web, envFrom: [{configMapRef: {name: settings}}]}]
`

// overlay is a kustomization with what people use.
var overlay = map[string]string{
	"base/kustomization.yaml":     "resources: [web.yaml, more]\n",
	"base/web.yaml":               "# a comment\n---\n" + deployment,
	"base/more/kustomization.yml": "resources: [a.yaml]\nnamePrefix: more-\n",
	"base/more/a.yaml":            manifest("a"),
	"part/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n" +
		"patches: [{path: replicas.yaml}]\n",
	"part/replicas.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 3}\n",
	"dev/Kustomization": `namespace: demo
resources: [../base]
components: [../part]
configMapGenerator:
- {name: settings, files: [color=settings/color.txt], envs: [settings/.env], literals: [docs=https://docs.example]}
images: [{name: web, newName: registry.example/web, newTag: "7"}]
patches:
- target: {kind: Deployment}
  patch: |-
    - {op: add, path: /metadata/labels, value: {a: b}}
patchesStrategicMerge:
- |-
  apiVersion: apps/v1
  kind: Deployment
  metadata: {name: web, annotations: {x: "y"}}
replacements:
- source: {kind: ConfigMap, name: more-a, fieldPath: metadata.name}
  targets: [{select: {kind: Deployment}, fieldPaths: [metadata.annotations.x]}]
commonAnnotations: {docs: "https://docs.example"}
`,
	"dev/settings/color.txt": "red",
	"dev/settings/.env":      "A=b\n",
}

func TestKustomization(t *testing.T) {
	folder := write(t, overlay)
	source := Source{Folder: folder, Kustomization: "dev"}
	documents, read, err := source.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, d := range documents {
		all = append(all, d.File, d.Text)
	}
	text := strings.Join(all, "\n")
	for _, want := range []string{"namespace: demo", "image: registry.example/web:7", "replicas: 3", "color: red", "A: b",
		"x: more-a", "name: settings-", "a: b", "base/web.yaml", "base/more/a.yaml", "dev/Kustomization"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "config.kubernetes.io") {
		t.Errorf("annotations of kustomize:\n%s", text)
	}
	if documents[0].File != "base/web.yaml" || documents[0].Line != 3 {
		t.Errorf("the first is from %s:%d", documents[0].File, documents[0].Line)
	}
	watched := source.Watched()
	for name := range overlay {
		path := filepath.Join(folder, name)
		if !slices.Contains(read, path) || !slices.Contains(watched, path) {
			t.Errorf("%s is read: %v, watched: %v", name, slices.Contains(read, path), slices.Contains(watched, path))
		}
	}
	if other := filepath.Join(folder, "base/Kustomization"); !slices.Contains(watched, other) {
		t.Errorf("%s, which would be read, is not watched", other)
	}
}

func TestWhatIsWrongWithAKustomization(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no folder": {nil, "o: the folder of the kustomization cannot be read: no such file"},
		"a file":    {map[string]string{"o": ""}, "o: is no folder"},
		"none":      {map[string]string{"o/web.yaml": ""}, "o: has no kustomization.yaml"},
		"two": {map[string]string{"o/kustomization.yaml": "namePrefix: a\n",
			"o/kustomization.yml": "namePrefix: a\n"},
			"o: has kustomization.yaml and kustomization.yml; kustomize wants one of them"},
		"empty": {map[string]string{"o/kustomization.yaml": "\n"}, "the kustomization o makes no objects"},
		"no YAML": {map[string]string{"o/kustomization.yaml": "a: b: c\n"},
			"o/kustomization.yaml:1: mapping values are not allowed"},
		"an unknown key": {map[string]string{"o/kustomization.yaml": "resource: []\n"},
			`o/kustomization.yaml:1:1: a kustomization has no key "resource"`},
		"a missing file": {map[string]string{"o/kustomization.yaml": "resources:\n- web.yaml\n"},
			`o/kustomization.yaml:2:3: there is no file or folder "web.yaml" in o`},
		"a missing patch": {map[string]string{"o/kustomization.yaml": "patches:\n- path: p.yaml\n"},
			`o/kustomization.yaml:2:9: there is no file or folder "p.yaml" in o`},
		"a pattern": {map[string]string{"o/kustomization.yaml": "resources: ['*.yaml']\n"},
			`kustomize knows no patterns`},
		"a kustomization": {map[string]string{"o/kustomization.yaml": "resources: [../b/kustomization.yaml]\n",
			"b/kustomization.yaml": ""}, `name its folder`},
		"the wrong type": {map[string]string{"o/kustomization.yaml": "namePrefix: a\nnamespace: 5\n"},
			"o/kustomization.yaml:2:12: cannot unmarshal number"},
		"a chart": {map[string]string{"o/kustomization.yaml": "helmCharts:\n- name: web\n"},
			"o/kustomization.yaml:2:3: helmCharts: devloop does not run helm"},
		"a chart in a base": {map[string]string{"o/kustomization.yaml": "resources: [../b]\n",
			"b/kustomization.yaml": "helmCharts: [{name: web}]\n"}, "b/kustomization.yaml:1:14: helmCharts"},
		"a plugin": {map[string]string{"o/kustomization.yaml": "generators: [g.yaml]\n",
			"o/g.yaml": "apiVersion: x/v1\nkind: Make\nmetadata: {name: x}\n"},
			"o/g.yaml:1:1: x/v1 Make is a program"},
		"a plugin in place": {
			map[string]string{"o/kustomization.yaml": "transformers:\n- |-\n  apiVersion: x/v1\n  kind: Make\n"},
			"o/kustomization.yaml:3:1: x/v1 Make is a program"},
		"a resource": {map[string]string{"o/kustomization.yaml": "resources: [a.yaml]\n",
			"o/a.yaml": "apiVersion: v1\nkind: Job\nmetadata: {generateName: a}\n"},
			"o/a.yaml:3:26: generateName"},
		"a patch for nothing": {map[string]string{"o/kustomization.yaml": "resources: [../b]\n",
			"b/kustomization.yaml": "resources: [a.yaml]\npatches: [{path: p.yaml}]\n",
			"b/a.yaml":             manifest("a"), "b/p.yaml": manifest("b")},
			"b/p.yaml:1: no resource matches strategic merge patch"},
		"the same object twice": {map[string]string{"o/kustomization.yaml": "resources: [../b, a.yaml]\n",
			"o/a.yaml":             manifest("a"),
			"b/kustomization.yaml": "resources: [a.yaml]\n", "b/a.yaml": manifest("a")},
			"may not add resource with an already registered id: ConfigMap.v1/a"},
		"a component that is none": {map[string]string{"o/kustomization.yaml": "components: [../c]\n",
			"c/kustomization.yaml": "namePrefix: a\n"},
			"o: expected kind 'Component' for path 'c' but got 'Kustomization'"},
		"a file outside": {
			map[string]string{"o/kustomization.yaml": "configMapGenerator: [{name: x, files: [../a.txt]}]\n", "a.txt": ""},
			"o: loading KV pairs: file sources: [../a.txt]: security; file 'a.txt' is not in or below 'o'"},
		"a circle": {map[string]string{"o/kustomization.yaml": "resources: [../b]\n",
			"b/kustomization.yaml": "resources: [../o]\n"}, "cycle detected"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Source{Folder: write(t, test.files), Kustomization: "o"}.Read(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Count(err.Error(), "accumul") > 0 {
				t.Errorf("%v\nwant %s", err, test.want)
			}
		})
	}
}

// fakeGit puts a git first in PATH that runs a script.
func fakeGit(t *testing.T, script string) {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "git"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
}

func TestOtherMachinesAreAskedOnlyWhereAllowed(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	fakeGit(t, "touch "+ran+"\n")
	for _, key := range []string{"resources: [%s]", "bases: [%s]", "components: [%s]", "generators: [%s]",
		"patches: [{path: %s}]", "configMapGenerator: [{name: x, files: ['a=%s']}]", "crds: [%s]", "openapi: {path: %s}",
		"patchesStrategicMerge: [%s]", "replacements: [{path: %s}]", "secretGenerator: [{name: x, env: %s}]",
		"transformers: ['{apiVersion: builtin, kind: PatchTransformer, metadata: {name: x}, path: %s}']"} {
		values := []string{"https://127.0.0.1:1/a.yaml"}
		if strings.HasSuffix(key, "s: [%s]") && !strings.HasPrefix(key, "crds") {
			values = append(values, "github.com/a/b", "git@127.0.0.1:a/b.git", "ssh://git@127.0.0.1/a/b//c?ref=v1",
				"git::https://127.0.0.1/a/b", "file:///a/b", "HTTPS://127.0.0.1/a/b.git")
		}
		if strings.HasPrefix(key, "patchesS") {
			values = values[:1]
		}
		for _, value := range values {
			folder := write(t, map[string]string{"o/kustomization.yaml": "resources: [../b]\n",
				"b/kustomization.yaml": "namePrefix: a\n" + strings.ReplaceAll(key, "%s", quote(key, value)) + "\n"})
			_, _, err := Source{Folder: folder, Kustomization: "o"}.Read(t.Context())
			if err == nil || !strings.Contains(err.Error(), "b/kustomization.yaml:2:") ||
				!strings.Contains(err.Error(), "remoteBases: true") {
				t.Errorf("%s with %s: %v", key, value, err)
			}
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("git ran")
	}
}

// quote writes a value as YAML in flow style, unless it stands in quotes already.
func quote(key, value string) string {
	if strings.Contains(key, "'") {
		return value
	}
	return strconv.Quote(value)
}

func TestRemoteBase(t *testing.T) {
	repository := write(t, map[string]string{"base/kustomization.yaml": "resources: [a.yaml]\n",
		"base/a.yaml": manifest("a")})
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."},
		{"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "a"}} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = repository
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	}
	folder := write(t, map[string]string{
		"o/kustomization.yaml": "resources: ['file://" + repository + "//base?ref=main']\nnamePrefix: dev-\n"})
	source := Source{Folder: folder, Kustomization: "o", RemoteBases: true}
	temporary := filepath.Join(t.TempDir(), "a link") // as TMPDIR is on macOS
	if err := os.Symlink(t.TempDir(), temporary); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", temporary)
	documents, read, err := source.Read(t.Context())
	if err != nil || len(documents) != 1 || !strings.Contains(documents[0].Text, "dev-a") {
		t.Fatal(documents, err)
	}
	if slices.ContainsFunc(read, func(path string) bool { return strings.Contains(path, "devloop-kustomize-") }) {
		t.Errorf("files of the clone would be watched: %q", read)
	}
	fakeGit(t, "echo 'fatal: no such repository' >&2\nexit 128\n")
	if _, _, err := source.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "no such repository") {
		t.Errorf("the error of git: %v", err)
	}
}

// What git does ends with the run, and so does git.
func TestCancelEndsGit(t *testing.T) {
	alive := filepath.Join(t.TempDir(), "alive")
	fakeGit(t, "echo $$ > "+alive+".new; mv "+alive+".new "+alive+"\nsleep 1000\n")
	folder := write(t, map[string]string{"o/kustomization.yaml": "resources: ['file:///a/b']\n"})
	superseded := errors.New("superseded")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := Source{Folder: folder, Kustomization: "o", RemoteBases: true}.Read(ctx)
		done <- err
	}()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := os.Stat(alive); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("git does not run")
		}
		<-time.After(5 * time.Millisecond)
	}
	pid, _ := os.ReadFile(alive)
	cancel(superseded)
	select {
	case err := <-done:
		if !errors.Is(err, superseded) {
			t.Errorf("the error is %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
	for {
		state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if err != nil || strings.Contains(string(state), ") Z ") {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("git goes on")
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestACancelledContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(event.ErrSuperseded)
	folder := write(t, overlay)
	for _, source := range []Source{{Folder: folder, Kustomization: "dev"}, {Folder: folder, Patterns: []string{"base"}}} {
		if _, _, err := source.Read(ctx); !errors.Is(err, event.ErrSuperseded) {
			t.Errorf("%v: %v", source, err)
		}
	}
}
