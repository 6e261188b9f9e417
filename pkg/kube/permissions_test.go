package kube

import (
	"errors"
	"os"
	"testing"
)

func TestPermissions(t *testing.T) {
	p := Permissions(t.TempDir() + "/state/allowed")
	if _, err := p.Find("/project", "uid"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	given := Permission{Folder: "/project", Cluster: "uid", Context: "prod", Server: "https://192.0.2.1"}
	for range 2 { // the second one replaces the first
		if err := p.Remember(given); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := p.Find("/project", "uid"); err != nil || got != given {
		t.Errorf("%+v, %v", got, err)
	}
	for _, other := range [][2]string{{"/project", "other"}, {"/other", "uid"}, {"/project\x00uid", ""}} {
		if got, err := p.Find(other[0], other[1]); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: %+v, %v", other, got, err)
		}
	}
	entries, err := os.ReadDir(string(p))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if folder, err := os.Stat(string(p)); err != nil || folder.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", folder.Mode(), err)
	}

	// Half a file, or one that was copied from elsewhere, permits nothing.
	file := string(p) + "/" + entries[0].Name()
	for _, text := range []string{
		`{"folder": "/pro`, `{"folder": "/other", "cluster": "uid"}`, `{"folder": "/project", "cluster": "other"}`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := p.Find("/project", "uid"); err == nil {
			t.Errorf("%s: %+v", text, got)
		}
	}
}
