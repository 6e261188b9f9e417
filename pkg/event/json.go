package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// This file is an Event as a line of JSON: in the log, in devloop events, and on the page. schema.json describes it, and the README; its
// keys stay what they are.

// TimeFormat is RFC 3339 with milliseconds, for machines.
const TimeFormat = "2006-01-02T15:04:05.000Z07:00"

// line has the keys of the format.
type line struct {
	Time    string  `json:"time"`
	Level   Level   `json:"level"`
	Stage   string  `json:"stage"`
	Phase   Phase   `json:"phase"`
	Message string  `json:"msg"`
	Run     int     `json:"run,omitempty"`
	Again   bool    `json:"repeated,omitempty"`
	Seconds float64 `json:"took,omitempty"`
	Err     string  `json:"err,omitempty"`
	Hint    string  `json:"hint,omitempty"`
	Fields  fields  `json:"fields,omitempty"`
}

// MarshalJSON returns the line. Of an error there are its words and its hint.
func (e Event) MarshalJSON() ([]byte, error) {
	l := line{Time: e.Time.Format(TimeFormat), Level: e.Level(), Stage: e.Stage, Phase: e.Phase, Message: e.Message,
		Run: e.Run, Again: e.Repeated, Seconds: Seconds(e.Took), Fields: e.Fields}
	if e.Err != nil && e.Phase != Superseded && e.Phase != Interrupted { // else it is only what the phase says
		l.Err, l.Hint = e.Err.Error(), Hint(e.Err)
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(l); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(out.Bytes()), nil
}

// UnmarshalJSON reads such a line. The error is one of words alone, and the fields are numbers, strings, truth values, and lists of them.
func (e *Event) UnmarshalJSON(data []byte) error {
	var l line
	if err := json.Unmarshal(data, &l); err != nil {
		return err
	}
	at, err := time.Parse(time.RFC3339Nano, l.Time)
	if err != nil {
		return err
	}
	*e = Event{Time: at, Run: l.Run, Stage: l.Stage, Phase: l.Phase, Message: l.Message, Fields: l.Fields,
		Took: time.Duration(l.Seconds * float64(time.Second)), Repeated: l.Again}
	if l.Err != "" {
		e.Err = errors.New(l.Err)
	}
	if l.Hint != "" {
		e.Err = WithHint(e.Err, l.Hint)
	}
	return nil
}

// Seconds is how durations are told: in seconds, to the millisecond.
func Seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond).Milliseconds()) / 1000
}

// fields are alternating keys and values, as an object in their order.
type fields []any

// MarshalJSON keeps numbers, truth values and lists of text; durations become seconds, all else its text.
func (f fields) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	write := func(value any) error {
		err := encoder.Encode(value)
		if err == nil {
			out.Truncate(out.Len() - 1) // the newline
		}
		return err
	}
	out.WriteByte('{')
	for i := 0; i+1 < len(f); i += 2 {
		if i > 0 {
			out.WriteByte(',')
		}
		if err := write(fmt.Sprint(f[i])); err != nil {
			return nil, err
		}
		out.WriteByte(':')
		value := f[i+1]
		switch v := value.(type) {
		case time.Time:
			value = v.Format(TimeFormat)
		case nil, bool, int, int32, int64, uint16, uint64, float64, string, []string, Name, Names, json.Marshaler,
			[]any, map[string]any, Links, DaskClusters, Differences:
		case time.Duration:
			value = Seconds(v)
		default:
			value = fmt.Sprint(v)
		}
		if err := write(value); err != nil {
			return nil, err
		}
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

func (f *fields) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return errors.Join(err, errors.New("fields are no object"))
	}
	*f = nil
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		var text json.RawMessage
		if err := decoder.Decode(&text); err != nil {
			return err
		}
		var value any
		if known := ofProof(key, text); known != nil {
			value = known
		} else if whole, err := strconv.ParseInt(string(text), 10, 64); err == nil {
			value = whole // a float is printed in another way
		} else if err := json.Unmarshal(text, &value); err != nil {
			return err
		}
		*f = append(*f, key, value)
	}
	return nil
}
