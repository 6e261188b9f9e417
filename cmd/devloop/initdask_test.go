package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devloop/devloop"
	"github.com/devloop/devloop/pkg/config"
)

// Only the name and the schema's place differ from what this repository runs by itself.
func TestDaskPlatform(t *testing.T) {
	files, err := daskPlatform("mine")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		want, err := devloop.Platform.ReadFile(filepath.ToSlash(name))
		switch {
		case name == config.FileName:
			edits := strings.NewReplacer("=pkg/config/schema.json\n", "=devloop.schema.json\n",
				"\nname: dask-gateway\n", "\nname: mine\n")
			want = []byte(edits.Replace(string(want)))
			if strings.Contains(string(content), "pkg/") || !strings.Contains(string(content), "\nname: mine\n") {
				t.Errorf("%s still says where it comes from:\n%s", name, content)
			}
		case name == ignoreName || name == schemaName:
			continue
		case err != nil:
			t.Fatal(err)
		}
		if !bytes.Equal(content, want) {
			t.Errorf("%s is not this repository's:\n%s", name, content)
		}
	}
	if python := "FROM python:3.11"; !bytes.Contains(files["Dockerfile.worker"], []byte(python)) {
		t.Errorf("Dockerfile.worker is not %s, which the notes of init --dask say", python)
	}
}
