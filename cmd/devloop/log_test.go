package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

var noon = time.Date(2026, 5, 17, 12, 0, 0, 7e6, time.UTC)

// say prints one event in a format.
func say(format string, verbose bool, e event.Event) string {
	var out strings.Builder
	p := newPrinter(&out)
	p.configure(format, verbose)
	e.Time = noon
	p.event(e)
	return out.String()
}

func TestLines(t *testing.T) {
	broken := event.WithHint(errors.New("no such version"), "mend it")
	for _, test := range []struct {
		name       string
		event      event.Event
		text, json string // "" where a reader who did not ask for more sees nothing
	}{
		{"a step that ended",
			event.Event{Run: 2, Stage: "build", Phase: event.Succeeded, Message: "image built", Fields: []any{"image", "worker:1", "cached", true, "for", 2 * time.Second}, Took: 1500 * time.Millisecond},
			"INFO build: image built run=2 image=worker:1 cached=true for=2s took=1.5s",
			`"level":"info","stage":"build","phase":"succeeded","msg":"image built","run":2,"took":1.5,"fields":{"cached":true,"for":2,"image":"worker:1"}}`},
		{"a step on the way up",
			event.Event{Stage: "build", Phase: event.Failed, Message: "image built", Err: broken}, "", ""},
		{"the run that failed",
			event.Event{Run: 1, Stage: "loop", Phase: event.Failed, Message: "run complete", Err: broken},
			`ERRO loop: run failed, what ran keeps running run=1 err="no such version" hint="mend it"`,
			`"level":"error","stage":"loop","phase":"failed","msg":"run complete","run":1,"err":"no such version","hint":"mend it"}`},
		{"a run that was superseded",
			event.Event{Run: 1, Stage: "loop", Phase: event.Superseded, Message: "run complete", Err: event.ErrSuperseded},
			"INFO loop: run superseded by a newer change run=1",
			`"level":"info","stage":"loop","phase":"superseded","msg":"run complete","run":1}`},
		{"a warning", event.Event{Stage: "node", Phase: event.Warned, Message: "image stays", Err: errors.New("in use")},
			`WARN node: image stays err="in use"`,
			`"level":"warn","stage":"node","phase":"warned","msg":"image stays","err":"in use"}`},
		{"a detail", event.Event{Stage: "build", Phase: event.Detailed, Message: "build step"}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := test.text
			if want != "" {
				want = noon.Format("15:04:05.000 ") + want + "\n"
			}
			if got := say(formatText, false, test.event); got != want {
				t.Errorf("text:\n%s%s", got, want)
			}
			want = test.json
			if want != "" {
				want = `{"time":"2026-05-17T12:00:00.007Z",` + want + "\n"
			}
			if got := say(formatJSON, false, test.event); got != want {
				t.Errorf("JSON:\n%s%s", got, want)
			}
			for _, format := range logFormats {
				if say(format, true, test.event) == "" {
					t.Errorf("%s: nothing with -v", format)
				}
			}
		})
	}
}

// A field whose name a format uses itself is not lost, and takes nothing's place.
func TestReservedWords(t *testing.T) {
	for _, key := range []string{"time", "level", "msg", "prefix", "caller", "err", "stage", "phase", "run", "took", "hint", "fields"} {
		e := event.Event{Stage: "build", Phase: event.Noted, Message: "a message", Fields: []any{key, "its value"}}
		for _, format := range []string{formatText, formatLogfmt} {
			line := say(format, false, e)
			if !strings.Contains(line, key+`="its value"`) && !strings.Contains(line, key+`_="its value"`) || !strings.Contains(line, "a message") {
				t.Errorf("%s: field %s: %s", format, key, line)
			}
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(say(formatJSON, false, e)), &got); err != nil {
			t.Fatal(err)
		}
		if fields := got["fields"]; !reflect.DeepEqual(fields, map[string]any{key: "its value"}) || got["msg"] != "a message" || got["level"] != "info" {
			t.Errorf("json: field %s: %v", key, got)
		}
	}
}

func TestShorten(t *testing.T) {
	long := "what failed: " + strings.Repeat("é", 4000) + ": why"
	got := shorten(long)
	if len(got) > errorLength+10 || !strings.HasPrefix(got, "what failed: ") || !strings.HasSuffix(got, ": why") {
		t.Errorf("%q", got)
	}
	if got := shorten("short"); got != "short" {
		t.Error(got)
	}
}

func TestFacts(t *testing.T) {
	one := event.WithHint(errors.New("one"), "mend one")
	two := fmt.Errorf("two: %w", errors.New("deeper"))
	for _, test := range []struct {
		name string
		err  error
		want []fact
	}{
		{"alone", one, []fact{{message: "one", hint: "mend one"}}},
		{"joined, and marked", environmentError{errors.Join(one, two)}, []fact{
			{message: "one", hint: "mend one"},
			{message: "two: deeper", causes: []string{"two (*fmt.wrapError)", "deeper (*errors.errorString)"}}}},
		{"said once", errors.Join(one, nil, environmentError{one}), []fact{{message: "one", hint: "mend one"}}},
		{"wrapped as a whole", fmt.Errorf("clean up: %w", errors.Join(one, two)), []fact{
			{message: "clean up: one\ntwo: deeper", hint: "mend one", causes: []string{"clean up (*fmt.wrapError)", "one\ntwo: deeper (*errors.joinError)"}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := facts(test.err); !reflect.DeepEqual(got, test.want) {
				t.Errorf("%+v\nnot %+v", got, test.want)
			}
		})
	}
}
