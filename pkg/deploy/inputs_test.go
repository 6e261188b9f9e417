package deploy

import (
	"os"
	"path/filepath"
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
	if len(first) > 63 {
		t.Errorf("%q does not fit into a label", first)
	}
}
