package control

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
	"github.com/devloop/devloop/pkg/status/web"
)

// A socket's path must be short, and folders are long: macOS's TMPDIR has 49 bytes.
func TestLongPaths(t *testing.T) {
	const name = "a-project-whose-name-is-quite-long-0a1b2c3d"
	base, err := os.MkdirTemp("/tmp", "s") //nolint:usetesting // its name would be too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	server := func() *Server {
		board := status.NewBoard(nil)
		s := NewServer(board, web.NewMetrics(board), event.Stage{})
		t.Cleanup(s.Close)
		return s
	}
	in := func(length int) string { // a folder whose path has this length
		dir := filepath.Join(base, "with a space")
		return dir + strings.Repeat("x", length-len(dir)-len("/devloop"))
	}
	for length, plain := range map[int]bool{40: true, longestPath - len("/0123456789abcdef.sock"): false} {
		t.Setenv("XDG_RUNTIME_DIR", in(length))
		if err := server().ServeSocket(t.Context(), name); err != nil {
			t.Errorf("%d: %v", length, err)
		}
		if err := server().ServeSocket(t.Context(), name); !errors.Is(err, ErrAnotherRuns) {
			t.Errorf("%d: a second one: %v", length, err)
		}
		if err := server().ServeSocket(t.Context(), name+"e"); err != nil {
			t.Errorf("%d: another project: %v", length, err)
		}
		all, err := allRunning(t.Context())
		if err != nil || len(all) != 2 {
			t.Errorf("%d: %d run, %v", length, len(all), err)
		}
		for _, c := range all {
			c.Close()
		}
		sockets, _ := filepath.Glob(filepath.Join(in(length), "devloop", name+".sock"))
		if plain != (len(sockets) == 1) {
			t.Errorf("%d: %q", length, sockets)
		}
	}
	t.Setenv("XDG_RUNTIME_DIR", in(longestPath))
	err = server().ServeSocket(t.Context(), name)
	if !strings.Contains(event.Hint(err), "XDG_RUNTIME_DIR") {
		t.Errorf("no path is short enough: %v", err)
	}
}
