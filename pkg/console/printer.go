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

	mu      sync.Mutex      // charmbracelet's loggers share a writer without a lock
	out     io.Writer       // a file, or live
	live    *liveTerminal   // nil unless out is a terminal
	plain   *TerminalWriter // writes to out, without colours
	lines   *log.Logger     // text and logfmt
	now     time.Time       // of the line that is being written
	json    *json.Encoder   // nil for the other formats
	text    bool
	verbose bool
	quiet   bool
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
	if file, ok := out.(*os.File); ok {
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
	p.lines = log.NewWithOptions(&TerminalWriter{Out: p.out, colours: p.text}, options)
	if p.live != nil { // which hides from the library that it is a terminal
		p.lines.SetColorProfile(termenv.NewOutput(p.live.File).EnvColorProfile())
	}
}

// Secrets are those that the Printer hides from errors. Stages add to them.
func (p *Printer) Secrets() *event.Secrets { return &p.secrets }

// SetPodFilter chooses which lines of pods are shown, nil for none.
func (p *Printer) SetPodFilter(f *PodFilter) { p.podFilter.Store(f) }

// Print writes an event.
func (p *Printer) Print(e event.Event) {
	p.locked(func() {
		if p.live != nil && p.text {
			p.live.update(e)
		}
		if e.Phase != event.Progress {
			p.write(e, factOf(e))
		}
	})
	if p.file != nil {
		p.file.Print(e)
	}
}

// locked gives the lock back also if work panics.
func (p *Printer) locked(work func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	work()
}

// Shows reports whether Print writes the event.
func (p *Printer) Shows(e event.Event) bool {
	switch level := e.Level(); {
	case p.verbose:
		return true
	case p.live != nil && p.text && (e.Message == event.BuildingImage || e.Message == event.LoadingImage):
		return false // it has a live line
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

// redraw draws the live lines wherever the cursor is now: another program has written meanwhile.
func (p *Printer) redraw() {
	p.locked(func() {
		if p.live != nil {
			p.live.drawn = 0
			p.live.draw()
		}
	})
}
