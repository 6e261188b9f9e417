package main

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/devloop/devloop/test/terminal"
)

const asks = `Only "yes" allows it: `

// typed runs devloop on a terminal of its own and types an answer once it asks. It returns what the
// terminal shows, and whether it asked.
func (p *workplace) typed(t *testing.T, answer string, args ...string) (code int, shown string, asked bool) {
	t.Helper()
	code, shown, left := p.dialogue(t, []exchange{{asks, answer}}, args...)
	return code, shown, left == 0
}

// exchange is what is typed when the terminal shows something.
type exchange struct{ shown, typed string }

// dialogue runs devloop on a terminal of its own. It returns what the terminal shows, and how many
// of the exchanges were left when devloop ended.
func (p *workplace) dialogue(t *testing.T, exchanges []exchange, args ...string) (code int, shown string, left int) {
	t.Helper()
	master, terminal := terminal.Open(t, 200)
	cmd := p.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = terminal.Close() // so that the terminal ends with devloop
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var screen strings.Builder
	for buffer := make([]byte, 64<<10); ; {
		n, err := master.Read(buffer)
		screen.Write(buffer[:n])
		if len(exchanges) > 0 && strings.Contains(screen.String(), exchanges[0].shown) {
			if _, err := master.WriteString(exchanges[0].typed); err != nil {
				t.Fatal(err)
			}
			exchanges = exchanges[1:]
		}
		if err != nil { // EIO: no process has the terminal any more
			break
		}
	}
	err := cmd.Wait()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), screen.String(), len(exchanges)
}

func TestTheUserIsAskedOnce(t *testing.T) {
	t.Parallel()
	n, p := newNeighbour(t, httptest.NewTLSServer), newWorkplace(t)
	p.points(t, "prod", n, "")

	for _, no := range []string{"\n", "no\n", "y\n", "YES\n", "\x04", strings.Repeat("yes", 200) + "\n"} {
		code, shown, asked := p.typed(t, no, "delete")
		if code != exitEnvironment || !asked || !strings.Contains(shown, "is not known to be on this machine: ") {
			t.Errorf("%q: exit code %d, %s", no, code, shown)
		}
		for _, part := range []string{`context  "prod"`, fmt.Sprintf("server   %q", n.URL),
			"because  neither minikube nor kind nor k3d serves this address here", `node \"ip-10-0-3-7\" does not run`, p.dir} {
			if !strings.Contains(shown, part) {
				t.Errorf("it does not say %s: %s", part, shown)
			}
		}
	}
	if code, shown, asked := p.typed(t, "\x03", "delete"); code != exitInterrupted || !asked {
		t.Errorf("Ctrl+C: exit code %d, %s", code, shown)
	}
	if code, shown, asked := p.typed(t, "\x03"); code != 0 || !asked { // as devloop does before anything was deployed
		t.Errorf("Ctrl+C: exit code %d, %s", code, shown)
	}
	if code, said := p.run(t, "delete"); code != exitEnvironment {
		t.Errorf("a no was taken for a yes: exit code %d, %s", code, said)
	}

	allowedToday := func() string { return "allowed for this folder on " + time.Now().Format(time.DateOnly) }
	line := allowedToday()
	code, shown, asked := p.typed(t, "yes\n", "delete")
	if !strings.Contains(shown, line) {
		line = allowedToday() // another day may have begun
	}
	if code != 0 || !asked || !strings.Contains(shown, line) {
		t.Errorf("yes: exit code %d, %s", code, shown)
	}
	if code, shown, asked := p.typed(t, "", "delete"); code != 0 || asked || !strings.Contains(shown, line) {
		t.Errorf("it is asked again: exit code %d, %s", code, shown)
	}
	inText := fmt.Sprintf("INFO devloop: cluster context=prod server=%s why=%q", n.URL, line)
	if code, said := p.run(t, "delete"); code != 0 || firstLine(said) != inText {
		t.Errorf("without a terminal: exit code %d, %s", code, said)
	}

	// A link to the folder is the same folder, a copy of it is another one.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(p.dir, link); err != nil {
		t.Fatal(err)
	}
	linked := *p
	linked.dir, linked.env = link, append(slices.Clone(p.env), "PWD="+link)
	if code, said := linked.run(t, "delete"); code != 0 {
		t.Errorf("by a link: exit code %d, %s", code, said)
	}
	copied := *p
	copied.dir = t.TempDir()
	if err := os.CopyFS(copied.dir, os.DirFS(p.dir)); err != nil {
		t.Fatal(err)
	}
	if code, said := copied.run(t, "delete"); code != exitEnvironment {
		t.Errorf("a copy: exit code %d, %s", code, said)
	}

	// The same cluster by another name is allowed, another one of that name and address is not.
	p.points(t, "renamed", n, "")
	if code, said := p.run(t, "delete"); code != 0 {
		t.Errorf("renamed: exit code %d, %s", code, said)
	}
	p.points(t, "prod", n, "")
	n.mu.Lock()
	n.uid = "two"
	n.mu.Unlock()
	if code, said := p.run(t, "delete"); code != exitEnvironment {
		t.Errorf("another cluster: exit code %d, %s", code, said)
	}
	if _, _, asked := p.typed(t, "no\n", "delete"); !asked {
		t.Error("it is not asked of another cluster")
	}
	if beyond := n.beyond(); len(beyond) > 0 {
		t.Errorf("it was asked for %s", beyond)
	}
}

// The loop takes over the terminal after the question, whose first keys are its own again.
func TestKeysAfterTheQuestion(t *testing.T) {
	t.Parallel()
	n, p := newNeighbour(t, httptest.NewTLSServer), newWorkplace(t)
	p.points(t, "prod", n, "")
	code, shown, left := p.dialogue(t, []exchange{{asks, "yes\n"}, {"q: quit", "q"}}, "--page=false")
	if code != 0 || left > 0 || !strings.Contains(shown, "nothing left behind") {
		t.Errorf("exit code %d, %d left: %s", code, left, shown)
	}
}

// There is no question where the user would not see it, or could not answer it.
func TestNobodyIsAskedWithoutATerminal(t *testing.T) {
	t.Parallel()
	n, p := newNeighbour(t, httptest.NewTLSServer), newWorkplace(t)
	p.points(t, "prod", n, "")
	for name, connect := range map[string]func(cmd *exec.Cmd, terminal *os.File) (descriptor int){
		"input only":  func(cmd *exec.Cmd, terminal *os.File) int { cmd.Stdin = terminal; return 0 },
		"output only": func(cmd *exec.Cmd, terminal *os.File) int { cmd.Stderr = terminal; return 2 },
	} {
		_, terminal := terminal.Open(t, 80)
		cmd := p.command("delete")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: connect(cmd, terminal)}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() }) // it waits for an answer
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitEnvironment {
			t.Errorf("%s: %v", name, err)
		}
		timer.Stop()
	}
}
