// The log: what happened, and the error that devloop ends with, as lines for people (text) or for machines (logfmt, JSON). This
// file is the only one that writes to standard error.
package console

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	stdlog "log"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/log"
	"github.com/charmbracelet/x/ansi"
	containerdlog "github.com/containerd/log"
	"github.com/go-logr/logr"
	"github.com/muesli/cancelreader"
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

// logBacklog is how many events may wait for a slow terminal; beyond it events are dropped and counted, since nothing may hold up the loop.
const logBacklog = 4096

// dropInterval is how often it is told at most.
const dropInterval = time.Second

// Logger turns events into lines, on a goroutine of its own. Close it to see the last of them.
type Logger struct {
	printer *Printer
	events  chan event.Event
	dropped atomic.Int64
	done    sync.WaitGroup
	broken  sync.Once // a line could not be printed
}

func NewLogger(p *Printer) *Logger {
	l := &Logger{printer: p, events: make(chan event.Event, logBacklog)}
	l.done.Go(func() {
		var told time.Time
		for e := range l.events {
			l.print(e)
			if time.Since(told) < dropInterval {
				continue
			}
			if n := l.dropped.Swap(0); n > 0 {
				told = time.Now()
				l.print(event.Event{Time: told, Stage: "log", Phase: event.Warned,
					Message: "the terminal is too slow, lines were dropped", Fields: []any{"lines", n}})
			}
		}
	})
	return l
}

// print prints an event, whatever becomes of it: a line that panics is lost, and a plain one says
// so.
func (l *Logger) print(e event.Event) {
	err := event.Guard(func() error {
		l.printer.Print(e)
		return nil
	})
	if err != nil {
		l.broken.Do(func() {
			_, _ = fmt.Fprintf(os.Stderr, "devloop: %q cannot be shown: %q\n  → %s\n", e.Message, err, event.Hint(err))
		})
	}
}

// Sink is l's event.Sink. It must not be called after close.
func (l *Logger) Sink(e event.Event) {
	if e.Message == event.PodLog { // pods may print a lot: half of the room is devloop's own
		if !l.printer.ShownPods.Load().Shows(e) {
			return
		}
		if len(l.events) > logBacklog/2 {
			l.dropped.Add(1)
			return
		}
	}
	select {
	case l.events <- e:
	default:
		l.dropped.Add(1)
	}
}

func (l *Logger) Close() {
	close(l.events)
	l.done.Wait()
}

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

// write writes one line in the format that was asked for; f is what went wrong, if something did. The caller holds mu.
func (p *Printer) write(e event.Event, f fact) {
	if !p.Wanted(e) {
		return
	}
	if !p.verbose {
		f.causes = nil
	}
	if p.json != nil {
		fields := slices.Clone(e.Fields)
		if f.problems != nil {
			fields = append(fields, "problems", f.problems)
		}
		if len(f.causes) > 0 {
			fields = append(fields, "causes", f.causes)
		}
		e.Fields = fields
		if e.Err = nil; f.Message != "" {
			e.Err = event.WithHint(errors.New(f.Message), f.Hint)
		}
		_ = p.json.Encode(e) // there is nowhere left to say that standard error is gone
		return
	}
	p.now = e.Time
	if line, ok := e.Payload.(event.LogLine); ok && p.text { // what a pod printed is for reading
		p.ofPod(line).Log(levels[line.Level], event.Printable(line.Line))
		return
	}
	fields, message := p.details(e), inWords(e)
	ready := p.text && e.Message == event.RunComplete && e.Phase == event.Succeeded
	if ready { // what it took is in the words
		end, ok := e.Payload.(event.RunEnd)
		if !ok {
			end.Total = e.Took.Seconds()
		}
		message = "ready in " + end.Summary()
	}
	if e.Run > 0 {
		fields = append([]any{"run", e.Run}, fields...)
	}
	if e.Took > 0 && !ready {
		fields = append(fields, "took", e.Took.Round(time.Millisecond))
	}
	switch {
	case f.problems != nil: // a line each
		fields = append(fields, "err", f.Message)
	case f.Message != "":
		fields = append(fields, "err", shorten(f.Message))
	}
	if f.Hint != "" {
		fields = append(fields, "hint", f.Hint)
	}
	if len(f.causes) > 0 {
		fields = append(fields, "causes", strings.Join(f.causes, "\n"))
	}
	fields = unreserved(fields)
	if p.text { // the others have escapes of their own
		message, fields = event.Printable(message), visibleFields(fields)
	}
	p.lines.WithPrefix(e.Stage).Log(levels[e.Level()], message, fields...)
}

// details returns the fields of a line. For people, they leave out what the message says already, and
// on a terminal sizes have units and long texts are cut.
func (p *Printer) details(e event.Event) []any {
	if _, ok := e.Payload.(event.RunEnd); ok && p.text {
		return e.Fields
	}
	const rest = 76 // columns: time, level, run, took and the names of the fields
	var shown []any
	all := e.Details()
	for i := 0; i+1 < len(all); i += 2 {
		key, value := all[i], all[i+1]
		switch v := value.(type) {
		case event.Links: // the error says which is broken
			if p.text && (e.Phase == event.Failed || !p.verbose) {
				continue
			}
		case event.DaskClusters:
			if p.text {
				value = oldClusters(v)
			}
		case event.Differences:
			if comparison, ok := e.Payload.(event.Comparison); ok && p.text {
				value = Table(comparison, TableRows)
			}
		case []string:
			if key == "places" {
				value = strings.Join(v, ",")
			}
		case int64:
			if key == "bytes" && p.text && p.Live != nil {
				value = Size(uint64(max(v, 0)))
			}
		case string:
			if p.text && p.Live != nil && (key == "step" && e.Message == event.BuildStep || key == "command" &&
				e.Message == event.ImageVerified) {
				value = ansi.Truncate(v, max(20, p.Live.width()-rest-len(fmt.Sprint(e.Field("image")))), "…")
			}
		}
		if _, ok := e.Payload.(event.Forward); ok && p.text && !p.verbose && slices.Contains(ofState, key) {
			continue
		}
		shown = append(shown, key, value)
	}
	return shown
}

// ofState are fields of a forward that its messages say already, or that few people want to see.
var ofState = []any{"state", "open", "held", "sent", "received"}

// oldClusters returns clusters as people read them, a line each.
func oldClusters(clusters event.DaskClusters) string {
	lines := make([]string, len(clusters))
	for i, c := range clusters {
		lines[i] = fmt.Sprintf("%s of %s: %s, %s old", c.FullName(), OrDash(c.Owner), c.Image, Age(c.Since))
	}
	return strings.Join(lines, "\n")
}

// levels are the library's.
var levels = map[event.Level]log.Level{event.Debug: log.DebugLevel, event.Info: log.InfoLevel, event.Warning: log.WarnLevel, event.Error: log.ErrorLevel}

// ofPod writes lines of a pod, which has a colour of its own.
func (p *Printer) ofPod(line event.LogLine) *log.Logger {
	pod, container := string(line.Pod), string(line.Container)
	if !strings.Contains(pod, container) { // else the pod's name says which it is
		pod += "/" + container
	}
	lines := p.lines.WithPrefix(event.Printable(pod))
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(pod)) // a hash takes all
	styles := log.DefaultStyles()
	styles.Prefix = lipgloss.NewStyle().Foreground(podColours[sum.Sum32()%uint32(len(podColours))])
	lines.SetStyles(styles)
	return lines
}

// podColours are readable on a dark and on a light ground: to ask the terminal which it has would take a key from who reads the keys.
var podColours = []lipgloss.Color{"32", "35", "133", "166", "37", "161"}

// inWords is an event's message for a person.
func inWords(e event.Event) string {
	if (e.Stage == "devloop" || e.Message == event.InternalError) && e.Phase == event.Failed {
		return e.Message
	}
	if e.Stage == "loop" {
		switch e.Phase {
		case event.Failed:
			return "run failed, what ran keeps running"
		case event.Superseded:
			return "run superseded by a newer change"
		case event.Interrupted:
			return "run stopped"
		}
	}
	switch e.Phase {
	case event.Started, event.Failed, event.Superseded, event.Interrupted:
		return e.Message + ": " + string(e.Phase)
	}
	return e.Message
}

// reserved are the keys under which charmbracelet/log keeps its own parts of a line: it drops a field of such a name.
var reserved = []string{log.TimestampKey, log.LevelKey, log.CallerKey, log.PrefixKey, log.MessageKey}

// unreserved gives fields with a reserved name another one.
func unreserved(fields []any) []any {
	fields = slices.Clone(fields)
	for i := 0; i < len(fields); i += 2 {
		if key, ok := fields[i].(string); ok && slices.Contains(reserved, key) {
			fields[i] = key + "_"
		}
	}
	return fields
}

// visibleFields makes keys and values visible, before a line gets its colours. Lines within a value
// stay lines: they are indented.
func visibleFields(fields []any) []any {
	for i, value := range fields {
		switch value.(type) {
		case nil, bool, int, int64, uint64, float64, time.Duration, time.Time:
			continue
		}
		if text := fmt.Sprint(value); i%2 == 0 {
			fields[i] = event.Printable(text)
		} else {
			fields[i] = event.Visible(text)
		}
	}
	return fields
}

// ErrorLength is how much of an error a line shows, in bytes: an API server that refuses a patch repeats all of it.
const ErrorLength = 1500

// shorten keeps the beginning, which says what failed, and the end, which says why.
func shorten(message string) string {
	if len(message) <= ErrorLength {
		return message
	}
	return strings.ToValidUTF8(message[:ErrorLength/3]+" … "+message[len(message)-2*ErrorLength/3:], "")
}

// maxReply is how much is read of what the user types, in bytes.
const maxReply = 256

// Ask prints a question and tells whether "yes" is typed. It ends with ctx.
func (p *Printer) Ask(ctx context.Context, in *os.File, question string) (yes bool, err error) {
	reader, err := cancelreader.NewReader(in)
	if err != nil {
		return false, fmt.Errorf("read an answer: %w", err)
	}
	defer func() { _ = reader.Close() }() // of the library's own descriptors
	defer context.AfterFunc(ctx, func() { reader.Cancel() })()
	p.mu.Lock()
	_, err = io.WriteString(p.out, question)
	p.mu.Unlock()
	if err != nil {
		return false, fmt.Errorf("ask a question: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(reader, maxReply)).ReadString('\n')
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil && !errors.Is(err, io.EOF): // Ctrl+D is a no
		return false, fmt.Errorf("read an answer: %w", err)
	}
	return strings.TrimSpace(line) == "yes", nil
}
