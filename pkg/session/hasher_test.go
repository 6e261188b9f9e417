package session

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/skaffold"
)

// TestHashInputs: an image gets the reference of the one that it is built from, pushed or not, and
// one error is enough for both.
func TestHashInputs(t *testing.T) {
	t.Chdir(t.TempDir())
	for path, text := range map[string]string{
		"devloop.yaml": `apiVersion: devloop/v1
name: p
images:
  app:  { context: app, args: { BASE: '{{ image "base" }}' } }
  base: { context: base }
`,
		"app/Dockerfile":  "ARG BASE\nFROM $BASE\nLABEL a=b\n",
		"base/Dockerfile": "FROM scratch\nLABEL base=one\n",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	docker, err := client.New(client.WithHost("tcp://127.0.0.1:1")) // which is asked nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	hash := func(push string) ([]build.Input, error) {
		c, err := config.Load(config.Source{})
		if err != nil {
			t.Fatal(err)
		}
		c.Push = push
		return HashInputs(t.Context(), build.New(docker, t.TempDir()), c)
	}
	for _, push := range []string{"", "registry.example:5000/team"} {
		inputs, err := hash(push)
		if err != nil || len(inputs) != 2 {
			t.Fatalf("%v, %v", inputs, err)
		}
		base, app := inputs[0], inputs[1]
		if app.Args["BASE"] != base.Tag.String() || !strings.HasPrefix(base.Tag.String(), push) {
			t.Errorf("%v is built from %s", app.Args, base.Tag)
		}
		target := newTarget(inputs)
		if got := target.Images; got[1].Name != "app" || !slices.Equal(got[1].Bases, []string{"base"}) {
			t.Errorf("the target is %+v, %+v", got[0], got[1])
		}
	}
	if err := os.WriteFile("base/Dockerfile", []byte("FORM scratch\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	inputs, err := hash("")
	if err == nil || !strings.HasPrefix(err.Error(), "image base: Dockerfile: ") || strings.Contains(err.Error(), "app") {
		t.Errorf("the error is %v", err)
	}
	if len(inputs) != 1 || len(inputs[0].Files) == 0 {
		t.Errorf("what would mend it is not watched: %v", inputs)
	}
}

// TestWrongRules: what the Dockerfile says of a rule has the rule's place. In a skaffold.yaml it is
// a warning, told once, and the other rules count.
func TestWrongRules(t *testing.T) {
	t.Chdir(t.TempDir())
	for path, text := range map[string]string{
		"devloop.yaml": `apiVersion: devloop/v1
name: p
images:
  web:
    sync:
      - { from: src, to: src }
      - { from: conf/*.yaml, to: /etc/web }
      - from: tests
`,
		"skaffold.yaml": `apiVersion: skaffold/v4beta11
kind: Config
metadata: { name: p }
build:
  artifacts:
    - image: web
      sync:
        manual:
          - { src: src/*, dest: . }
          - { src: conf/*.yaml, dest: /etc/web }
          - { src: tests/*, dest: tests }
`,
		"Dockerfile": "FROM scratch\nWORKDIR /app\nCOPY src src\nCOPY conf /etc/web\n",
		"src/a.py":   "a", "conf/a.yaml": "a", "tests/a.py": "a",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	docker, err := client.New(client.WithHost("tcp://127.0.0.1:1")) // which is asked nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	var warnings []string
	stage := imageStage{builders: &builders{main: build.New(docker, t.TempDir()), sink: func(e event.Event) {
		if e.Phase == event.Warned {
			warnings = append(warnings, e.Err.Error())
		}
	}}}
	hash := func(source config.Source) (*loop.Target, error) {
		t.Helper()
		c, err := config.Load(source)
		if err != nil {
			t.Fatal(err)
		}
		stage.config = c
		target, _, err := stage.Hash(t.Context())
		return target, err
	}
	_, err = hash(config.Source{})
	const wrong = "devloop.yaml:8:9: images.web.sync[2]: no COPY of Dockerfile reads tests"
	if err == nil || err.Error() != wrong || event.Hint(err) == "" {
		t.Errorf("the error is %v, with the hint %q", err, event.Hint(err))
	}
	ruled := config.Source{Files: []string{"skaffold.yaml"}, Translate: skaffold.Options{}.Translate}
	for range 2 {
		target, err := hash(ruled)
		if err != nil {
			t.Fatal(err)
		}
		input := target.Images[0].Input.(build.Input) //nolint:forcetypeassert // as newTarget made it
		if files := input.Synced.Files; len(files) != 1 || files[0].Path != "/app/src/a.py" || target.Images[0].Rest == "" {
			t.Errorf("synced are %+v", files)
		}
	}
	if want := []string{
		"skaffold.yaml:10:13: build.artifacts[0].sync.manual[1]: Dockerfile:4 copies conf/a.yaml to /etc/web/a.yaml, " +
			"not to /etc/web/conf/a.yaml",
		"skaffold.yaml:11:13: build.artifacts[0].sync.manual[2]: no COPY of Dockerfile reads tests/*",
	}; !slices.Equal(warnings, want) {
		t.Errorf("the warnings are %q", warnings)
	}
	ruled.Set = []config.Assignment{{From: "--set", Text: "images.web.sync=[{ from: tests }]"}}
	if target, err := hash(ruled); err != nil || target.Images[0].Rest != "" {
		t.Errorf("without a rule that counts, something is synced: %+v, %v", target, err)
	}
}

// TestHashForAnotherTerminal: a running devloop hashes what is on the disk now. Its answer is for
// equal images only.
func TestHashForAnotherTerminal(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("devloop.yaml", `apiVersion: devloop/v1
name: p
images: { app: { context: app, args: { A: a } } }
releases:
  - { name: web, namespace: p, manifests: [web.yaml] }
  - { name: api, namespace: p, manifests: [web.yaml] }
profiles: { small: { images: { app: { target: small } } }, slow: { timeouts: { rollout: 9m } } }
`)
	write("web.yaml", "{ apiVersion: v1, kind: ConfigMap, metadata: { name: web } }")
	write("app/Dockerfile", "FROM scratch AS small\nARG A\nLABEL a=$A\n")
	docker, err := client.New(client.WithHost("tcp://127.0.0.1:1")) // which is asked nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	load := func(source config.Source) *config.Config {
		t.Helper()
		c, err := config.Load(source)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	s := &Session{options: Options{Source: config.Source{Only: []string{"web"}}},
		builders: &builders{main: build.New(docker, t.TempDir())}}
	s.config.Store(load(s.options.Source))
	ask := func() (found HashedImages, err error) {
		answer, err := s.hashImages(t.Context())
		if err == nil {
			var text []byte
			if text, err = json.Marshal(answer); err == nil {
				err = json.Unmarshal(text, &found)
			}
		}
		return found, err
	}
	ref := func(c *config.Config) string {
		t.Helper()
		found, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		if target := found.Target(c); target != nil {
			return target.Images[0].Ref
		}
		return ""
	}
	fresh := func(c *config.Config) string {
		t.Helper()
		inputs, err := HashInputs(t.Context(), build.New(docker, t.TempDir()), c)
		if err != nil {
			t.Fatal(err)
		}
		return inputs[0].Tag.String()
	}

	before := ref(load(config.Source{}))
	if before != fresh(load(config.Source{})) || before != ref(load(config.Source{Profiles: []string{"slow"}})) {
		t.Errorf("the tag is %s", before)
	}
	for _, other := range []config.Source{{Profiles: []string{"small"}},
		{Set: []config.Assignment{{From: "--set", Text: "images.app.args.A=b"}}},
		{Set: []config.Assignment{{From: "--set", Text: "push=registry.example/team"}}}} {
		if got := ref(load(other)); got != "" {
			t.Errorf("%v: of another configuration: %s", other, got)
		}
	}
	write("app/Dockerfile", "FROM scratch AS small\nARG A\nLABEL b=$A\n")
	if after := ref(load(config.Source{})); after == before || after != fresh(load(config.Source{})) {
		t.Errorf("after a change, the tag is %s", after)
	}
	s.options.Source.Set = []config.Assignment{{From: "--set", Text: "name=other"}}
	if _, err := ask(); err == nil {
		t.Error("what only a restart changes is not noticed")
	}
}

// TestHintAtImage: a Dockerfile that names another image of the configuration by itself.
func TestHintAtImage(t *testing.T) {
	c := &config.Config{Dir: t.TempDir(), Path: "devloop.yaml", Images: []config.Image{
		{Name: "base", Dockerfile: "Dockerfile.base", Context: ".", Aliases: []string{"127.0.0.1:1/base"}},
		{Name: "app", Dockerfile: "Dockerfile.app", Context: "."},
		{Name: "other", Dockerfile: "Dockerfile.other", Context: "."},
	}}
	for name, text := range map[string]string{"base": "FROM scratch\nLABEL a=b\n", "app": "FROM 127.0.0.1:1/base\n",
		"other": "FROM 127.0.0.1:1/another\n"} {
		if err := os.WriteFile(filepath.Join(c.Dir, "Dockerfile."+name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hasher := build.Remote("tcp://127.0.0.1:1", nil, t.TempDir())
	for i, want := range []string{"", `add BASE: '{{ image "base" }}' to images.app.args`, "check the name"} {
		_, err := hasher.Hash(t.Context(), BuildInput(c, c.Images[i], nil))
		if got := event.Hint(hintAtImage(c, c.Images[i], err)); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: the hint is %q", c.Images[i].Name, got)
		}
	}
}
