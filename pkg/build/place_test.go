package build

import (
	"strings"
	"testing"
)

// Only Linux's Docker has a group for its socket.
func TestSocketHint(t *testing.T) {
	for system, isGroup := range map[string]bool{"linux": true, "darwin": false} {
		if hint := socketHint(system); strings.Contains(hint, "usermod") != isGroup {
			t.Errorf("%s: %s", system, hint)
		}
	}
}
