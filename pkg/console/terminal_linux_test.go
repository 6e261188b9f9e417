package console

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/muesli/termenv"
	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/test/terminal"
)

// onTerminal returns what a terminal of a width gets when a printer writes there.
func onTerminal(t *testing.T, columns uint16, write func(*Printer)) string {
	t.Helper()
	return terminal.Shown(t, columns, func(file *os.File) { write(NewPrinter(file)) })
}

func TestColours(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	t.Setenv("NO_COLOR", "")
	t.Setenv("CI", "")
	lines := func(p *Printer) {
		p.SetPodFilter(&PodFilter{})
		for _, e := range []event.Event{
			{Stage: "node", Phase: event.Warned, Message: "image stays"},
			podLine("web-1", "info", "hello"), podLine("web-2", "error", "oh no"),
		} {
			p.Print(e)
		}
	}
	said := onTerminal(t, 80, lines)
	if !strings.Contains(said, "\x1b[") || !strings.Contains(said, "image stays") {
		t.Errorf("no colours: %q", said)
	}
	if one, two := strings.Split(said, "web-1")[0],
		strings.Split(said, "web-2")[0]; one[strings.LastIndex(one, "\x1b"):] == two[strings.LastIndex(two, "\x1b"):] {
		t.Errorf("both pods have one colour: %q", said)
	}
	t.Setenv("NO_COLOR", "1")
	if said := onTerminal(t, 80, lines); strings.Contains(said, "\x1b[") ||
		!strings.Contains(said, "12:00:00 web-2  error: oh no") {
		t.Errorf("colours: %q", said)
	}
}

// A stage of which nothing is reported shows that time goes on, also after another program had the
// terminal.
func TestLiveLinesTick(t *testing.T) {
	t.Setenv("TERM", "xterm")
	master, file := terminal.Open(t, 80)
	if err := master.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	p := NewPrinter(file)
	rollout := event.Event{Stage: "deploy", Phase: event.Started, Message: event.RolloutComplete, Payload: event.Rollout{}}
	p.Print(rollout)
	shown := ""
	await := func(text string) {
		t.Helper()
		buffer := make([]byte, 4096)
		for !strings.Contains(shown, text) {
			n, err := master.Read(buffer)
			if err != nil {
				t.Fatalf("%q, %v", shown, err)
			}
			shown += string(buffer[:n])
		}
		_, shown, _ = strings.Cut(shown, text)
	}
	await("0 s")
	await("1 s")
	p.pause()
	p.resume()
	await("waiting for the pods")
	await("2 s")
	rollout.Phase = event.Succeeded
	p.Print(rollout)
}

// A terminal that becomes narrower breaks the live lines: all of them are erased.
func TestLiveLinesOfNarrowerTerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	_, file := terminal.Open(t, 80)
	l := &liveTerminal{File: file, bars: []liveBar{{label: "build", name: "worker"}, {label: "build", name: "client"}}}
	l.draw()
	if err := unix.IoctlSetWinsize(int(file.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 30}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(l.drawn, l.rows()); got != "[79 79] 6" {
		t.Errorf("columns of the lines, and rows that they take: %s", got)
	}
}

// Where the locale has no Unicode, what devloop itself adds is ASCII.
func TestScreensInASCII(t *testing.T) {
	t.Setenv("TERM", "dumb")
	t.Setenv("LC_ALL", "C")
	for _, file := range streams(t) {
		if strings.Contains(file, "wide-characters") || strings.Contains(file, "build-fails") { // others' own
			continue
		}
		for line := range strings.SplitSeq(play(t, 80, false, stream(t, file)), "\n") {
			if strings.ContainsFunc(line, func(r rune) bool { return r > '~' }) || ansi.StringWidth(line) > 80+1 &&
				!strings.Contains(line, "://") {
				t.Errorf("%s: %q", file, line)
			}
		}
	}
}

// What is said of this machine's Python reads as a sentence, with short paths.
func TestPythonRows(t *testing.T) {
	tr := &transcript{folder: "/home/ada/platform", home: "/home/ada"}
	for _, test := range []struct {
		e    event.Event
		want string
	}{
		{event.Event{Stage: "proof", Phase: event.Noted, Message: event.LocalPython, Fields: []any{
			"path", "/home/ada/platform/.venv", "kind", "venv", "python", "3.11.2", "by", "VIRTUAL_ENV"}},
			"  python   .venv (venv, Python 3.11.2), by VIRTUAL_ENV"},
		{event.Event{Stage: "proof", Phase: event.Noted, Message: event.LocalPython, Fields: []any{
			"path", "/home/ada/envs/a", "kind", "conda", "python", "", "by", "CONDA_PREFIX"}},
			"  python   ~/envs/a (conda, Python of unknown version), by CONDA_PREFIX"},
		{event.Event{Stage: "local", Phase: event.Succeeded, Message: event.VenvSynced, Took: 5 * time.Second, Fields: []any{
			"venv", ".venv", "file", "requirements.txt", "installed", "tabulate-0.9.0 python-dateutil-2.9.0 and 3 more"}},
			"  venv     .venv                + tabulate 0.9.0, + python-dateutil 2.9.0, … 3 more  5.0 s"},
	} {
		got := strings.Join(newLayout(110, newStyles(termenv.Ascii)).lines(tr.rows(test.e)[0]), "\n")
		if strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(test.want), " ") {
			t.Errorf("it says\n%s\nand should\n%s", got, test.want)
		}
	}
}
