//go:build e2e

// A user's Python program, as a child process.
package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// user is a Python client of the platform, which tells what it sees in JSON.
type user struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan map[string]any
	log   strings.Builder
}

// startClient starts the program for the platform's gateway. Just after the gateway's pod was
// replaced, traefik still sends some requests to the old one: it reads what changed every two
// seconds. The load tests count these requests; the program waits until there are none.
func startClient(t *testing.T, python string, args ...string) *user {
	t.Helper()
	eventually(t, "each of ten requests in a row is answered", func() bool {
		for range 10 {
			if health, err := get(gateway + "/api/health"); err != nil || !strings.Contains(health, `"pass"`) {
				return false
			}
		}
		return true
	})
	args = append([]string{gateway}, args...)
	args = append([]string{filepath.Join("testdata", "client.py")}, args...)
	u := &user{cmd: exec.Command(python, args...), lines: make(chan map[string]any, 16)}
	u.cmd.Stderr = &u.log
	stdout, err := u.cmd.StdoutPipe()
	must(t, err)
	if u.stdin, err = u.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	must(t, u.cmd.Start())
	go func() {
		defer close(u.lines)
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			var line map[string]any
			if json.Unmarshal(scanner.Bytes(), &line) == nil {
				u.lines <- line
			}
		}
	}()
	t.Cleanup(u.kill)
	return u
}

// next returns the next line that has the key.
func (u *user) next(t *testing.T, key string) map[string]any {
	t.Helper()
	deadline := time.After(longEnough)
	for {
		select {
		case line, ok := <-u.lines:
			if !ok {
				_ = u.cmd.Wait()
				t.Fatalf("the client ended before it said %q:\n%s", key, &u.log)
			}
			if _, ok := line[key]; ok {
				return line
			}
		case <-deadline:
			t.Fatalf("the client did not say %q in time", key)
		}
	}
}

// finish lets the client shut its cluster down.
func (u *user) finish(t *testing.T) {
	t.Helper()
	_, _ = io.WriteString(u.stdin, "\n")
	u.next(t, "done")
	if err := u.cmd.Wait(); err != nil {
		t.Errorf("the client ended badly: %v\n%s", err, &u.log)
	}
}

func (u *user) kill() {
	if u.cmd.ProcessState == nil {
		_ = u.cmd.Process.Kill()
		_ = u.cmd.Wait()
	}
}

// laptop returns the Python of a copy of the laptop's environment, which holds what the
// repository's requirements.txt names.
func laptop(t *testing.T) (python string) {
	t.Helper()
	venv := filepath.Join(t.TempDir(), "venv")
	_, err := command(t.Context(), os.Environ(), "cp", "-a", setting(t, "DEVLOOP_TEST_VENV"), venv)
	must(t, err)
	return filepath.Join(venv, "bin", "python")
}
