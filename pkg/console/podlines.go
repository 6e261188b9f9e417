package console

import (
	"regexp"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/devloop/devloop/pkg/event"
)

// What programs begin their lines with, most of them.
var (
	ownStamp = regexp.MustCompile(`\b\d{1,2}:\d{2}:\d{2}|"?\b(?i:ts|time|timestamp)"?\s*[=:]\s*"?\d`)
	ownLevel = regexp.MustCompile(`\b(?i:warn(ing)?|err(or)?|crit(ical)?|fatal|panic|alert|emerg\w*|traceback)\b` +
		`|^[WEF]\d{4}\b`)
)

// lineHead is how far into a line its stamp and its level are looked for, in bytes.
const lineHead = 160

// podRow is a line that a pod has printed, with the time and the level unless it has its own.
func (t *transcript) podRow(e event.Event, line event.LogLine) row {
	pod, container := event.Printable(string(line.Pod)), event.Printable(string(line.Container))
	isClear := strings.Contains(pod, container) // the pod's name tells which container it is
	if !t.verbose {
		pod, container = shortPod(pod), ansi.Truncate(container, 16, "…")
	}
	if !isClear {
		pod += "/" + container
	}
	text := event.Printable(line.Line)
	head := text[:min(len(text), lineHead)]
	if (line.Level == event.Warning || line.Level == event.Error) && !ownLevel.MatchString(head) {
		text = string(line.Level) + ": " + text
	}
	r := row{pod: pod, text: text}
	if !ownStamp.MatchString(head) {
		r.label = e.Time.Format(time.TimeOnly)
	}
	return r
}

// shortPod leaves out the middle of a long name: its beginning says what it is, its end which one.
func shortPod(name string) string {
	const most, end = 24, 11 // columns
	width := ansi.StringWidth(name)
	if width <= most {
		return name
	}
	return ansi.Truncate(name, most-end-1, "") + "…" + ansi.TruncateLeft(name, width-end, "")
}
