// The last lines of a terminal, which show how far builds and loads are while they last. What is logged is written above them.
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

// live is a terminal with such lines. It is not safe for concurrent use.
type live struct {
	*os.File           // the terminal, also for those who ask what it can
	bars     []liveBar // in the order in which they began
	drawn    int       // lines that stand on the terminal
}

// liveBar is a build, or an image on its way to the nodes.
type liveBar struct {
	stage       string
	image       event.Image
	step        string
	since       time.Time // when the step began
	done, total int       // steps
}

const (
	liveBarWidth = 16 // columns
	usualWidth   = 80 // of a terminal that does not say
)

// newLive returns nil where lines cannot be drawn again.
func newLive(out *os.File) *live {
	if !IsTerminal(out) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return &live{File: out}
}

// Write writes whole lines above the live ones.
func (l *live) Write(lines []byte) (int, error) {
	l.clear()
	n, err := l.File.Write(lines)
	l.draw()
	return n, err
}

// take follows builds and loads.
func (l *live) take(e event.Event) {
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

// clear takes the live lines away. What cannot be written is lost with the terminal.
func (l *live) clear() {
	if l.drawn == 0 {
		return
	}
	_, _ = l.File.WriteString("\r" + strings.Repeat(ansi.EraseEntireLine+ansi.CUU1, l.drawn-1) + ansi.EraseEntireLine)
	l.drawn = 0
}

// width of the terminal, in columns.
func (l *live) width() int {
	if size, err := unix.IoctlGetWinsize(int(l.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
		return int(size.Col)
	}
	return usualWidth
}

func (l *live) draw() {
	if len(l.bars) == 0 {
		return
	}
	width := l.width()
	lines := make([]string, len(l.bars))
	for i, bar := range l.bars {
		lines[i] = ansi.Truncate(event.Printable(bar.text(time.Now())), width-1, "…") // a full line would break
	}
	_, _ = l.File.WriteString(strings.Join(lines, "\n"))
	l.drawn = len(lines)
}

func (b liveBar) text(now time.Time) string {
	name := cmp.Or(b.image.Name, b.image.Ref)
	took := now.Sub(b.since).Round(time.Second)
	if b.stage == "node" { // how much there is to come is the node's secret
		return fmt.Sprintf("%s → node %*s %4s  %s", name, liveBarWidth, "", took, b.step)
	}
	full := 0
	if b.total > 0 {
		full = liveBarWidth * b.done / b.total
	}
	return fmt.Sprintf("%s %s%s %d/%d %4s  %s", name, strings.Repeat("━", full), strings.Repeat("─", liveBarWidth-full), b.done, b.total,
		took, b.step)
}
