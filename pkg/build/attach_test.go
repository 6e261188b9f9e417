package build

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/docker/cli/cli/config/configfile"
)

// A build gets keys, agents' sockets and secrets of this machine, and never a file that has no end.
func TestAttached(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("secret"), []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("large"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path("large"), 1<<40); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", path("zero")); err != nil {
		t.Fatal(err)
	}
	agent, err := net.Listen("unix", path("agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	secret := func(name string) Image { return Image{Secrets: []Secret{{ID: "x", File: path(name)}}} }
	key := func(name string) Image { return Image{SSH: []SSH{{ID: "x", Paths: []string{path(name)}}}} }
	for _, test := range []struct {
		name  string
		image Image
		says  string // "" for no error
	}{
		{"a secret", secret("secret"), ""},
		{"a secret that is not there", secret("none"), ""},
		{"a secret that is a pipe", secret("pipe"), "named pipe"},
		{"a secret without end", secret("zero"), "a device"},
		{"a large secret", secret("large"), "too large"},
		{"an agent", key("agent"), ""},
		{"a key that is a pipe", key("pipe"), "named pipe"},
		{"a key without end", key("zero"), "a device"},
		{"a large key", key("large"), "too large"},
		{"a key that is not there", key("none"), "no such file"},
	} {
		_, err := attachables(configfile.New(""), test.image)
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
