package session

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
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
