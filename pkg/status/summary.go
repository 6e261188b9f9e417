package status

import (
	"slices"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// end is where the time of a run went that ended.
func (r Run) end() event.RunEnd { return event.RunEnd{Total: r.Seconds, Stages: r.Stages} }

// Summary says it in a line: "7.4 s: build 5.1, load 0.4".
func (r Run) Summary() string { return r.end().Summary() }

// Ended returns when a run ended that did.
func (r Run) Ended() time.Time { return r.Started.Add(time.Duration(r.Seconds * float64(time.Second))) }

// Flat returns the fields of an event with nothing in them that is no text or number.
func Flat(e event.Event) []any {
	fields := slices.Clone(e.Details())
	for i := range fields {
		if timings, ok := fields[i].(event.Timings); ok {
			fields[i] = timings.String()
		}
	}
	return fields
}

// Summary says where the time of a run went, by the event of its end; rest is what else that says.
func Summary(e event.Event) (summary string, rest []any) {
	end, ok := e.Payload.(event.RunEnd)
	if !ok {
		end.Total = e.Took.Seconds()
	}
	return end.Summary(), e.Fields
}
