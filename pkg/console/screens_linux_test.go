package console

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"github.com/tonistiigi/vt100"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/test/terminal"
)

var update = flag.Bool("update", false, "write testdata/screens anew")

// screen returns what stands on a terminal after it got this.
func screen(t *testing.T, columns int, written string) string {
	t.Helper()
	height := strings.Count(written, "\n") + len(written)/columns + 2 // a terminal breaks long lines
	emulator := vt100.NewVT100(height, columns)
	if _, err := emulator.Write([]byte(written)); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, row := range emulator.Content {
		lines = append(lines, strings.TrimRight(strings.ReplaceAll(string(row), "\x00", " "), " "))
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n"
}

// play has a printer print events on a terminal.
func play(t *testing.T, columns int, verbose bool, events []event.Event) string {
	t.Helper()
	said := onTerminal(t, uint16(columns), func(p *Printer) {
		p.Configure(FormatText, verbose, false)
		for _, e := range events {
			p.Print(e)
		}
	})
	return strings.TrimSuffix(said, "the end")
}

// TestScreens compares what terminals of three widths show of recorded runs with
// testdata/screens/*.txt. To write these anew: go test ./pkg/console -run TestScreens -update
func TestScreens(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	t.Setenv("NO_COLOR", "")
	t.Setenv("CI", "")
	for _, file := range streams(t) {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			events := stream(t, file)
			for _, columns := range []int{80, 110, 180} {
				golden := filepath.Join("testdata", "screens", fmt.Sprintf("%s.%d.txt", name, columns))
				shown := screen(t, columns, play(t, columns, false, events))
				if *update {
					if err := os.WriteFile(golden, []byte(shown), 0o644); err != nil {
						t.Fatal(err)
					}
					continue
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if shown != string(want) {
					t.Errorf("%d columns:\n%s\nnot\n%s", columns, shown, want)
				}
			}
		})
	}
}

// What the lines hold, they hold without colours, too.
func TestScreensWithoutColours(t *testing.T) {
	for _, file := range streams(t) {
		events := stream(t, file)
		t.Setenv("TERM", "xterm-256color")
		t.Setenv("CI", "")
		t.Setenv("NO_COLOR", "")
		coloured := play(t, 110, true, events)
		t.Setenv("NO_COLOR", "1")
		plain := play(t, 110, true, events)
		if !strings.Contains(coloured, "\x1b[") || strings.Contains(screen(t, 110, plain), "\x1b") {
			t.Errorf("%s: colours are not as asked for", file)
		}
		if screen(t, 110, coloured) != screen(t, 110, plain) {
			t.Errorf("%s: the text differs", file)
		}
		t.Setenv("TERM", "dumb")
		if dumb := play(t, 110, true, events); strings.Contains(dumb, "\x1b") ||
			screen(t, 110, dumb) != screen(t, 110, plain) {
			t.Errorf("%s: a dumb terminal gets something else", file)
		}
	}
}

// With -v, all that the log has in JSON is on the terminal.
func TestVerboseScreensHaveAll(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	t.Setenv("TERM", "dumb")
	for _, file := range streams(t) {
		events := stream(t, file)
		shown := strings.Join(strings.Fields(play(t, 180, true, events)), "")
		for _, e := range events {
			if line, ok := e.Payload.(event.LogLine); ok {
				e = event.Event{Message: string(line.Pod), Fields: []any{"", line.Line}} // it has lines of its own
			}
			texts := []string{e.Message}
			if e.Err != nil {
				texts = append(texts, strings.Split(shorten(e.Err.Error()), "\n")...)
			}
			for i, detail := range e.Details() {
				if list, ok := detail.(interface{ String() string }); ok && i%2 == 1 {
					texts = append(texts, list.String())
				} else if text, ok := detail.(string); ok {
					texts = append(texts, strings.Split(text, "\n")...)
				}
			}
			for _, text := range texts {
				text = strings.ReplaceAll(event.Printable(text), `"`, `\"`)
				if !strings.Contains(shown, strings.Join(strings.Fields(text), "")) &&
					!strings.Contains(shown, strings.ReplaceAll(strings.Join(strings.Fields(text), ""), `\"`, `"`)) {
					t.Errorf("%s: %s: %q is not shown", file, e.Message, text)
				}
			}
		}
	}
}

// fits checks what holds for each screen.
func fits(t *testing.T, columns int, shown string) {
	t.Helper()
	last := "?"
	for line := range strings.SplitSeq(strings.ReplaceAll(ansi.Strip(shown), "\r\n", "\n"), "\n") {
		if ansi.StringWidth(line) > max(columns, narrowest) && !strings.Contains(line, "://") {
			t.Errorf("%d columns: %d: %q", columns, ansi.StringWidth(line), line)
		}
		if line == "" && last == "" {
			t.Errorf("%d columns: two empty lines in\n%s", columns, shown)
		}
		last = line
	}
	if left := terminal.Unprintable(strings.ReplaceAll(shown, "\r", ""), true); left != "" {
		t.Errorf("%q in %q", left, shown)
	}
}

// Lines fit every terminal, and come without an empty line after another one.
func TestScreensFit(t *testing.T) {
	t.Setenv("TERM", "dumb") // no live lines, which are drawn over
	for _, file := range streams(t) {
		events := stream(t, file)
		for _, columns := range []int{1, 20, 33, 60, 79, 80, 81, 110, 200, 250} {
			for _, verbose := range []bool{false, true} {
				fits(t, columns, strings.TrimSuffix(play(t, columns, verbose, events), "\n"))
			}
		}
	}
}

// words of a line are never cut where the terminal has room for them.
func TestWordsStayWhole(t *testing.T) {
	const message = "image worker: Dockerfile: the installation of all these requirements failed, see the output"
	for width := narrowest; width <= 120; width++ {
		got := strings.Fields(strings.Join(wrap([]string{message}, width), " "))
		if !slices.Equal(got, strings.Fields(message)) {
			t.Errorf("%d: %q", width, got)
		}
	}
}
