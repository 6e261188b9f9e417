// The log: what happened, and the error that devloop ends with, as lines for people (text) or for machines (logfmt, JSON). This
// file is the only one that writes to standard error.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charmbracelet/log"
	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
)

// The formats of --log-format.
const (
	formatText   = "text"
	formatLogfmt = "logfmt"
	formatJSON   = "json"
)

var logFormats = []string{formatText, formatLogfmt, formatJSON}

// logBacklog is how many events may wait for a slow terminal; beyond it events are dropped and counted, since nothing may hold up the loop.
const logBacklog = 4096

// logger turns events into lines, on a goroutine of its own. Close it to see the last of them.
type logger struct {
	events  chan event.Event
	dropped atomic.Int64
	done    sync.WaitGroup
}

func newLogger(p *printer) *logger {
	l := &logger{events: make(chan event.Event, logBacklog)}
	l.done.Go(func() {
		for e := range l.events {
			p.event(e)
			if n := l.dropped.Swap(0); n > 0 {
				p.event(event.Event{Time: time.Now(), Stage: "log", Phase: event.Warned,
					Message: "the terminal is too slow, lines were dropped", Fields: []any{"lines", n}})
			}
		}
	})
	return l
}

// sink is l's event.Sink. It must not be called after close.
func (l *logger) sink(e event.Event) {
	select {
	case l.events <- e:
	default:
		l.dropped.Add(1)
	}
}

func (l *logger) close() {
	close(l.events)
	l.done.Wait()
}

// printer writes lines in one of the formats. It is safe for concurrent use: charmbracelet's loggers share a writer without a lock.
type printer struct {
	mu      sync.Mutex
	out     io.Writer
	lines   *log.Logger   // text and logfmt
	now     time.Time     // of the line that is being written
	json    *json.Encoder // nil for the other formats
	live    *live         // below the lines of text on a terminal, nil elsewhere
	text    bool
	verbose bool
}

// newPrinter returns a printer of text: what goes wrong before the flags are read is for people.
func newPrinter(out io.Writer) *printer {
	// Libraries that log by themselves would write between our lines.
	klog.SetLogger(logr.Discard())
	stdlog.SetOutput(io.Discard)
	p := &printer{out: out}
	if terminal, ok := out.(*os.File); ok {
		if p.live = newLive(terminal); p.live != nil {
			p.out = p.live
		}
	}
	p.configure(formatText, false)
	return p
}

func (p *printer) configure(format string, verbose bool) {
	p.text, p.verbose, p.json = format == formatText, verbose, nil
	options := log.Options{Level: log.InfoLevel, ReportTimestamp: true, TimeFormat: "15:04:05.000",
		TimeFunction: func(time.Time) time.Time { return p.now }}
	if verbose {
		options.Level = log.DebugLevel
	}
	switch format {
	case formatLogfmt:
		options.Formatter, options.TimeFormat = log.LogfmtFormatter, timeFormat
	case formatJSON:
		p.json = json.NewEncoder(p.out)
		p.json.SetEscapeHTML(false)
	}
	p.lines = log.NewWithOptions(p.out, options)
}

// timeFormat is RFC 3339 with milliseconds, for machines.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// line is a line of the JSON format. The README documents its keys; they stay what they are.
type line struct {
	Time    string         `json:"time"`
	Level   string         `json:"level"`              // debug, info, warn, error
	Stage   string         `json:"stage"`              // build, node, deploy, forward, watch, loop, config, cleanup, devloop
	Phase   event.Phase    `json:"phase"`              // started, succeeded, superseded, interrupted, failed, noted, warned, detailed (progress is in no log)
	Message string         `json:"msg"`                // constant; what varies is in fields
	Run     int            `json:"run,omitempty"`      // number of the run
	Again   bool           `json:"repeated,omitempty"` // an earlier try of the run told it
	Seconds float64        `json:"took,omitempty"`     // of a step that ended
	Err     string         `json:"err,omitempty"`      // what went wrong
	Hint    string         `json:"hint,omitempty"`     // what to do about it
	Fields  map[string]any `json:"fields,omitempty"`
}

// event writes one event. An error is shown where the whole run failed, not again for each step on the way up.
func (p *printer) event(e event.Event) {
	if p.live != nil && p.text {
		p.mu.Lock()
		p.live.take(e)
		p.mu.Unlock()
	}
	if e.Phase == event.Progress {
		return
	}
	ofRun := e.Stage == "loop"
	var level log.Level
	switch {
	case e.Repeated:
		level = log.DebugLevel
	case e.Phase == event.Noted, e.Phase == event.Succeeded:
		level = log.InfoLevel
	case e.Phase == event.Warned:
		level = log.WarnLevel
	case e.Phase == event.Failed && ofRun:
		level = log.ErrorLevel
	case (e.Phase == event.Superseded || e.Phase == event.Interrupted) && ofRun:
		level = log.InfoLevel
	default:
		level = log.DebugLevel
	}
	var f fact
	if e.Err != nil && e.Phase != event.Superseded && e.Phase != event.Interrupted {
		f = fact{message: e.Err.Error(), hint: event.Hint(e.Err)}
		if ofRun {
			f.causes = causes(e.Err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write(level, e, f)
}

// write writes one line in the format that was asked for; f is what went wrong, if something did. The caller holds mu.
func (p *printer) write(level log.Level, e event.Event, f fact) {
	if level < p.lines.GetLevel() {
		return
	}
	fields := slices.Clone(e.Fields)
	if !p.verbose {
		f.causes = nil
	}
	if p.json != nil {
		if len(f.problems) > 0 {
			fields = append(fields, "problems", f.problems)
		}
		if len(f.causes) > 0 {
			fields = append(fields, "causes", f.causes)
		}
		// There is nowhere left to say that standard error is gone.
		_ = p.json.Encode(line{Time: e.Time.Format(timeFormat), Level: level.String(), Stage: e.Stage, Phase: e.Phase, Message: e.Message,
			Run: e.Run, Again: e.Repeated, Seconds: seconds(e.Took), Err: f.message, Hint: f.hint, Fields: jsonFields(fields)})
		return
	}
	if p.text && e.Stage == deploy.LogStage && len(fields) == 6 { // what a pod printed is for reading: pod, container, line
		p.now = e.Time
		p.lines.WithPrefix(fmt.Sprint(fields[1])).Log(level, fmt.Sprint(fields[5]))
		return
	}
	if e.Run > 0 {
		fields = append([]any{"run", e.Run}, fields...)
	}
	if e.Took > 0 {
		fields = append(fields, "took", e.Took.Round(time.Millisecond))
	}
	switch {
	case f.problems != nil: // a line each
		fields = append(fields, "err", f.message)
	case f.message != "":
		fields = append(fields, "err", shorten(f.message))
	}
	if f.hint != "" {
		fields = append(fields, "hint", f.hint)
	}
	if len(f.causes) > 0 {
		fields = append(fields, "causes", strings.Join(f.causes, "\n"))
	}
	p.now = e.Time
	p.lines.WithPrefix(e.Stage).Log(level, inWords(e), unreserved(fields)...)
}

// inWords is an event's message for a person.
func inWords(e event.Event) string {
	if e.Stage == "devloop" && e.Phase == event.Failed {
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
	for i := 0; i < len(fields); i += 2 {
		if key, ok := fields[i].(string); ok && slices.Contains(reserved, key) {
			fields[i] = key + "_"
		}
	}
	return fields
}

// jsonFields are the fields as JSON has them: numbers and truth values stay, durations become seconds, all else its text.
func jsonFields(fields []any) map[string]any {
	if len(fields) == 0 {
		return nil
	}
	object := make(map[string]any, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		value := fields[i+1]
		switch v := value.(type) {
		case bool, int, int32, int64, uint16, uint64, float64, string, []string, []config.Problem:
		case time.Duration:
			value = seconds(v)
		default:
			value = fmt.Sprint(v)
		}
		object[fmt.Sprint(fields[i])] = value
	}
	return object
}

func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// errorLength is how much of an error a line shows, in bytes: an API server that refuses a patch repeats all of it.
const errorLength = 1500

// shorten keeps the beginning, which says what failed, and the end, which says why.
func shorten(message string) string {
	if len(message) <= errorLength {
		return message
	}
	return strings.ToValidUTF8(message[:errorLength/3]+" … "+message[len(message)-2*errorLength/3:], "")
}
