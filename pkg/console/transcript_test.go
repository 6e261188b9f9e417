package console

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/muesli/termenv"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/test/terminal"
)

// stream reads what a devloop logged with --log-format json -v.
func stream(t testing.TB, file string) (events []event.Event) {
	t.Helper()
	content, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	lines := bufio.NewScanner(content)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v: %s", file, err, lines.Bytes())
		}
		events = append(events, e)
	}
	return events
}

func streams(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/streams/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	return files
}

// FuzzTranscript: lines fit the terminal and are harmless, whatever events come in which order.
func FuzzTranscript(f *testing.F) {
	f.Add(uint64(1), uint8(80), terminal.Hostile)
	f.Add(uint64(2), uint8(40), "一二三 "+strings.Repeat("é", 90)+" 👩‍🚀")
	f.Add(uint64(3), uint8(200), strings.Repeat("word ", 300)+"\n\n\tindented")
	f.Add(uint64(4), uint8(30), " ")
	var recorded []event.Event
	for _, file := range streams(f) {
		recorded = append(recorded, stream(f, file)...)
	}
	f.Fuzz(func(t *testing.T, seed uint64, width uint8, text string) {
		random := rand.New(rand.NewPCG(seed, 0))
		events := append(hostileEvents(text), recorded...)
		for _, columns := range []int{int(width), 80, 110} {
			tr := &transcript{verbose: random.IntN(2) == 0, quiet: random.IntN(4) == 0}
			l, plain := newLayout(columns, newStyles(termenv.TrueColor)), newLayout(columns, newStyles(termenv.Ascii))
			for range 200 {
				e := mutated(random, events[random.IntN(len(events))], text)
				for _, r := range tr.rows(e) {
					checkRow(t, l, plain, r)
				}
			}
		}
	})
}

// mutated returns the event with another phase, run or text.
func mutated(random *rand.Rand, e event.Event, text string) event.Event {
	phases := []event.Phase{event.Started, event.Succeeded, event.Superseded, event.Interrupted, event.Failed,
		event.Noted, event.Warned, event.Detailed}
	switch random.IntN(8) {
	case 0:
		e.Phase = phases[random.IntN(len(phases))]
	case 1:
		e.Run = random.IntN(4)
	case 2:
		e.Message, e.Fields = text, append(slices.Clone(e.Fields), "why", text, "a key", text)
	case 3:
		e.Err = event.WithHint(errors.Join(errors.New(text), errors.New("second")), text)
	case 4:
		e.Payload = nil
	case 5:
		e.Repeated = true
	case 6:
		e.Took = time.Duration(random.Int64N(int64(3 * time.Hour)))
	}
	return e
}

func checkRow(t *testing.T, l, plain layout, r row) {
	t.Helper()
	lines, same := l.lines(r), plain.lines(r)
	if len(lines) == 0 || ansi.Strip(strings.Join(lines, "\n")) != strings.Join(same, "\n") {
		t.Errorf("%+v: colours change the text:\n%q\n%q", r, lines, same)
	}
	for _, line := range same {
		if ansi.StringWidth(line) > l.width+1 && !strings.Contains(line, "://") { // a wide character may not fit
			t.Errorf("%d columns, not %d: %q", ansi.StringWidth(line), l.width, line)
		}
		if left := terminal.Unprintable(line, false); left != "" || strings.Contains(line, "\n") {
			t.Errorf("%q in %q", left, line)
		}
	}
}

// A flood of events takes no more memory than the first of them.
func TestTranscriptIsBounded(t *testing.T) {
	tr := &transcript{}
	tr.rows(event.Event{Run: 1, Stage: "loop", Phase: event.Detailed, Message: event.RunStarts,
		Payload: event.RunStart{Why: "start"}})
	for i := range 20_000 {
		name := event.Name(fmt.Sprint("n", i))
		image := event.Image{Name: name}
		for _, e := range []event.Event{
			{Run: 1, Stage: "build", Phase: event.Started, Message: event.ImageBuilt, Payload: event.Build{Image: image}},
			{Run: 1, Stage: "build", Phase: event.Succeeded, Message: event.ImageBuilt, Payload: event.Build{Image: image}},
			{Run: 1, Stage: "build", Phase: event.Noted, Message: event.BuildStep,
				Payload: event.Instruction{Image: image, Step: "[1/2] RUN " + string(name)}},
			{Run: 1, Stage: "build", Phase: event.Noted, Message: event.BuildStepFailed,
				Payload: event.Instruction{Image: image, Step: string(name), Output: "broken"}},
			{Run: 1, Stage: "proof", Phase: event.Warned, Message: string(name)},
			{Stage: "forward", Phase: event.Noted, Message: event.ForwardListens, Payload: event.Address{Local: name}},
		} {
			tr.rows(e)
		}
	}
	g := tr.groups[0]
	if len(tr.groups) != 1 || len(g.names) > maxNames || len(g.ran) > maxNames || len(tr.forwards) > maxForwards ||
		len(tr.run.outputs) > maxOutputs || len(tr.run.notices) > maxNotices {
		t.Errorf("%d groups, %d names, %d steps, %d forwards, %d outputs, %d notices", len(tr.groups), len(g.names),
			len(g.ran), len(tr.forwards), len(tr.run.outputs), len(tr.run.notices))
	}
}

// TestLibrariesOfImagesBefore: a comparison of images that have been built anew is no news of the
// run that is ready. It may also end while that run is under way.
func TestLibrariesOfImagesBefore(t *testing.T) {
	worker := func(tag event.Name) event.Image { return event.Image{Name: "worker", Tag: tag} }
	found := func(tag event.Name) event.Event {
		return event.Event{Stage: "build", Phase: event.Noted, Message: event.ImageFound,
			Payload: event.FoundImage{Image: worker(tag)}}
	}
	compared := func(tag event.Name) event.Event {
		return event.Event{Stage: "proof", Phase: event.Detailed, Message: event.LibrariesSame, Payload: event.Comparison{
			Places: []string{"worker", ".venv"}, Libraries: 43, Images: []event.Image{worker(tag)}}}
	}
	var transcript transcript
	for i, step := range []struct {
		event event.Event
		known bool
	}{
		{compared("1"), true},
		{found("1"), true},
		{event.Event{Stage: "build", Phase: event.Noted, Message: event.BuildingImage,
			Payload: event.Build{Image: worker("2")}}, false},
		{compared("1"), false},
		{compared("2"), true},
		{found("1"), false},
	} {
		transcript.rows(step.event)
		ready := fmt.Sprint(transcript.ready("1 s", runSoFar{}))
		if strings.Contains(ready, "43 libraries the same") != step.known {
			t.Errorf("after event %d: %s", i, ready)
		}
	}
}

// Images go on by themselves: what the stages of all of them did is one row each.
func TestImagesThatDoNotWaitForEachOther(t *testing.T) {
	var tr transcript
	var rows []string
	say := func(stage string, phase event.Phase, message string, payload any) {
		for _, r := range tr.rows(event.Event{Run: 1, Stage: stage, Phase: phase, Message: message, Payload: payload}) {
			if r.label != "" {
				rows = append(rows, r.label+" "+r.subject)
			}
		}
	}
	say("loop", event.Detailed, event.RunStarts, event.RunStart{})
	for _, name := range []event.Name{"base", "worker"} {
		image := event.Image{Name: name}
		for _, phase := range []event.Phase{event.Started, event.Succeeded} {
			say("build", phase, event.ImageBuilt, event.Build{Image: image})
		}
		say("deploy", event.Started, "charts rendered", nil)
		for _, phase := range []event.Phase{event.Started, event.Succeeded} {
			say("node", phase, event.ImageLoaded, event.Loaded{Image: image})
		}
		for _, phase := range []event.Phase{event.Started, event.Succeeded} {
			say("verify", phase, event.ImageVerified, event.Verification{Image: image})
		}
	}
	if len(rows) > 0 {
		t.Errorf("before all images are there: %q", rows)
	}
	say("deploy", event.Started, event.ReleaseApplied, event.Release{Name: "web"})
	if want := []string{"build base, worker", "load base, worker", "verify base, worker"}; !slices.Equal(rows, want) {
		t.Errorf("%q, not %q", rows, want)
	}
}

func TestTook(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 s", 40 * time.Millisecond: "0.0 s", 2720 * time.Millisecond: "2.7 s", 59_940 * time.Millisecond: "59.9 s",
		59_960 * time.Millisecond: "1 min 0 s", 72 * time.Second: "1 min 12 s", 3700 * time.Second: "1 h 1 min",
	} {
		if got := Took(d); got != want {
			t.Errorf("%s: %q, not %q", d, got, want)
		}
	}
}

// A pod's line has one time and one level, its own if there are some.
func TestPodRows(t *testing.T) {
	for _, test := range []struct {
		level      event.Level
		line, want string
	}{
		{event.Info, "hello", "12:00:00 web-1  hello"},
		{event.Error, "it is broken", "12:00:00 web-1  error: it is broken"},
		{event.Error, "ERROR it is broken", "12:00:00 web-1  ERROR it is broken"},
		{event.Warning, "2026-11-30 03:50:01,001 WARNING x", "web-1  2026-11-30 03:50:01,001 WARNING x"},
		{event.Warning, `{"ts":1732932000.1,"level":"warn","msg":"x"}`,
			`web-1  {"ts":1732932000.1,"level":"warn","msg":"x"}`},
		{event.Error, `time="2026-11-30T03:50:04Z" level=error msg=x`,
			`web-1  time="2026-11-30T03:50:04Z" level=error msg=x`},
		{event.Error, "E1130 03:50:05.123456       1 x.go:1] x", "web-1  E1130 03:50:05.123456       1 x.go:1] x"},
		{event.Error, "  File \"x.py\", line 3", "12:00:00 web-1  error:   File \"x.py\", line 3"},
		{event.Info, "", "12:00:00 web-1"},
	} {
		e := podLine("web-1", test.level, test.line)
		rows := (&transcript{}).rows(e)
		got := newLayout(120, newStyles(termenv.Ascii)).lines(rows[0])
		if len(rows) != 1 || len(got) != 1 || got[0] != test.want {
			t.Errorf("%q, not %q", got, test.want)
		}
	}
}

// A pod's long name leaves room for what it says.
func TestPodRowsOfLongNames(t *testing.T) {
	e := podLine("dask-worker-7a15aee5479f425eb0d8d385ae0a6c47-5cskw", event.Info,
		"distributed.worker - INFO - Start worker at: tls://10.244.0.17:35537, waiting to connect to the scheduler")
	plain := newLayout(80, newStyles(termenv.Ascii))
	got := strings.Join(plain.lines((&transcript{}).rows(e)[0]), "\n")
	want := "12:00:00 dask-worker-…a6c47-5cskw/web  distributed.worker - INFO - Start worker\n" +
		"  at: tls://10.244.0.17:35537, waiting to connect to the scheduler"
	if got != want {
		t.Errorf("it shows\n%s\nand should\n%s", got, want)
	}
	verbose := strings.Join(plain.lines((&transcript{verbose: true}).rows(e)[0]), "\n")
	if !strings.Contains(verbose, "dask-worker-7a15aee5479f425eb0d8d385ae0a6c47-5cskw") {
		t.Errorf("-v shows\n%s", verbose)
	}
}

// Terminals break an address that is too long, so that it can still be opened.
func TestAddressesStayWhole(t *testing.T) {
	const address = "http://localhost:8001/clusters/dask-gateway.4f7b3edc8eab4807a4b0767f91b35fd1/status"
	for width := narrowest; width < 100; width++ {
		l := newLayout(width, newStyles(termenv.Ascii))
		for _, r := range []row{
			{text: "Dask cluster of ada is up", hint: address}, {text: "it is at " + address}, {label: "page", text: address},
			{mark: markReady, parts: []string{"ready in 1 s", address}}, {text: address, right: "1.0 s"},
			{mark: markFailed, text: "failed", boxes: []box{{lines: []string{"see " + address + " there"}, hint: address}}},
		} {
			if lines := l.lines(r); !strings.Contains(strings.Join(lines, "\n"), address) {
				t.Errorf("%d columns:\n%s", width, strings.Join(lines, "\n"))
			}
		}
	}
}

// A header keeps each package together, and says how many it leaves out.
func TestHeadersKeepItemsTogether(t *testing.T) {
	change := event.FileChange{File: "requirements.txt", More: 5}
	for i := range 40 {
		change.Lines = append(change.Lines,
			event.LineChange{Name: fmt.Sprint("package-", i), Change: event.Added, After: "1.0"})
	}
	one := event.FileChange{File: "requirements.txt", Lines: []event.LineChange{
		{Name: "loguru", Change: event.Changed, Before: "99.99.99", After: "0.7.2"},
		{Name: "tabulate", Change: event.Added, After: "0.9.0"}}}
	r := row{mark: markRun, right: "run 15 · 02:21:47", changes: event.FileChanges{one, change}}
	got := strings.Join(newLayout(80, newStyles(termenv.Ascii)).lines(r), "\n")
	want := `> requirements.txt  ~ loguru 99.99.99 → 0.7.2,                run 15 · 02:21:47
  + tabulate 0.9.0
  requirements.txt  + package-0 1.0, + package-1 1.0,
  + package-2 1.0, + package-3 1.0, + package-4 1.0,
  + package-5 1.0, + package-6 1.0, … 38 more`
	if got != want {
		t.Errorf("it shows\n%s\nand should\n%s", got, want)
	}
}
