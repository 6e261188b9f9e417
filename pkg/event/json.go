package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"
)

// An Event is a line of JSON in the log, in devloop events, and on the page. schema.json and the
// docs describe it: keys are added, never renamed.

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

// MarshalJSON returns the line. Of an error it has the text and the hint.
func (e Event) MarshalJSON() ([]byte, error) {
	l := line{Time: e.Time.Format(TimeFormat), Level: e.Level(), Stage: e.Stage, Phase: e.Phase, Message: e.Message,
		Run: e.Run, Again: e.Repeated, Seconds: Seconds(e.Took), Fields: e.Details()}
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

// UnmarshalJSON reads such a line. Its error has a text and a hint alone, and the values of its
// Fields are numbers, strings, booleans, and lists and maps of them.
func (e *Event) UnmarshalJSON(data []byte) error {
	var l struct {
		line
		Fields json.RawMessage `json:"fields"`
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return err
	}
	at, err := time.Parse(time.RFC3339Nano, l.Time)
	if err != nil {
		return err
	}
	*e = Event{Time: at, Run: l.Run, Stage: l.Stage, Phase: l.Phase, Message: l.Message,
		Took: time.Duration(l.Seconds * float64(time.Second)), Repeated: l.Again}
	if l.Fields != nil {
		if err := e.setDetails(l.Fields); err != nil {
			return err
		}
	}
	if l.Err != "" {
		e.Err = errors.New(l.Err)
	}
	if l.Hint != "" {
		e.Err = WithHint(e.Err, l.Hint)
	}
	return nil
}

// setDetails makes Payload and Fields of a JSON object. What the payload of the message does not
// have is in Fields, and all of it if the payload has other types, as in another version of
// devloop.
func (e *Event) setDetails(data []byte) error {
	keys, values, err := object(data)
	if err != nil {
		return err
	}
	inPayload := func(string) bool { return false }
	if payload := payloadOf(e.Message, e.Phase); payload != nil {
		read := reflect.New(reflect.TypeOf(payload))
		known := fieldsOf(read.Elem())
		isKnown := func(key string) bool {
			return slices.ContainsFunc(known, func(f payloadField) bool { return f.key == key })
		}
		if slices.ContainsFunc(keys, isKnown) && json.Unmarshal(data, read.Interface()) == nil {
			e.Payload, inPayload = read.Elem().Interface(), isKnown
		}
	}
	for i, key := range keys {
		if inPayload(key) {
			continue
		}
		var value any
		if whole, err := strconv.ParseInt(string(values[i]), 10, 64); err == nil {
			value = whole // a float is printed in another way
		} else if err := json.Unmarshal(values[i], &value); err != nil {
			return err
		}
		e.Fields = append(e.Fields, key, value)
	}
	return nil
}

// object returns the keys and the values of a JSON object, in their order.
func object(data []byte) (keys []string, values []json.RawMessage, err error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return nil, nil, errors.Join(err, errors.New("not a JSON object"))
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, nil, err
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, nil, err
		}
		keys, values = append(keys, fmt.Sprint(key)), append(values, value)
	}
	return keys, values, nil
}

// Seconds is a duration as views show it: in seconds, to the millisecond.
func Seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond).Milliseconds()) / 1000
}

// fields are alternating keys and values. Their JSON is an object in their order.
type fields []any

// MarshalJSON writes durations as seconds, and what is no JSON as its text.
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
			[]any, map[string]any, Releases, Containers, Links, DaskClusters, Differences, FileChanges:
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
