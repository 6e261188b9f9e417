package session

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

// TestCacheDir: nobody else looks into the cache, also not into that of an earlier version.
func TestCacheDir(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	if err := os.Mkdir(filepath.Join(cache, "devloop"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		dir, err := CacheDir()
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode() != 0o700|os.ModeDir {
			t.Errorf("%v (%v)", info.Mode(), err)
		}
		if err := os.Remove(dir); err != nil { // the next one makes it
			t.Fatal(err)
		}
	}
	file := filepath.Join(cache, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_CACHE_HOME", file)
	if _, err := CacheDir(); err == nil || event.Hint(err) == "" {
		t.Errorf("no folder: %v", err)
	}
}
