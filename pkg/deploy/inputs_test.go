package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// read returns a release with its inputs, and the merged values.
func read(t *testing.T, version string, files map[string]string, r Release) (desired, map[string]any) {
	t.Helper()
	dir := t.TempDir()
	r.Name, r.Namespace, r.Chart = "demo", "demo", filepath.Join(dir, "demo.tgz")
	if err := os.WriteFile(r.Chart, archive(t, demo), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.yaml", "b.yaml"} {
		if content, ok := files[name]; ok {
			r.ValuesFiles = append(r.ValuesFiles, filepath.Join(dir, name))
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, err := New(&kube.Cluster{Version: version}, "demo", nil, Options{CacheDir: dir}).readInputs(t.Context(),
		event.Stage{}, r)
	if err != nil {
		t.Fatal(err)
	}
	values, err := merge(r)
	if err != nil {
		t.Fatal(err)
	}
	return want, values
}

func TestInputs(t *testing.T) {
	values := map[string]string{"a.yaml": "a: 1\n"}
	inputs := func(version string, files map[string]string, r Release) string {
		want, _ := read(t, version, files, r)
		return want.inputs
	}
	first := inputs("v1.34.3", values, Release{})
	if got := inputs("v1.34.3", values, Release{DependsOn: []string{"other"}, Rollback: true}); got != first {
		t.Error("the same inputs have another hash")
	}
	for name, other := range map[string]string{
		"values":      inputs("v1.34.3", map[string]string{"a.yaml": "a: 2\n"}, Release{}),
		"inline":      inputs("v1.34.3", values, Release{InlineValues: map[string]any{"b": 1.0}}),
		"set":         inputs("v1.34.3", values, Release{Set: map[string]any{"b": int64(1)}}),
		"setString":   inputs("v1.34.3", values, Release{SetString: map[string]string{"b": "1"}}),
		"an integer":  inputs("v1.34.3", nil, Release{Set: map[string]any{"a": int64(1)}}),
		"a command":   inputs("v1.34.3", values, Release{After: []Command{{Args: []string{"true"}}}}),
		"the cluster": inputs("v1.35.0", values, Release{}),
	} {
		if other == first {
			t.Errorf("%s does not count", name)
		}
	}
	dir := t.TempDir()
	migration := Release{Before: []Command{NewCommand(dir, []string{"./migrate.sh", "up"}, 0)}}
	seen := map[string]string{}
	for _, content := range []string{"", "one", "two"} { // the first time there is none
		if content != "" {
			write(t, dir, map[string]string{"migrate.sh": content})
		}
		now := inputs("v1.34.3", values, migration)
		if before, known := seen[now]; known {
			t.Errorf("a script with %q counts as one with %q", content, before)
		}
		seen[now] = content
	}
	if len(first) > 63 {
		t.Errorf("%q does not fit into a label", first)
	}
}

func TestScriptOfACommand(t *testing.T) {
	for args, want := range map[string]string{
		"./migrate.sh up": "./migrate.sh", "scripts/seed": "scripts/seed", "../seed.sh": "../seed.sh",
		"bash scripts/seed.sh x": "scripts/seed.sh", "python3 seed.py": "seed.py", "/bin/sh seed.sh": "seed.sh",
		"python3.12 seed.py": "seed.py", "python -m seed": "", "sh -c ./seed.sh": "", "sh": "", "": "",
		"make seed": "", "touch stamp": "", "/usr/local/bin/seed": "", "kubectl apply -f x.yaml": "",
	} {
		if got := script(strings.Fields(args)); got != want {
			t.Errorf("%s: %q", args, got)
		}
	}
}
