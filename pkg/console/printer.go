package console

import (
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charmbracelet/log"
	containerdlog "github.com/containerd/log"
	"github.com/go-logr/logr"
	"github.com/muesli/termenv"
	"k8s.io/klog/v2"

	"github.com/devloop/devloop/pkg/event"
)

// The formats of the log.
const (
	FormatText   = "text"
	formatLogfmt = "logfmt"
	FormatJSON   = "json"
)

// LogFormats are all formats.
var LogFormats = []string{FormatText, formatLogfmt, FormatJSON}

// Printer writes events and errors in one format. It is safe for concurrent use.
type Printer struct {
	secrets   event.Secrets
	podFilter atomic.Pointer[PodFilter] // lines of pods that are shown; nil for none
	file      *Printer                  // of the log file, nil without one
	closeFile func() error

	terminal *os.File // nil unless out is one

	mu       sync.Mutex      // charmbracelet's loggers share a writer without a lock
	out      io.Writer       // a file, or live
	live     *liveTerminal   // nil unless out is a terminal where lines can be drawn again
	plain    *TerminalWriter // writes to out, without colours
	lines    *log.Logger     // text and logfmt
	now      time.Time       // of the line that is being written
	people   *transcript     // text on a terminal, else nil
	styles   styles          // of its lines
	coloured *TerminalWriter // writes to out
	ticks    bool            // live lines are drawn again within a second
	begun    bool            // a line has been written
	last     mark            // of the last row
	json     *json.Encoder   // nil for the other formats
	text     bool
	verbose  bool
	quiet    bool
	waiting  *waiting // nil unless another program has the terminal
}

// NewPrinter returns a Printer of text. It silences the libraries that log by themselves.
func NewPrinter(out io.Writer) *Printer {
	klog.SetLogger(logr.Discard())
	containerdlog.L.Logger.SetOutput(io.Discard) // its content store warns of file systems without fs-verity
	stdlog.SetOutput(io.Discard)
	if v, ok := out.(*TerminalWriter); ok { // lines have one of their own
		out = v.Out
	}
	p := &Printer{out: out}
	if file, ok := out.(*os.File); ok && IsTerminal(file) {
		p.terminal = file
		if p.live = newLiveTerminal(file); p.live != nil {
			p.out = p.live
		}
	}
	p.Configure(FormatText, false, false)
	return p
}

// Configure sets what is printed from now on. It must not be called while something is printed.
func (p *Printer) Configure(format string, verbose, quiet bool) {
	p.text, p.verbose, p.quiet, p.json = format == FormatText, verbose, quiet, nil
	p.plain = &TerminalWriter{Out: p.out}
	options := log.Options{Level: log.DebugLevel, ReportTimestamp: true, TimeFormat: "15:04:05.000",
		TimeFunction: func(time.Time) time.Time { return p.now }}
	switch format {
	case formatLogfmt:
		options.Formatter, options.TimeFormat = log.LogfmtFormatter, event.TimeFormat
	case FormatJSON:
		p.json = json.NewEncoder(ForPrograms(p.plain))
		p.json.SetEscapeHTML(false)
	}
	p.coloured = &TerminalWriter{Out: p.out, colours: p.text}
	p.lines, p.people = log.NewWithOptions(p.coloured, options), nil
	if p.terminal == nil {
		return
	}
	profile := termenv.NewOutput(p.terminal).EnvColorProfile()
	p.lines.SetColorProfile(profile) // which cannot see that it is a terminal
	if p.text {
		p.people, p.styles = &transcript{verbose: verbose, quiet: quiet}, newStyles(profile)
		p.people.folder, _ = os.Getwd() // "" shortens no path
		p.people.home, _ = os.UserHomeDir()
	}
}

// Secrets are those that the Printer hides from errors. Stages add to them.
func (p *Printer) Secrets() *event.Secrets { return &p.secrets }

// SetPodFilter chooses which lines of pods are shown, nil for none.
func (p *Printer) SetPodFilter(f *PodFilter) { p.podFilter.Store(f) }

// Print writes an event.
func (p *Printer) Print(e event.Event) {
	p.locked(func() {
		show := p.prepare(e)
		switch {
		case p.waiting != nil:
			p.waiting.keep(e, show)
		case show != nil:
			show()
		}
	})
	if p.file != nil {
		p.file.Print(e)
	}
}

// prepare returns what writes an event, nil if nothing does. The caller holds mu.
func (p *Printer) prepare(e event.Event) (show func()) {
	if p.live != nil && p.text {
		p.live.update(e)
		p.keepTicking()
	}
	switch {
	case e.Phase == event.Progress:
	case p.people != nil:
		if rows := p.people.rows(e); len(rows) > 0 {
			return func() { p.show(rows) }
		}
	case p.Shows(e):
		return func() { p.write(e, factOf(e)) }
	}
	return nil
}

// show writes rows to a terminal. The caller holds mu.
func (p *Printer) show(rows []row) {
	l := newLayout(columns(p.terminal), p.styles)
	var text strings.Builder
	for _, r := range rows {
		if r.mark == markRun && p.last != markRun && p.begun {
			text.WriteByte('\n')
		}
		for _, line := range l.lines(r) {
			text.WriteString(line + "\n")
		}
		p.begun, p.last = true, r.mark
	}
	if text.Len() > 0 { // standard error: there is nowhere to report that it is gone
		_, _ = io.WriteString(p.coloured, symbols(text.String()))
	}
}

// locked gives the lock back also if work panics.
func (p *Printer) locked(work func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	work()
}

// Shows reports whether Print has a use for the event: on a terminal for all, since one line tells
// of several.
func (p *Printer) Shows(e event.Event) bool {
	switch level := e.Level(); {
	case p.verbose, p.people != nil:
		return true
	case !p.quiet:
		return level != event.Debug
	case level == event.Warning, level == event.Error:
		return true
	default:
		return e.Message == event.RunComplete && level != event.Debug || e.Message == event.PodLog
	}
}

// PrintError prints the error that devloop exits with: the facts, what to do about each, and with
// -v its causes.
func (p *Printer) PrintError(err error, exitCode int) {
	err = p.secrets.Error(err)
	if p.file != nil {
		p.file.PrintError(err, exitCode)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live != nil {
		p.live.bars = nil // of builds that were given up
	}
	for _, f := range Facts(err) {
		if f.problems == nil { // those are a line each
			f.Message = shorten(f.Message)
		}
		if !p.text {
			p.write(event.Event{Time: time.Now(), Stage: "devloop", Phase: event.Failed, Message: "devloop ends",
				Fields: []any{"code", exitCode}}, f)
			continue
		}
		if f.problems == nil { // else file:line:column comes first, where editors look for it
			f.Message = "devloop: " + f.Message
		}
		if p.people != nil {
			p.showFact(f)
			continue
		}
		_, _ = fmt.Fprintln(p.plain, f.Message) // standard error: there is nowhere to report that it is gone
		if f.Hint != "" {
			_, _ = fmt.Fprintln(p.plain, "  → "+f.Hint)
		}
		if p.verbose {
			for _, cause := range f.causes {
				_, _ = fmt.Fprintln(p.plain, "    because "+cause)
			}
		}
	}
}

// showFact is PrintError on a terminal: what it prints is wrapped between words.
func (p *Printer) showFact(f Fact) {
	l := newLayout(columns(p.terminal), p.styles)
	lines := wrap(printableLines(f.Message), l.width)
	if f.Hint != "" {
		lines = append(lines, l.hint("  ", f.Hint)...)
	}
	if p.verbose {
		for _, cause := range f.causes {
			lines = append(lines, l.block("    ", l.faint, l.wrapped("because "+cause, 4), l.faint)...)
		}
	}
	_, _ = io.WriteString(p.coloured, symbols(strings.Join(lines, "\n")+"\n"))
}

// redraw draws the live lines wherever the cursor is now: another program has written meanwhile.
func (p *Printer) redraw() {
	p.locked(func() {
		if p.live != nil {
			p.live.drawn = nil
			p.live.draw()
		}
	})
}

// keepTicking has live lines show that time goes on, while there are some. The caller holds mu.
func (p *Printer) keepTicking() {
	if len(p.live.bars) == 0 || p.ticks {
		return
	}
	p.ticks = true
	time.AfterFunc(time.Second, func() {
		p.locked(func() {
			p.ticks = false
			p.live.redraw()
			p.keepTicking()
		})
	})
}
