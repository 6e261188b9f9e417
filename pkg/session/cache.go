package session

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/devloop/devloop/pkg/event"
)

// CacheDir returns the folder for what devloop can get again: charts, image layers, answers of
// registries. Only this user can read it, also one of an earlier version.
func CacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", event.WithHint(fmt.Errorf("find a folder for devloop's cache: %w", err), "set XDG_CACHE_HOME or HOME")
	}
	dir := filepath.Join(cache, "devloop")
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.Chmod(dir, 0o700)
	}
	if err != nil {
		return "", event.WithHint(fmt.Errorf("make devloop's cache a folder of yours alone: %w", err),
			"set XDG_CACHE_HOME to a folder that is yours, on a file system with permissions")
	}
	return dir, nil
}
