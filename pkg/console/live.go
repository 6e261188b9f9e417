package console

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/event"
)

// liveTerminal keeps a live line for each build and load at the bottom of a terminal; the log
// scrolls above them. It is not safe for concurrent use.
type liveTerminal struct {
	*os.File
	bars  []liveBar // in the order in which they began
	drawn int       // lines that stand on the terminal
}

// liveBar is how far a build is, or an image on its way to the nodes.
type liveBar struct {
	stage       string
	image       event.Image
	step        string
	since       time.Time // when the step began
	done, total int       // steps
}

const (
	liveBarWidth = 16 // columns
	defaultWidth = 80 // columns, if the terminal does not report them
)

// newLiveTerminal returns nil where lines cannot be drawn again.
func newLiveTerminal(out *os.File) *liveTerminal {
	if !IsTerminal(out) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return &liveTerminal{File: out}
}

// Write writes complete lines above the live ones.
func (l *liveTerminal) Write(lines []byte) (int, error) {
	l.clear()
	n, err := l.File.Write(lines)
	l.draw()
	return n, err
}

// update follows builds and loads.
func (l *liveTerminal) update(e event.Event) {
	bar := liveBar{stage: e.Stage}
	switch p := e.Payload.(type) {
	case event.Build:
		bar.image, bar.step, bar.since, bar.done, bar.total = p.Image, p.Step, p.Since, p.Done, p.Total
	case event.Loading:
		bar.image, bar.step, bar.since = p.Image, "being packed", p.Since
		if p.Bytes > 0 {
			bar.step = Size(uint64(p.Bytes)) + " sent"
		}
	case event.Loaded:
		bar.image = p.Image
	default:
		return
	}
	at := slices.IndexFunc(l.bars, func(b liveBar) bool { return b.stage == e.Stage && b.image == bar.image })
	switch e.Phase {
	case event.Progress:
		if at < 0 {
			l.bars = append(l.bars, bar)
		} else {
			l.bars[at] = bar
		}
	case event.Succeeded, event.Failed, event.Superseded, event.Interrupted:
		if at < 0 {
			return
		}
		l.bars = slices.Delete(l.bars, at, at+1)
	default:
		return
	}
	l.clear()
	l.draw()
}

// clear erases the live lines. A terminal that is gone needs no error.
func (l *liveTerminal) clear() {
	if l.drawn == 0 {
		return
	}
	_, _ = l.File.WriteString("\r" + strings.Repeat(ansi.EraseEntireLine+ansi.CUU1, l.drawn-1) + ansi.EraseEntireLine)
	l.drawn = 0
}

func (l *liveTerminal) draw() {
	if len(l.bars) == 0 {
		return
	}
	width := l.width()
	lines := make([]string, len(l.bars))
	for i, bar := range l.bars {
		lines[i] = ansi.Truncate(event.Printable(bar.text(time.Now())), width-1, "…") // a full line would wrap
	}
	_, _ = l.File.WriteString(strings.Join(lines, "\n"))
	l.drawn = len(lines)
}

// width returns columns.
func (l *liveTerminal) width() int {
	if size, err := unix.IoctlGetWinsize(int(l.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
		return int(size.Col)
	}
	return defaultWidth
}

// fit returns the payload of a line with long texts cut.
func (l *liveTerminal) fit(e event.Event) any {
	switch payload := e.Payload.(type) {
	case event.Instruction:
		if e.Message == event.BuildStep {
			payload.Step = l.truncate(payload.Step, payload.Image)
		}
		return payload
	case event.Verification:
		payload.Command = l.truncate(payload.Command, payload.Image)
		return payload
	}
	return e.Payload
}

// truncate cuts a field of a line about an image to what the line has room for.
func (l *liveTerminal) truncate(text string, image event.Image) string {
	const others = 76 // columns: time, level, run, took and the names of the fields
	return ansi.Truncate(text, max(20, l.width()-others-len(image.String())), "…")
}

func (b liveBar) text(now time.Time) string {
	name := cmp.Or(b.image.Name, b.image.Ref)
	took := now.Sub(b.since).Round(time.Second)
	if b.stage == "node" { // only the node knows how much is to come
		return fmt.Sprintf("%s → node %*s %4s  %s", name, liveBarWidth, "", took, b.step)
	}
	full := 0
	if b.total > 0 {
		full = liveBarWidth * b.done / b.total
	}
	bar := strings.Repeat("━", full) + strings.Repeat("─", liveBarWidth-full)
	return fmt.Sprintf("%s %s %d/%d %4s  %s", name, bar, b.done, b.total, took, b.step)
}
