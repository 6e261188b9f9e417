package console

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/event"
)

// liveTerminal keeps a live line for each stage under way at the bottom of a terminal; the log
// scrolls above them. It is not safe for concurrent use.
type liveTerminal struct {
	*os.File
	bars   []liveBar // in the order in which they began
	drawn  []int     // the columns of each line that stands on the terminal
	paused bool      // another program has the terminal
}

// liveBar is a stage that is under way, for one image or release.
type liveBar struct {
	label, name string
	text        string
	since       time.Time
}

const (
	liveBarWidth = 16 // columns
	maxLiveBars  = 8  // that are shown
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

// update follows the stages of a run.
func (l *liveTerminal) update(e event.Event) {
	if e.Message == event.RunComplete && e.Phase != event.Started {
		l.bars = nil
		l.redraw()
		return
	}
	bar, ok := barOf(e)
	if !ok {
		return
	}
	at := slices.IndexFunc(l.bars, func(b liveBar) bool { return b.label == bar.label && b.name == bar.name })
	switch {
	case !bar.since.IsZero():
	case at >= 0:
		bar.since = l.bars[at].since
	default:
		bar.since = time.Now()
	}
	switch e.Phase {
	case event.Progress, event.Started:
		if at >= 0 {
			l.bars[at] = bar
		} else if len(l.bars) < maxLiveBars {
			l.bars = append(l.bars, bar)
		}
	case event.Succeeded, event.Failed, event.Superseded, event.Interrupted:
		if at < 0 {
			return
		}
		l.bars = slices.Delete(l.bars, at, at+1)
	default:
		return
	}
	l.redraw()
}

// barOf returns what a live line shows of an event.
func barOf(e event.Event) (bar liveBar, ok bool) {
	bar.label = labelOf(e.Stage)
	switch p := e.Payload.(type) {
	case event.Build:
		bar.name, bar.since = imageName(p.Image), p.Since
		full := 0
		if p.Total > 0 {
			full = min(max(0, liveBarWidth*p.Done/p.Total), liveBarWidth)
		}
		bar.text = fmt.Sprintf("%s%s %d/%d  %s", strings.Repeat("━", full), strings.Repeat("─", liveBarWidth-full),
			p.Done, p.Total, p.Step)
		return bar, e.Phase != event.Started
	case event.Loading:
		bar.name, bar.since, bar.text = imageName(p.Image), p.Since, "being packed"
		if p.Bytes > 0 {
			bar.text = Size(uint64(p.Bytes)) + " sent"
		}
		return bar, e.Phase != event.Started
	case event.Loaded:
		bar.name = imageName(p.Image)
	case event.SyncedFiles:
		bar.name, bar.text = string(p.Image), "into its containers"
		return bar, p.Started == ""
	case event.Verification:
		bar.name, bar.text = imageName(p.Image), p.Command
	case event.Release:
		bar.name, bar.text = string(p.Name), "…"
	case event.Rollout:
		bar.label, bar.name, bar.text = rolloutLabel, string(p.Release), "waiting for the pods"
	case event.Answer:
		bar.name, bar.text = p.URL, "waiting for 200"
	default:
		return bar, false
	}
	return bar, true
}

func (l *liveTerminal) redraw() {
	l.clear()
	l.draw()
}

// clear erases the live lines, also where a terminal that has become narrower has broken them. One
// that is gone needs no error.
func (l *liveTerminal) clear() {
	if len(l.drawn) == 0 {
		return
	}
	_, _ = l.File.WriteString("\r" + strings.Repeat(ansi.EraseEntireLine+ansi.CUU1, l.rows()-1) + ansi.EraseEntireLine)
	l.drawn = nil
}

// rows is how many rows of the terminal the live lines take now.
func (l *liveTerminal) rows() (rows int) {
	width := columns(l.File)
	for _, drawn := range l.drawn {
		rows += max(1, (drawn+width-1)/width)
	}
	return rows
}

func (l *liveTerminal) draw() {
	if len(l.bars) == 0 || l.paused {
		return
	}
	layout := newLayout(columns(l.File), styles{})
	lines := make([]string, len(l.bars))
	for i, bar := range l.bars {
		lines[i] = layout.live(row{label: bar.label, subject: bar.name, text: bar.text,
			right: wholeSeconds(time.Since(bar.since))})
		l.drawn = append(l.drawn, ansi.StringWidth(lines[i]))
	}
	_, _ = l.File.WriteString(symbols(strings.Join(lines, "\n")))
}

// wholeSeconds is a time that goes on.
func wholeSeconds(d time.Duration) string {
	if d = d.Round(time.Second); d < time.Minute {
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return Took(d)
}

// columns is the width of a terminal at this moment.
func columns(terminal *os.File) int {
	if size, err := unix.IoctlGetWinsize(int(terminal.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
		return int(size.Col)
	}
	return defaultWidth
}
