package build

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSyncedOfOurOwn: both images of this repository's platform have its package where they say,
// and what Python writes beside it is no input.
func TestSyncedOfOurOwn(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "analysis"), os.DirFS(filepath.Join(root, "analysis"))); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "analysis", "__pycache__")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Dockerfile.worker", "Dockerfile.client", "requirements.txt", ".dockerignore"} {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		content = []byte(strings.ReplaceAll(string(content), "FROM python:3.11-slim", "FROM base"))
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hashes := func() (hashes []string) {
		for _, name := range []string{"Dockerfile.worker", "Dockerfile.client"} {
			input, err := newSyncBuilder(t).Hash(t.Context(), Image{Name: "image", Dockerfile: filepath.Join(dir, name),
				Context: dir, Sync: []SyncRule{{"analysis/**/*.py", "/opt/platform/analysis"}}})
			if err != nil {
				t.Fatal(err)
			}
			var paths []string
			for _, file := range input.Synced.Files {
				paths = append(paths, fmt.Sprintf("%s %s", file.Mode.Type(), file.Path))
			}
			if want := []string{"---------- /opt/platform/analysis/__init__.py",
				"---------- /opt/platform/analysis/robust.py"}; !slices.Equal(paths, want) {
				t.Errorf("%s: %q", name, paths)
			}
			hashes = append(hashes, input.Hash, input.Synced.Rest)
		}
		return hashes
	}
	before := hashes()
	compiled := filepath.Join(dir, "analysis", "__pycache__", "robust.cpython-311.pyc")
	if err := os.Mkdir(filepath.Dir(compiled), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(compiled, []byte("compiled"), 0o644); err != nil {
		t.Fatal(err)
	}
	if after := hashes(); !slices.Equal(before, after) {
		t.Error("an import on this machine changes the images")
	}
}
