package console

import (
	"os"
	"strings"
	"testing"
	"time"

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
	if !strings.Contains(said, "\x1b[") || !strings.Contains(said, "WARN") {
		t.Errorf("no colours: %q", said)
	}
	if one, two := strings.Split(said, "web-1")[0],
		strings.Split(said, "web-2")[0]; one[strings.LastIndex(one, "\x1b"):] == two[strings.LastIndex(two, "\x1b"):] {
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
	said := onTerminal(t, 100, func(p *Printer) {
		p.Print(event.Event{Run: 12, Stage: "build", Phase: event.Noted, Message: event.BuildStep,
			Payload: event.Instruction{Image: event.Image{Name: "worker"}, Step: long}, Took: 12345 * time.Millisecond})
	})
	if line, _, _ := strings.Cut(said, "\r\n"); len([]rune(line)) > 100 || len([]rune(line)) < 80 ||
		!strings.HasSuffix(line, `…" took=12.345s`) {
		t.Errorf("%d columns: %q", len([]rune(line)), line)
	}
	said = onTerminal(t, 100, func(p *Printer) {
		p.Print(event.Event{Stage: "node", Phase: event.Noted, Message: "x", Fields: []any{"step", long}})
	})
	if !strings.Contains(strings.ReplaceAll(said, "\r\n", ""), strings.TrimSpace(long)) {
		t.Errorf("it is cut: %q", said)
	}
}
