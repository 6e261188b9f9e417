package console

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/log"
	"github.com/charmbracelet/x/ansi"

	"github.com/devloop/devloop/pkg/event"
)

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
