package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	p := NewPrinter(&out)
	p.Configure(format, verbose, false)
	e.Time = noon
	p.Print(e)
	return out.String()
}

func TestLines(t *testing.T) {
	broken := event.WithHint(errors.New("no such version"), "fix it")
	for _, test := range []struct {
		name       string
		event      event.Event
		text, json string // "" where a reader who did not ask for more sees nothing
	}{
		{"a step that ended",
			event.Event{Run: 2, Stage: "build", Phase: event.Succeeded, Message: event.ImageBuilt,
				Payload: event.Build{Image: event.Image{Ref: "worker:1"}},
				Fields:  []any{"cached", true, "for", 2 * time.Second, "at", noon.Truncate(time.Second).UTC()},
				Took:    1500 * time.Millisecond},
			"INFO build: image built run=2 image=worker:1 cached=true for=2s at=" +
				noon.UTC().Truncate(time.Second).Format(event.TimeFormat) + " took=1.5s",
			`"level":"info","stage":"build","phase":"succeeded","msg":"image built","run":2,"took":1.5,` +
				`"fields":{"image":"worker:1","cached":true,"for":2,"at":"` +
				noon.UTC().Truncate(time.Second).Format(event.TimeFormat) + `"}}`},
		{"a step on the way up",
			event.Event{Stage: "build", Phase: event.Failed, Message: "image built", Err: broken}, "", ""},
		{"the run that failed",
			event.Event{Run: 1, Stage: "loop", Phase: event.Failed, Message: event.RunComplete, Err: broken,
				Payload: event.RunEnd{Total: 7.4, Stages: event.Timings{{Name: "build", Seconds: 5.1}}}},
			`ERRO loop: run failed, what ran keeps running run=1 err="no such version" hint="fix it"`,
			`"level":"error","stage":"loop","phase":"failed","msg":"run complete","run":1,` +
				`"err":"no such version","hint":"fix it","fields":{"total":7.4,"stages":{"build":5.1}}}`},
		{"the run that failed while it wrote",
			event.Event{Run: 1, Stage: "loop", Phase: event.Failed, Message: event.RunComplete, Err: broken,
				Payload: event.RunEnd{Total: 7.4, Stages: event.Timings{{Name: "helm", Seconds: 5.1}}}},
			`ERRO loop: run failed run=1 err="no such version" hint="fix it"`,
			`"level":"error","stage":"loop","phase":"failed","msg":"run complete","run":1,` +
				`"err":"no such version","hint":"fix it","fields":{"total":7.4,"stages":{"helm":5.1}}}`},
		{"a run that was superseded",
			event.Event{Run: 1, Stage: "loop", Phase: event.Superseded, Message: "run complete", Err: event.ErrSuperseded},
			"INFO loop: run superseded by a newer change run=1",
			`"level":"info","stage":"loop","phase":"superseded","msg":"run complete","run":1}`},
		{"a warning", event.Event{Stage: "node", Phase: event.Warned, Message: "image stays", Err: errors.New("in use")},
			`WARN node: image stays err="in use"`,
			`"level":"warn","stage":"node","phase":"warned","msg":"image stays","err":"in use"}`},
		{"the end of a run",
			event.Event{Run: 1, Stage: "loop", Phase: event.Succeeded, Message: event.RunComplete, Took: 7 * time.Second,
				Payload: event.RunEnd{Total: 7.4, Stages: event.Timings{{Name: "build", Seconds: 5.1},
					{Name: "hash", Seconds: 0.01}, {Name: "load", Seconds: 0.4}}}},
			"INFO loop: ready in 7.4 s: build 5.1, load 0.4 run=1",
			`"level":"info","stage":"loop","phase":"succeeded","msg":"run complete","run":1,"took":7,` +
				`"fields":{"total":7.4,"stages":{"build":5.1,"hash":0.01,"load":0.4}}}`},
		{"a line of a pod", podLine("api-web-1", "warn", "it is warm"),
			"WARN api-web-1: it is warm",
			`"level":"info","stage":"pod","phase":"noted","msg":"log",` +
				`"fields":{"pod":"api-web-1","namespace":"ns","container":"web","level":"warn","line":"it is warm"}}`},
		{"a detail", event.Event{Stage: "build", Phase: event.Detailed, Message: "build step"}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := test.text
			if want != "" {
				want = noon.Format("15:04:05.000 ") + want + "\n"
			}
			if got := say(FormatText, false, test.event); got != want {
				t.Errorf("text:\n%s%s", got, want)
			}
			want = test.json
			if want != "" {
				want = `{"time":"2026-05-17T12:00:00.007Z",` + want + "\n"
			}
			if got := say(FormatJSON, false, test.event); got != want {
				t.Errorf("JSON:\n%s%s", got, want)
			}
			for _, format := range LogFormats {
				if say(format, true, test.event) == "" {
					t.Errorf("%s: nothing with -v", format)
				}
			}
		})
	}
}

// A field whose name a format uses itself is not lost, and takes nothing's place.
func TestReservedWords(t *testing.T) {
	for _, key := range []string{"time", "level", "msg", "prefix", "caller", "err", "stage", "phase", "run", "took",
		"hint", "fields"} {
		e := event.Event{Stage: "build", Phase: event.Noted, Message: "a message", Fields: []any{key, "its value"}}
		for _, format := range []string{FormatText, formatLogfmt} {
			line := say(format, false, e)
			if !strings.Contains(line, key+`="its value"`) && !strings.Contains(line, key+`_="its value"`) ||
				!strings.Contains(line, "a message") {
				t.Errorf("%s: field %s: %s", format, key, line)
			}
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(say(FormatJSON, false, e)), &got); err != nil {
			t.Fatal(err)
		}
		if fields := got["fields"]; !reflect.DeepEqual(fields, map[string]any{key: "its value"}) ||
			got["msg"] != "a message" || got["level"] != "info" {
			t.Errorf("json: field %s: %v", key, got)
		}
	}
}

// -q leaves how runs ended, what went wrong, and pods' lines, which are asked for by themselves.
func TestQuiet(t *testing.T) {
	for _, test := range []struct {
		event event.Event
		seen  bool
	}{
		{event.Event{Stage: "build", Phase: event.Succeeded, Message: "image built"}, false},
		{event.Event{Stage: "loop", Phase: event.Noted, Message: "change seen"}, false},
		{event.Event{Stage: "loop", Phase: event.Started, Message: event.RunComplete}, false},
		{event.Event{Stage: "loop", Phase: event.Succeeded, Message: event.RunComplete}, true},
		{event.Event{Stage: "loop", Phase: event.Failed, Message: event.RunComplete, Err: errors.New("x")}, true},
		{event.Event{Stage: "loop", Phase: event.Failed, Message: event.RunComplete, Err: errors.New("x"), Repeated: true},
			false},
		{event.Event{Stage: "node", Phase: event.Warned, Message: "image stays"}, true},
		{podLine("web-1", "info", "hello"), true},
	} {
		for _, format := range LogFormats {
			var out strings.Builder
			p := NewPrinter(&out)
			p.Configure(format, false, true)
			p.Print(test.event)
			if seen := out.Len() > 0; seen != test.seen {
				t.Errorf("%s: %+v: %q", format, test.event, out.String())
			}
		}
	}
}

// A file gets the lines that the terminal does, but for -q, and is put aside when it is large.
func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dev.log")
	var out strings.Builder
	p := NewPrinter(&out)
	p.Configure(FormatText, false, true)
	if err := p.OpenFile(path, FormatJSON, false); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 1<<20)
	for range 5 * logFileSize {
		p.Print(event.Event{Time: noon, Stage: "build", Phase: event.Noted, Message: long})
	}
	p.PrintError(errors.New("the last words"), 1)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "the last words") || strings.Contains(out.String(), "xxx") {
		t.Errorf("the terminal: %.200q", out.String())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(content), `"err":"the last words","fields":{"code":1}}`+"\n") {
		t.Errorf("the file ends in %q", content[max(0, len(content)-200):])
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || len(files) != 1+logFileBackup {
		t.Errorf("%v, %v", files, err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Size() > logFileSize<<20 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
}

// The log is not written through a link.
func TestLogFileIsNoLink(t *testing.T) {
	dir := t.TempDir()
	victim, link := filepath.Join(dir, "victim"), filepath.Join(dir, "dev.log")
	if err := errors.Join(os.WriteFile(victim, []byte("mine"), 0o600), os.Symlink(victim, link)); err != nil {
		t.Fatal(err)
	}
	if err := NewPrinter(io.Discard).OpenFile(link, FormatText, false); err == nil ||
		!strings.Contains(err.Error(), "dev.log is not a regular file") {
		t.Error(err)
	}
	if content, err := os.ReadFile(victim); err != nil || string(content) != "mine" {
		t.Errorf("%q, %v", content, err)
	}
}

func TestShorten(t *testing.T) {
	long := "what failed: " + strings.Repeat("é", 4000) + ": why"
	got := shorten(long)
	if len(got) > maxErrorLength+10 || !strings.HasPrefix(got, "what failed: ") || !strings.HasSuffix(got, ": why") {
		t.Errorf("%q", got)
	}
	if got := shorten("short"); got != "short" {
		t.Error(got)
	}
}

func TestFacts(t *testing.T) {
	one := event.WithHint(errors.New("one"), "fix one")
	two := fmt.Errorf("two: %w", errors.New("deeper"))
	for _, test := range []struct {
		name string
		err  error
		want []Fact
	}{
		{"alone", one, []Fact{{Message: "one", Hint: "fix one"}}},
		{"joined, and marked", EnvironmentError{Err: errors.Join(one, two)}, []Fact{
			{Message: "one", Hint: "fix one"},
			{Message: "two: deeper", causes: []string{"two (*fmt.wrapError)", "deeper (*errors.errorString)"}}}},
		{"said once", errors.Join(one, nil, EnvironmentError{Err: one}), []Fact{{Message: "one", Hint: "fix one"}}},
		{"wrapped as a whole", fmt.Errorf("clean up: %w", errors.Join(one, two)), []Fact{
			{Message: "clean up: one\ntwo: deeper", Hint: "fix one",
				causes: []string{"clean up (*fmt.wrapError)", "one\ntwo: deeper (*errors.joinError)"}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Facts(test.err); !reflect.DeepEqual(got, test.want) {
				t.Errorf("%+v\nnot %+v", got, test.want)
			}
		})
	}
}

func podLine(pod event.Name, level event.Level, line string) event.Event {
	return event.Event{Time: noon, Stage: event.PodStage, Phase: event.Noted, Message: event.PodLog,
		Payload: event.LogLine{Level: level, Line: line, ContainerRef: event.ContainerRef{
			PodRef: event.PodRef{Pod: pod, Namespace: "ns"}, Container: "web"}}}
}

// What people see of a difference, also through devloop events, and what machines read.
func TestLinesOfAComparison(t *testing.T) {
	e := event.Event{Stage: "proof", Phase: event.Warned, Message: event.LibrariesDiffer, Payload: event.Comparison{
		Places: []string{"worker", "client", ".venv"}, Libraries: 53, Differences: event.Differences{
			{Library: "dask", Versions: []string{"2024.1.0", "2024.1.0", "2024.2.0"}},
			{Library: "bokeh", Versions: []string{"3.3.4", "", "3.3.4"}}}}}
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var read event.Event
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	for _, e := range []event.Event{e, read} {
		text := say(FormatText, false, e)
		want := noon.Format("15:04:05.000 ") + `WARN proof: libraries differ places=worker,client,.venv libraries=53
  differences=
  │ library  worker    client    .venv
  │ dask     2024.1.0  2024.1.0  2024.2.0
  │ bokeh    3.3.4     -         3.3.4
`
		if text != want {
			t.Errorf("%s\nnot\n%s", text, want)
		}
		if line := say(formatLogfmt, false, e); !strings.Contains(line,
			`places=worker,client,.venv libraries=53 differences="dask 2024.1.0/2024.1.0/2024.2.0; bokeh 3.3.4/missing/3.3.4"`) {
			t.Error(line)
		}
		if line := say(FormatJSON, false, e); !strings.Contains(line,
			`"places":["worker","client",".venv"],"libraries":53,`+
				`"differences":[{"library":"dask","versions":["2024.1.0","2024.1.0","2024.2.0"]}`) {
			t.Error(line)
		}
	}
	same := event.Event{Stage: "proof", Phase: event.Noted, Message: event.LibrariesSame,
		Payload: event.Comparison{Places: []string{"worker", ".venv"}, Libraries: 53}}
	if line := say(FormatText, false, same); !strings.HasSuffix(line,
		"INFO proof: libraries are the same places=worker,.venv libraries=53\n") {
		t.Error(line)
	}
	odd := event.Event{Stage: "proof", Phase: event.Warned, Message: event.LibrariesDiffer,
		Fields: []any{"places", 7, "differences", "?"}}
	if line := say(FormatText, false, odd); !strings.Contains(line, "places=7 differences=?") {
		t.Error(line)
	}
}
