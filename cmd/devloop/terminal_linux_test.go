package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
	"github.com/devloop/devloop/test/terminal"
)

// What devloop starts gets SIGPIPE as ever: a shell cannot undo that a signal is ignored.
func TestClosedPipes(t *testing.T) {
	surviveClosedPipes()
	defer signal.Reset(syscall.SIGPIPE)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = read.Close()
	defer write.Close()
	if _, err := write.WriteString("a"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write to a closed pipe: %v", err)
	}
	ignored, err := exec.Command("sh", "-c", "grep SigIgn /proc/self/status").Output()
	var mask uint64
	if err == nil {
		_, err = fmt.Sscanf(string(ignored), "SigIgn: %x", &mask)
	}
	if err != nil || mask&(1<<(syscall.SIGPIPE-1)) != 0 {
		t.Errorf("a child has %q (%v)", ignored, err)
	}
}

// What programs read is exact in a file and a pipe; a person's terminal shows escapes, also of JSON
// in the log.
func TestDataOnTerminal(t *testing.T) {
	cmd := &cobra.Command{}
	write := func(file *os.File) {
		cmd.SetOut(&console.TerminalWriter{Out: file})
		if _, err := io.WriteString(dataOut(cmd), "a\u202eb\x1b[31m\n"); err != nil {
			t.Fatal(err)
		}
	}
	said := terminal.Shown(t, 80, func(file *os.File) {
		p := console.NewPrinter(file)
		write(file)
		p.Configure(console.FormatJSON, false, false)
		p.Print(event.Event{Stage: "node", Phase: event.Noted, Message: "\u202e"})
	})
	if !strings.HasPrefix(said, `a\u202eb\x1b[31m`) || !strings.Contains(said, `"msg":"\u202e"`) {
		t.Errorf("%q", said)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	write(file)
	if content, err := os.ReadFile(file.Name()); err != nil || string(content) != "a\u202eb\x1b[31m\n" {
		t.Errorf("%q, %v", content, err)
	}
}

// shell is a bash with job control in a terminal of its own.
type shell struct {
	t      *testing.T
	master *os.File
	modes  *os.File // the other end, to look at the terminal's modes
	exited chan struct{}

	mu     sync.Mutex
	screen strings.Builder
}

func newShell(t *testing.T) *shell {
	t.Helper()
	master, terminal := terminal.Open(t, 200)
	cmd := exec.Command("bash", "--noprofile", "--norc", "-i")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	cmd.Env = append(os.Environ(), "PS1=ready> ", "TERM=dumb", "HISTFILE=")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &shell{t: t, master: master, modes: terminal, exited: make(chan struct{})}
	go func() {
		defer close(s.exited)
		_ = cmd.Wait() // by a signal, most likely
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			if err != nil || n <= 0 {
				return
			}
			s.mu.Lock()
			s.screen.Write(buffer[:n])
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		s.hangUp()
		_ = cmd.Process.Kill() // if the end of its terminal was not enough
		<-s.exited
		<-done
	})
	return s
}

// hangUp closes the terminal, as its window does.
func (s *shell) hangUp() {
	_ = s.modes.Close()
	_ = s.master.Close()
}

func (s *shell) types(text string) {
	s.t.Helper()
	if _, err := s.master.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// shows waits until the terminal shows a text, and forgets all up to there.
func (s *shell) shows(text string) {
	s.t.Helper()
	eventually(s.t, "the terminal shows "+text, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, rest, found := strings.Cut(s.screen.String(), text)
		if found {
			s.screen.Reset()
			s.screen.WriteString(rest)
		}
		return found
	}, func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.screen.String()
	})
}

// echoes reports whether the terminal shows what is typed, and whether programs get it by lines.
func (s *shell) echoes() bool {
	modes, err := unix.IoctlGetTermios(int(s.modes.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return modes.Lflag&(unix.ECHO|unix.ICANON) != 0
}

func eventually(t *testing.T, what string, holds func() bool, instead func() string) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s, but %q", what, instead())
		}
	}
}

// The window is closed: the kernel and the shell both hang up, and the clean-up goes on to its end,
// with nowhere to write to.
func TestClosedTerminal(t *testing.T) {
	for _, how := range []string{"in the foreground", "in the background", "while it cleans up", "while it is stopped"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			s := newShell(t)
			s.shows("ready> ")
			if how == "in the background" {
				s.types("waiter '" + dir + "' &\n")
			} else {
				s.types("waiter '" + dir + "'\n")
			}
			s.shows("waiting")
			switch how {
			case "while it cleans up":
				s.types("\x03")
				s.shows("still cleaning")
			case "while it is stopped":
				s.types("\x1a")
				s.shows("Stopped")
			}
			s.hangUp()
			select { // then the kernel and it have sent all their signals
			case <-s.exited:
			case <-time.After(time.Minute):
				t.Fatal("the shell does not end")
			}
			if err := os.WriteFile(filepath.Join(dir, "enough"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it has cleaned up", func() bool {
				_, err := os.Stat(filepath.Join(dir, "cleaned"))
				return err == nil
			}, func() string { return "there is no file" })
		})
	}
}

// A program that has the terminal gets each key, Ctrl+C and Ctrl+Z, too; the log waits for its end.
// Then the keys are devloop's again.
func TestLentTerminal(t *testing.T) {
	dir := t.TempDir()
	s := newShell(t)
	s.shows("ready> ")
	s.types("waiter '" + dir + "'\n")
	s.shows("waiting")
	eventually(t, "the keys are devloop's", func() bool { return !s.echoes() }, func() string { return "they are echoed" })
	for range 2 {
		s.types("s")
		s.shows("lent")
		s.types("a\x03\x1a\r")
		s.shows("got 97\r\ngot 3\r\ngot 26\r\ngot 13\r\n")
		s.types("q")
		s.shows("meanwhile")
		s.types("b")
		s.shows("key b")
	}
	s.types("s")
	s.shows("lent")
	s.hangUp()
	<-s.exited
	if err := os.WriteFile(filepath.Join(dir, "enough"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has cleaned up", func() bool {
		_, err := os.Stat(filepath.Join(dir, "cleaned"))
		return err == nil
	}, func() string { return "there is no file" })
}

// After Ctrl+Z and fg, and after bg and fg, keys are read one by one and are not echoed; in the
// background the terminal is the shell's.
func TestKeysAfterCtrlZ(t *testing.T) {
	dir := t.TempDir()
	s := newShell(t)
	s.shows("ready> ")
	s.types("waiter '" + dir + "'\n")
	s.shows("waiting")
	press := func(key string) {
		t.Helper()
		eventually(t, "the keys are devloop's", func() bool { return !s.echoes() },
			func() string { return "they are echoed" })
		s.types(key)
		s.shows("key " + key)
		if s.echoes() {
			t.Error("keys are echoed")
		}
	}
	press("a")
	forward := func() { // until the shell, which reads ahead, no longer has the terminal
		t.Helper()
		s.types("fg\n")
		s.shows("waiter '")
	}
	for range 2 {
		s.types("\x1a")
		s.shows("Stopped")
		s.shows("ready> ")
		forward()
		press("b")
	}
	s.types("\x1a")
	s.shows("Stopped")
	s.types("bg\n")
	s.shows("waiter")
	s.shows("ready> ")
	s.types("echo mine: $((6*7))\n")
	s.shows("mine: 42")
	forward()
	press("c")
	s.types("\x03")
	s.shows("still cleaning")
	if err := os.WriteFile(filepath.Join(dir, "enough"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.shows("cleaned")
	s.shows("ready> ")
	s.types("stty -a | grep -ow -e -icanon -e icanon\n")
	s.shows("\nicanon")
}

// TestClustersFitTheTerminal: gateways make names of 32 letters, also in addresses.
func TestClustersFitTheTerminal(t *testing.T) {
	const id = "a589d9a22c3c4f1b85202924fc7dd9fa"
	clusters := []status.DaskCluster{{DaskCluster: event.DaskCluster{Namespace: "gateway", Name: id, Owner: "ada",
		Image: "worker:1", Dashboard: "http://localhost:8001/clusters/gateway." + id + "/status"}}}
	write := func(out io.Writer) {
		table := console.NewTable(out)
		writeClusters(table, clusters)
		if err := table.Flush(); err != nil {
			t.Error(err)
		}
	}
	narrow := terminal.Shown(t, 100, func(file *os.File) { write(&console.TerminalWriter{Out: file}) })
	for _, want := range []string{"gateway.a589d9a2  ada",
		"DASHBOARD\ngateway.a589d9a2  http://localhost:8001/clusters/gateway." + id} {
		if !strings.Contains(strings.ReplaceAll(narrow, "\r", ""), want) {
			t.Errorf("%q is missing:\n%s", want, narrow)
		}
	}
	wide := terminal.Shown(t, 180, func(file *os.File) { write(file) })
	if !strings.Contains(wide, "gateway.a589d9a2  ada") ||
		strings.Count(wide, "\n") != 2 {
		t.Errorf("180 columns:\n%s", wide)
	}
	var piped strings.Builder
	write(&piped)
	if text := piped.String(); !strings.Contains(text, "\ngateway."+id+"  ada") || strings.Count(text, "\n") != 2 {
		t.Errorf("for programs:\n%s", &piped)
	}
}
