// The log: what happened, and the error that devloop ends with, as lines for people (text) or for machines (logfmt, JSON). This
// file is the only one that writes to standard error.
package console

import (
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"os"
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

// The formats of --log-format.
const (
	FormatText   = "text"
	formatLogfmt = "logfmt"
	FormatJSON   = "json"
)

var LogFormats = []string{FormatText, formatLogfmt, FormatJSON}

// Printer writes lines in one of the formats. It is safe for concurrent use: charmbracelet's loggers share a writer without a lock.
type Printer struct {
	mu        sync.Mutex
	out       io.Writer       // the file itself, or the terminal with its live lines
	plain     *TerminalWriter // before it, for text without colours
	lines     *log.Logger     // text and logfmt
	now       time.Time       // of the line that is being written
	json      *json.Encoder   // nil for the other formats
	terminal  bool            // a person's
	Live      *live           // below the lines of text on a terminal, nil elsewhere
	text      bool
	verbose   bool
	quiet     bool
	ShownPods atomic.Pointer[PodFilter] // which lines of pods are shown
	File      *Printer                  // that gets the same lines, nil if there is none
	Secrets   *event.Secrets
	Close     func() error // of a file, else nil
}

// NewPrinter returns a printer of text: what goes wrong before the flags are read is for people.
func NewPrinter(out io.Writer) *Printer {
	// Libraries that log by themselves would write between our lines.
	klog.SetLogger(logr.Discard())
	containerdlog.L.Logger.SetOutput(io.Discard) // its content store warns of file systems without fs-verity
	stdlog.SetOutput(io.Discard)
	if v, ok := out.(*TerminalWriter); ok { // which the lines get again, but for their colours
		out = v.Out
	}
	p := &Printer{out: out, Secrets: &event.Secrets{}}
	if terminal, ok := out.(*os.File); ok {
		p.terminal = IsTerminal(terminal)
		if p.Live = newLive(terminal); p.Live != nil {
			p.out = p.Live
		}
	}
	p.Configure(FormatText, false, false)
	return p
}

func (p *Printer) Configure(format string, verbose, quiet bool) {
	p.text, p.verbose, p.quiet, p.json, p.plain = format == FormatText, verbose, quiet, nil, &TerminalWriter{Out: p.out}
	options := log.Options{Level: log.DebugLevel, ReportTimestamp: true, TimeFormat: "15:04:05.000",
		TimeFunction: func(time.Time) time.Time { return p.now }}
	switch format {
	case formatLogfmt:
		options.Formatter, options.TimeFormat = log.LogfmtFormatter, event.TimeFormat
	case FormatJSON:
		p.json = json.NewEncoder(p.out)
		if p.terminal {
			p.json = json.NewEncoder(p.plain)
		}
		p.json.SetEscapeHTML(false)
	}
	p.lines = log.NewWithOptions(&TerminalWriter{Out: p.out, colours: p.text}, options)
	if p.Live != nil { // which hides from the library that it is a terminal
		p.lines.SetColorProfile(termenv.NewOutput(p.Live.File).EnvColorProfile())
	}
}

// Print writes one event. An error is shown where the whole run failed, not again for each step on the way up.
func (p *Printer) Print(e event.Event) {
	e = e.Typed()
	if p.Live != nil && p.text {
		p.locked(func() { p.Live.take(e) })
	}
	if e.Phase == event.Progress {
		return
	}
	var f fact
	if e.Err != nil && e.Phase != event.Superseded && e.Phase != event.Interrupted {
		f = fact{Message: e.Err.Error(), Hint: event.Hint(e.Err)}
		if e.Stage == "loop" {
			f.causes = causes(e.Err)
		}
	}
	p.locked(func() { p.write(e, f) })
	if p.File != nil {
		p.File.Print(e)
	}
}

// locked gives the lock back also if work panics.
func (p *Printer) locked(work func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	work()
}

// Wanted tells whether the line is to be seen at all.
func (p *Printer) Wanted(e event.Event) bool {
	switch level := e.Level(); {
	case p.verbose:
		return true
	case p.Live != nil && p.text && (e.Message == event.BuildingImage || e.Message == event.LoadingImage):
		return false // it is shown below the lines
	case !p.quiet:
		return level != event.Debug
	default: // how each run ended, and what went wrong
		return level == event.Warning || level == event.Error || e.Message == event.RunComplete && level != event.Debug || e.Message == event.PodLog
	}
}

// PrintEnd prints the error that devloop ends with. With -v the causes follow, one a line.
func (p *Printer) PrintEnd(err error, code int) {
	err = p.Secrets.Error(err)
	if p.File != nil {
		p.File.PrintEnd(err, code)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Live != nil {
		p.Live.bars = nil // of builds that are not waited for
	}
	for _, f := range Facts(err) {
		message := f.Message
		if f.problems == nil { // those are a line each
			message = shorten(message)
		}
		if !p.text {
			f.Message = message
			p.write(event.Event{Time: time.Now(), Stage: "devloop", Phase: event.Failed, Message: "devloop ends", Fields: []any{"code", code}}, f)
			continue
		}
		if f.problems == nil { // else file:line:column comes first, where editors look for it
			message = "devloop: " + message
		}
		_, _ = fmt.Fprintln(p.plain, message)
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

// redraw draws the live lines wherever the cursor is now: another program has written meanwhile.
func (p *Printer) redraw() {
	p.locked(func() {
		if p.Live != nil {
			p.Live.drawn = 0
			p.Live.draw()
		}
	})
}
