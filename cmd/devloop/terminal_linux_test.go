package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/event"
)

// openTerminal returns both ends of a terminal of a width: what is typed goes into the master,
// where also is read what is shown.
func openTerminal(t *testing.T, columns uint16) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns})
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return master, terminal
}

// onTerminal returns what a terminal of a width gets when a printer writes there.
func onTerminal(t *testing.T, columns uint16, write func(*printer)) string {
	t.Helper()
	master, terminal := openTerminal(t, columns)
	write(newPrinter(terminal))
	if _, err := terminal.WriteString("the end"); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	buffer := make([]byte, 64<<10)
	for deadline := time.Now().Add(time.Minute); !strings.HasSuffix(said.String(), "the end"); {
		n, err := master.Read(buffer)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%q, %v", said.String(), err)
		}
		said.Write(buffer[:n])
	}
	return said.String()
}

func TestColours(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	t.Setenv("NO_COLOR", "")
	t.Setenv("CI", "")
	lines := func(p *printer) {
		p.pods.Store(&podFilter{})
		for _, e := range []event.Event{
			{Stage: "node", Phase: event.Warned, Message: "image stays"},
			podLine("web-1", "info", "hello"), podLine("web-2", "error", "oh no"),
		} {
			p.event(e)
		}
	}
	said := onTerminal(t, 80, lines)
	if !strings.Contains(said, "\x1b[") || !strings.Contains(said, "WARN") {
		t.Errorf("no colours: %q", said)
	}
	if one, two := strings.Split(said, "web-1")[0], strings.Split(said, "web-2")[0]; one[strings.LastIndex(one, "\x1b"):] == two[strings.LastIndex(two, "\x1b"):] {
		t.Errorf("both pods have one colour: %q", said)
	}
	t.Setenv("NO_COLOR", "1")
	if said := onTerminal(t, 80, lines); strings.Contains(said, "\x1b[") || !strings.Contains(said, "ERRO web-2: oh no") {
		t.Errorf("colours: %q", said)
	}
}

// A build step's text is cut to what a line has room for; nothing else is.
func TestLinesFitTheTerminal(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	long := strings.Repeat("RUN pip install ", 20)
	said := onTerminal(t, 100, func(p *printer) {
		p.event(event.Event{Run: 12, Stage: "build", Phase: event.Noted, Message: event.BuildStep, Fields: []any{"image", "worker", "step", long}, Took: 12345 * time.Millisecond})
	})
	if line, _, _ := strings.Cut(said, "\r\n"); len([]rune(line)) > 100 || len([]rune(line)) < 80 || !strings.HasSuffix(line, `…" took=12.345s`) {
		t.Errorf("%d columns: %q", len([]rune(line)), line)
	}
	said = onTerminal(t, 100, func(p *printer) {
		p.event(event.Event{Stage: "node", Phase: event.Noted, Message: "x", Fields: []any{"step", long}})
	})
	if !strings.Contains(strings.ReplaceAll(said, "\r\n", ""), strings.TrimSpace(long)) {
		t.Errorf("it is cut: %q", said)
	}
}

// What programs read is exact in a file and a pipe; a person's terminal shows escapes, also of JSON in the log.
func TestDataOnTerminal(t *testing.T) {
	cmd := &cobra.Command{}
	write := func(file *os.File) {
		cmd.SetOut(&visible{out: file})
		if _, err := io.WriteString(dataOut(cmd), "a\u202eb\x1b[31m\n"); err != nil {
			t.Fatal(err)
		}
	}
	said := onTerminal(t, 80, func(p *printer) {
		write(p.live.File)
		p.configure(formatJSON, false, false)
		p.event(event.Event{Stage: "node", Phase: event.Noted, Message: "\u202e"})
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

func podLine(pod, level, line string) event.Event {
	return event.Event{Time: noon, Stage: event.PodStage, Phase: event.Noted, Message: event.PodLog,
		Fields: []any{"pod", pod, "namespace", "ns", "container", "web", "level", level, "line", line}}
}
