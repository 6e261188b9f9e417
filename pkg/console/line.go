package console

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/log"

	"github.com/devloop/devloop/pkg/event"
)

// write writes an event and what went wrong, if something did. The caller holds mu.
func (p *Printer) write(e event.Event, f Fact) {
	if !p.Shows(e) {
		return
	}
	if !p.verbose {
		f.causes = nil
	}
	printed, ofPod := e.Payload.(event.LogLine)
	switch {
	case p.json != nil:
		p.writeJSON(e, f)
	case p.text && ofPod:
		p.now = e.Time
		p.podLogger(printed).Log(levels[printed.Level], event.Printable(printed.Line))
	default:
		p.now = e.Time
		p.writeLine(e, f)
	}
}

func (p *Printer) writeJSON(e event.Event, f Fact) {
	e.Fields = slices.Clone(e.Fields)
	if f.problems != nil {
		e.Fields = append(e.Fields, "problems", f.problems)
	}
	if len(f.causes) > 0 {
		e.Fields = append(e.Fields, "causes", f.causes)
	}
	if e.Err = nil; f.Message != "" {
		e.Err = event.WithHint(errors.New(f.Message), f.Hint)
	}
	_ = p.json.Encode(e) // standard error: there is nowhere to report that it is gone
}

// writeLine writes text or logfmt.
func (p *Printer) writeLine(e event.Event, f Fact) {
	message, ready := p.message(e)
	var fields []any
	if e.Run > 0 {
		fields = append(fields, "run", e.Run)
	}
	e.Payload = p.readable(e)
	fields = append(fields, e.Details()...)
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
	p.adapt(fields)
	if p.text {
		message = event.Printable(message)
	}
	p.lines.WithPrefix(e.Stage).Log(levels[e.Level()], message, fields...)
}

// message returns an event's message for people. A run that is ready has its time there.
func (p *Printer) message(e event.Event) (message string, ready bool) {
	switch {
	case p.text && e.Message == event.RunComplete && e.Phase == event.Succeeded:
		end, ok := e.Payload.(event.RunEnd)
		if !ok {
			end.Total = e.Took.Seconds()
		}
		return "ready in " + end.Summary(), true
	case e.Phase == event.Failed && (e.Stage == "devloop" || e.Message == event.InternalError):
		return e.Message, false
	case e.Phase == event.Failed && e.Stage == "loop":
		end, ok := e.Payload.(event.RunEnd)
		if ok && !slices.ContainsFunc(end.Stages, func(t event.Timing) bool { return t.Name == "helm" }) {
			return "run failed, what ran keeps running", false
		}
		return "run failed", false
	case e.Phase == event.Superseded && e.Stage == "loop":
		return "run superseded by a newer change", false
	case e.Phase == event.Interrupted && e.Stage == "loop":
		return "run stopped", false
	case slices.Contains([]event.Phase{event.Started, event.Failed, event.Superseded, event.Interrupted}, e.Phase):
		return e.Message + ": " + string(e.Phase), false
	}
	return e.Message, false
}

// readable returns the payload as a line shows it: without what the message says already, and lists
// as tables.
func (p *Printer) readable(e event.Event) any {
	if comparison, ok := e.Payload.(event.Comparison); ok {
		shown := struct {
			Places      string `json:"places"`
			Libraries   int    `json:"libraries"`
			Differences any    `json:"differences,omitzero"`
		}{strings.Join(comparison.Places, ","), comparison.Libraries, nil}
		switch {
		case comparison.Same():
		case p.text:
			shown.Differences = differenceTable(comparison)
		default:
			shown.Differences = comparison.Differences
		}
		return shown
	}
	if !p.text {
		return e.Payload
	}
	switch payload := e.Payload.(type) {
	case event.RunEnd: // the message
		return nil
	case event.Chain: // the error names the broken link
		if e.Phase == event.Failed || !p.verbose {
			return nil
		}
	case event.OutdatedClusters:
		return struct {
			Clusters string `json:"clusters"`
		}{describeClusters(payload.Clusters)}
	case event.Forward:
		if !p.verbose {
			return struct {
				event.Address
				Reason string      `json:"reason,omitzero"`
				Pods   event.Names `json:"pods,omitzero"`
			}{payload.Address, payload.Reason, payload.Pods}
		}
	}
	return e.Payload
}

// describeClusters returns a line for each cluster.
func describeClusters(clusters event.DaskClusters) string {
	lines := make([]string, len(clusters))
	for i, c := range clusters {
		lines[i] = fmt.Sprintf("%s of %s: %s, %s old", c.FullName(), OrDash(c.Owner), c.Image, Age(c.Since))
	}
	return strings.Join(lines, "\n")
}

var levels = map[event.Level]log.Level{
	event.Debug: log.DebugLevel, event.Info: log.InfoLevel, event.Warning: log.WarnLevel, event.Error: log.ErrorLevel,
}

// podLogger returns a logger that shows the pod.
func (p *Printer) podLogger(line event.LogLine) *log.Logger {
	pod, container := string(line.Pod), string(line.Container)
	if !strings.Contains(pod, container) { // else the pod's name tells which container it is
		pod += "/" + container
	}
	return p.lines.WithPrefix(event.Printable(pod))
}

// reserved are the keys of charmbracelet/log itself, which drops fields of these names.
var reserved = []string{log.TimestampKey, log.LevelKey, log.CallerKey, log.PrefixKey, log.MessageKey}

// adapt renames reserved keys, and writes times as JSON does. In text it also replaces what a
// terminal would obey (logfmt has its own escapes).
func (p *Printer) adapt(fields []any) {
	for i, field := range fields {
		if i%2 == 0 {
			key := fmt.Sprint(field)
			if slices.Contains(reserved, key) {
				key += "_"
			}
			if p.text {
				key = event.Printable(key)
			}
			fields[i] = key
			continue
		}
		if at, ok := field.(time.Time); ok {
			fields[i] = at.Format(event.TimeFormat)
			continue
		}
		if !p.text {
			continue
		}
		switch value := fields[i].(type) {
		case nil, bool, int, int64, uint64, float64, time.Duration:
		default:
			fields[i] = event.Visible(fmt.Sprint(value)) // values may have several lines
		}
	}
}

// maxErrorLength is how much of an error a line shows, in bytes: an API server that refuses a patch
// repeats all of it.
const maxErrorLength = 1500

// shorten keeps the beginning, which says what failed, and the end, which says why.
func shorten(message string) string {
	if len(message) <= maxErrorLength {
		return message
	}
	return strings.ToValidUTF8(message[:maxErrorLength/3]+" … "+message[len(message)-2*maxErrorLength/3:], "")
}
