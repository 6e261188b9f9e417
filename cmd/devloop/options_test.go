package main

import (
	"os"
	"testing"

	"github.com/devloop/devloop/pkg/config"
)

func TestConfigFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	check := func(want string) {
		t.Helper()
		if got := (&options{}).configFiles(); len(got) != 1 || got[0] != want {
			t.Errorf("got %q, want %s", got, want)
		}
	}
	check(config.FileName)
	for _, name := range []string{"skaffold.yml", "skaffold.yaml", config.FileName} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		check(name)
	}
	if got := (&options{files: []string{"a", "b"}}).configFiles(); len(got) != 2 {
		t.Errorf("of two that were named: %q", got)
	}
}
