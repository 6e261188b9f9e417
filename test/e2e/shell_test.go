//go:build e2e

// Commands and shells in pods, and what devloop opens in a browser.
package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/session"
	pseudo "github.com/devloop/devloop/test/terminal"
)

func TestShell(t *testing.T) {
	t.Parallel()
	cluster := kubernetesClient(t)
	p := newProject(t, "small")
	opened := filepath.Join(t.TempDir(), "opened")
	browser := filepath.Join(t.TempDir(), "browser")
	must(t, os.WriteFile(browser, []byte("#!/bin/sh\necho \"$1\" >> "+opened+"\n"), 0o755))
	p.env = append(p.env, "BROWSER="+browser)
	w := startInTerminal(t, p)
	w.await(t, 0, ready)
	page := w.await(t, 0, on(event.PageServed)).field("url")

	step(t, "a command", func(t *testing.T) {
		for code, command := range map[int]string{0: "true", 3: "exit 3", 137: "kill -9 $$"} {
			p.call(t, code, "exec", "small", "--", "sh", "-c", command)
		}
		out, log := p.call(t, 0, "exec", "small", "--", "sh", "-c", "echo said; echo wrong >&2")
		same(t, "standard output", "said\n", out)
		same(t, "standard error", "wrong\n", log)
		_, log = p.call(t, 127, "exec", "small", "--", "nosuch")
		shows(t, log, `container \S+ of pod small-\S+ has no command "nosuch"`)
		_, log = p.call(t, 2, "exec", "smoll", "--", "true")
		shows(t, log, `no release, and no pod of one, is called "smoll"; did you mean "small"\?`)
		_, log = p.call(t, 1, "exec", "small", "-c", "side", "--", "true")
		shows(t, log, `has no container "side"\n  → it has: `)
		_, log = p.call(t, 2, "exec", "small", "true")
		shows(t, log, "devloop exec POD -- COMMAND")
	})

	step(t, "bytes go both ways as they are", func(t *testing.T) {
		data := make([]byte, 20<<20)
		_, err := rand.Read(data)
		must(t, err)
		cmd := exec.CommandContext(t.Context(), setting(t, "DEVLOOP_BIN"), "exec", "small", "--", "cat")
		cmd.Dir, cmd.Env, cmd.Stdin = p.dir, p.env, bytes.NewReader(data)
		got, err := cmd.Output()
		must(t, err)
		if !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back, and not the same", len(got))
		}
	})

	step(t, "a reader that ends first", func(t *testing.T) {
		line := `"$DEVLOOP_BIN" exec small -- yes | head -n 1; echo "${PIPESTATUS[0]}"`
		cmd := exec.CommandContext(t.Context(), "bash", "-c", line)
		cmd.Dir, cmd.Env = p.dir, p.env
		out, err := cmd.CombinedOutput()
		must(t, err)
		same(t, "what is shown", "y\n141\n", string(out))
	})

	step(t, "a shell in a terminal", func(t *testing.T) {
		s := p.openShell(t)
		s.types(t, "stty size; echo $TERM $((6*7))\r")
		s.shows(t, `24 80\r\n\S* 42`)
		must(t, pty.Setsize(s.master, &pty.Winsize{Rows: 50, Cols: 132}))
		s.types(t, "until [ \"$(stty size)\" = '50 132' ]; do :; done; echo wi'der'\r")
		s.shows(t, "wider")
		s.types(t, "sh -c 'echo sl\"\"eeps; exec sleep 1000'\r")
		s.shows(t, "sleeps")
		s.types(t, "\x03")
		s.shows(t, `\^C`)
		s.types(t, "echo ali've'\r")
		s.shows(t, "alive")
		s.types(t, "exit 3\r")
		s.ends(t, 3)
	})

	step(t, "it is told to end", func(t *testing.T) {
		s := p.openShell(t)
		must(t, s.cmd.Process.Signal(syscall.SIGTERM))
		s.ends(t, 130)
	})

	step(t, "its pod is deleted", func(t *testing.T) {
		s := p.openShell(t)
		must(t, cluster.CoreV1().Pods(p.name).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
		s.shows(t, "pod small-[^ ]+ (is being|was) deleted")
		s.ends(t, 137)
		p.call(t, 0, "status", "--wait=healthy", "--timeout", longEnough.String())
	})

	step(t, "what can be opened", func(t *testing.T) {
		out, _ := p.call(t, 0, "open", "--print")
		same(t, "the address", page+"\n", out)
		_, log := p.call(t, 2, "open", "gatewy")
		shows(t, log, `no Dask cluster is called "gatewy"`)
		p.call(t, 0, "open")
		w.press(t, "o").happens(t, on(event.PageServed))
		var got []string
		eventually(t, "the browser has two addresses", func() bool {
			all, err := os.ReadFile(opened)
			got = strings.Fields(string(all))
			return err == nil && len(got) == 2
		})
		for _, address := range got { // other users can read it: it lets in once
			if address == page {
				t.Errorf("the browser has the token: %s", address)
			}
			for _, code := range []int{http.StatusSeeOther, http.StatusForbidden} {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
				must(t, err)
				answer, err := http.DefaultTransport.RoundTrip(request)
				must(t, err)
				must(t, answer.Body.Close())
				same(t, address, code, answer.StatusCode)
			}
		}
	})

	step(t, "the key s, while devloop goes on", func(t *testing.T) {
		mark := w.mark()
		w.press(t, "s")
		w.finds(t, mark, "a shell in "+p.name+"/small-")
		w.press(t, "echo in'side'; cat index.html\r")
		w.finds(t, mark, "inside")
		w.finds(t, mark, "first")
		w.press(t, "sh -c 'echo sl\"\"eeps; exec sleep 1000'\r")
		w.finds(t, mark, "sleeps")
		w.press(t, "\x03") // is the shell's
		w.finds(t, mark, "^C")
		w.press(t, "echo st'ill'\r")
		w.finds(t, mark, "still")
		w.press(t, "exit\r")
		eventually(t, "the keys are devloop's again", func() bool { // until then, they are the shell's
			w.press(t, "?")
			return w.count(mark, on(session.KeyHelp)) > 0
		})
		w.press(t, "l").happens(t, on("logs of the pods are on"))
		w.press(t, "l").happens(t, on("logs of the pods are off"))

		mark = w.mark()
		w.press(t, "s")
		w.finds(t, mark, "a shell in "+p.name+"/small-")
		w.save(t, "index.html", "second").arrives(t) // in the log once the shell's pod is replaced
		p.awaitPage(t, "second")
		w.await(t, mark, on("no shell", event.Warned).because("pod small-.* (is being|was) deleted"))
	})

	w.press(t, "q")
	if code := w.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// finds waits for a line of text.
func (w *terminal) finds(t *testing.T, from int, text string) {
	t.Helper()
	w.find(t, from, text, func(l line) bool { return strings.Contains(l.text, text) })
}

// shows checks what a command has said.
func shows(t *testing.T, said, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(said) {
		t.Errorf("it says %q, not %q", said, pattern)
	}
}

// shell is a "devloop shell" in a terminal of its own.
type shell struct {
	cmd      *exec.Cmd
	master   *os.File
	terminal *os.File
	before   *term.State // its modes
	ended    chan error

	mu     sync.Mutex
	screen []byte
}

func (p *project) openShell(t *testing.T) *shell {
	t.Helper()
	master, terminal := pseudo.Open(t, 80)
	modes, err := term.GetState(int(terminal.Fd()))
	must(t, err)
	s := &shell{cmd: exec.CommandContext(t.Context(), setting(t, "DEVLOOP_BIN"), "shell"), master: master,
		terminal: terminal, before: modes, ended: make(chan error, 1)}
	s.cmd.Dir, s.cmd.Env = p.dir, p.env
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = terminal, terminal, terminal
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, s.cmd.Start())
	go func() { s.ended <- s.cmd.Wait() }()
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.screen = append(s.screen, buffer[:n]...)
			s.mu.Unlock()
		}
	}()
	s.types(t, "echo re'ady'\r")
	s.shows(t, "ready")
	return s
}

func (s *shell) types(t *testing.T, text string) {
	t.Helper()
	_, err := s.master.WriteString(text)
	must(t, err)
}

// shows waits until the terminal shows something, and forgets all up to there.
func (s *shell) shows(t *testing.T, pattern string) {
	t.Helper()
	wanted := regexp.MustCompile(pattern)
	seen := ""
	defer func() {
		if t.Failed() {
			t.Logf("the terminal shows %q", seen)
		}
	}()
	eventually(t, "the terminal shows "+pattern, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		seen = string(s.screen)
		at := wanted.FindIndex(s.screen)
		if at == nil {
			return false
		}
		s.screen = s.screen[at[1]:]
		return true
	})
}

// ends checks how it ends, and that the terminal is as it was.
func (s *shell) ends(t *testing.T, code int) {
	t.Helper()
	err := <-s.ended
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	same(t, "the exit code", code, s.cmd.ProcessState.ExitCode())
	modes, err := term.GetState(int(s.terminal.Fd()))
	must(t, err)
	same(t, "the modes of the terminal", s.before, modes)
}
