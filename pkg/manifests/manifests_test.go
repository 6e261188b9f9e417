package manifests

import (
	"os"
	"path/filepath"
	"testing"
)

// write makes files below a new folder.
func write(t *testing.T, files map[string]string) (folder string) {
	t.Helper()
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// manifest is a manifest with this name.
func manifest(name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\n"
}

func TestReadsAFolder(t *testing.T) {
	folder := write(t, map[string]string{"k8s/b.yaml": manifest("b"), "k8s/a.yaml": manifest("a")})
	documents, read, err := Source{Folder: folder, Patterns: []string{"k8s"}}.Read(t.Context())
	if err != nil || len(documents) != 2 || documents[0].File != "k8s/a.yaml" || len(read) != 3 {
		t.Fatal(documents, read, err)
	}
}
