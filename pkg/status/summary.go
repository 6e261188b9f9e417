package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// This file is a run in a line: where its time went, for the log. The event of a run's end carries it, so that who reads only the log
// knows it, too.

// The fields that the end of a run has.
const (
	totalField  = "total"  // seconds since the first change that asked for the run
	stagesField = "stages" // an object of seconds by stage
)

// told returns the event as the log has it: the end of a run knows where the time went.
func (s State) told(e event.Event) event.Event {
	if e.Stage != "loop" || e.Message != event.RunComplete || e.Phase == event.Started || s.Run == nil || s.Run.Number != e.Run {
		return e
	}
	e.Fields = append(slices.Clone(e.Fields), totalField, s.Run.Seconds, stagesField, seconds(s.Run.Stages))
	return e
}

// seconds are Stages as an object.
type seconds []Stage

// MarshalJSON keeps the order.
func (s seconds) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, stage := range s {
		if i > 0 {
			out.WriteByte(',')
		}
		name, err := json.Marshal(stage.Name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%s:%g", name, stage.Seconds)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// String is for formats that know no objects.
func (s seconds) String() string {
	parts := make([]string, len(s))
	for i, stage := range s {
		parts[i] = fmt.Sprintf("%s=%g", stage.Name, stage.Seconds)
	}
	return strings.Join(parts, " ")
}

// stagesOf returns the stages of the end of a run, also when it has been JSON meanwhile.
func stagesOf(e event.Event) seconds {
	var list seconds
	switch stages := e.Field(stagesField).(type) {
	case seconds:
		return stages
	case map[string]any:
		for _, name := range Stages {
			switch took := stages[name].(type) {
			case float64:
				list = append(list, Stage{name, took})
			case int64:
				list = append(list, Stage{name, float64(took)})
			}
		}
	}
	return list
}

// Flat returns the fields of an event with nothing in them that is no text or number.
func Flat(e event.Event) []any {
	fields := slices.Clone(e.Fields)
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i] == stagesField {
			fields[i+1] = stagesOf(e).String()
		}
	}
	return fields
}

// Summary tells in words where the time of a run went, by the event of its end: "7.4 s: build 5.1, load 0.4". The fields are the same
// when the event has been read from JSON.
func Summary(e event.Event) (summary string, rest []any) {
	for i := 0; i+1 < len(e.Fields); i += 2 {
		if key := e.Fields[i]; key != totalField && key != stagesField {
			rest = append(rest, key, e.Fields[i+1])
		}
	}
	total := e.Took.Seconds()
	if e.Field(totalField) != nil {
		total = number(e, totalField)
	}
	summary = inSeconds(total) + " s"
	var parts []string
	for _, stage := range stagesOf(e) {
		if stage.Seconds >= worthTelling {
			parts = append(parts, stage.Name+" "+inSeconds(stage.Seconds))
		}
	}
	if len(parts) > 0 {
		summary += ": " + strings.Join(parts, ", ")
	}
	return summary, rest
}

// Summary is the same for a run that ended.
func (r Run) Summary() string {
	summary, _ := Summary(event.Event{Fields: []any{totalField, r.Seconds, stagesField, seconds(r.Stages)}})
	return summary
}

// Ended is when the run did, of one that did.
func (r Run) Ended() time.Time { return r.Started.Add(time.Duration(r.Seconds * float64(time.Second))) }

// worthTelling is how many seconds a stage has to take for a place in the summary: less would be shown as 0.0.
const worthTelling = 0.05

func inSeconds(s float64) string {
	if s < worthTelling {
		return fmt.Sprintf("%.2f", s)
	}
	return fmt.Sprintf("%.1f", s)
}
