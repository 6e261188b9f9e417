package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// transcript turns events into what a person reads on a terminal: a header for each run, a line for
// each of its stages once that has ended, how the run ended, and what happens between runs. It
// knows nothing about the terminal: layout.go makes lines of its rows. What it keeps is bounded,
// whatever events come.
type transcript struct {
	verbose, quiet bool
	folder, home   string // the working folder and the user's, in place of which paths are short

	ending           bool // what was deployed is being removed
	project, cluster string
	forwards         []forwardState
	libraries        string                    // how those of all places compare, "" while that is not known
	compared         []event.Image             // that libraries is about
	tags             map[event.Name]event.Name // of the images as they were found or built last
	run              *runSoFar
	groups           []*group // stages that have begun and have no line yet
}

// runSoFar is the run under way.
type runSoFar struct {
	number  int
	header  []row // that is shown once there is something to tell; of a retry
	changed bool  // something was built, loaded or applied
	images  bool  // there are some: a run that succeeds has proven them
	outputs []box // of failed steps
	notices []row // that follow the line that says how it ended
}

// forwardState is a local address that devloop listens on.
type forwardState struct {
	event.Address
	state event.Name
	told  bool // that connections wait
}

const (
	maxForwards = 100
	maxImages   = 1000
	maxOutputs  = 5 // of failed steps of one run
	maxNotices  = 20
)

// row is what the transcript has to say, before it is fitted to the terminal's width.
type row struct {
	mark    mark
	label   string // of a stage, in a column of its own
	subject string // what the stage worked on, in a column of its own
	text    string
	parts   []string          // in place of text: they stay whole
	changes event.FileChanges // in place of text
	cut     bool              // text is cut rather than wrapped; -v has all of it
	right   string            // stands at the right edge
	hint    string            // what the user can do: at the right edge, or below
	boxes   []box
	pod     string // whose output this is
	detail  bool   // -v
}

// mark is what a row begins with, in ASCII: nothing depends on colours.
type mark string

const (
	markRun    mark = ">" // a run, or the clean-up, begins
	markReady  mark = "ok"
	markNotice mark = "!" // what the user should know
	markFailed mark = "x"
)

// box is a failure with its facts, what a program printed, and what to do.
type box struct {
	title string
	lines []string
	hint  string
}

// rows returns what an event adds: the stages that it ends, with -v itself, and what it tells.
func (t *transcript) rows(e event.Event) []row {
	var ended []row
	switch {
	case e.Message == event.RunComplete && e.Phase != event.Started:
		ended = t.endGroups(func(*group) bool { return true })
	case e.Phase == event.Started && e.Run == t.runNumber():
		now := stageOf(e)
		ended = t.endGroups(func(g *group) bool {
			return g.open == 0 && g.label != now && (!ofImages(g.label) || now != "" && !ofImages(now))
		})
	}
	told := t.read(e)
	if t.verbose && e.Message != event.PodLog {
		detail := row{detail: true, text: detailOf(e)}
		if e.Message == event.RunStarts || e.Message == event.CleanupStarts { // below the header
			told = append(told, detail)
		} else {
			ended = append(ended, detail)
		}
	}
	rows := append(ended, told...)
	if t.quiet {
		rows = slices.DeleteFunc(rows, func(r row) bool {
			return !r.detail && r.pod == "" && !slices.Contains([]mark{markReady, markNotice, markFailed}, r.mark)
		})
	}
	return rows
}

func (t *transcript) read(e event.Event) []row {
	switch p := e.Payload.(type) {
	case event.FoundImage:
		t.made(p.Image)
	case event.Build:
		t.made(p.Image)
	}
	switch {
	case e.Message == event.RunStarts:
		return t.runStarts(e)
	case e.Message == event.RunComplete && e.Phase != event.Started:
		return t.runEnds(e)
	case e.Message == event.RunComplete:
		return nil
	case stageOf(e) != "" && e.Run == t.runNumber():
		return t.staged(e)
	}
	happened := t.happened(e)
	switch {
	case e.Repeated:
		happened = nil
	case t.comesAfter(e):
		for _, notice := range happened {
			notice.label = ""
			t.run.notices = append(t.run.notices, notice)
		}
		happened = nil
	}
	return t.withHeader(happened)
}

// comesAfter reports whether what an event has to say follows the line that says how its run ended.
func (t *transcript) comesAfter(e event.Event) bool {
	return e.Run > 0 && e.Run == t.runNumber() && len(t.run.notices) < maxNotices &&
		(e.Stage == "proof" && e.Phase == event.Warned || e.Stage == "sync" && e.Phase == event.Noted)
}

func (t *transcript) runNumber() int {
	if t.run == nil {
		return 0
	}
	return t.run.number
}

// withHeader puts the run's header before the first rows that it has.
func (t *transcript) withHeader(rows []row) []row {
	if len(rows) == 0 || t.run == nil {
		return rows
	}
	header := t.run.header
	t.run.header = nil
	return append(header, rows...)
}

func (t *transcript) runStarts(e event.Event) []row {
	start, _ := e.Payload.(event.RunStart)
	t.run, t.groups = &runSoFar{number: e.Run}, nil
	t.run.header = []row{{mark: markRun, text: t.cause(start), changes: start.Changes,
		right: fmt.Sprintf("run %d · %s", e.Run, e.Time.Format(time.TimeOnly))}}
	if start.Why == "retry" && !t.verbose { // most of them end as the one before did, and that is known
		return nil
	}
	header := t.run.header
	t.run.header = nil
	return header
}

// cause says why a run starts.
func (t *transcript) cause(start event.RunStart) string {
	switch {
	case start.Files != "":
		return start.Files
	case start.Why == "start" && t.project != "":
		return t.project + " on " + t.cluster
	case start.Why == "asked":
		return "run now"
	case start.Why == "retry":
		return "tried again"
	}
	return cmp.Or(string(start.Why), "run")
}

func (t *transcript) runEnds(e event.Event) []row {
	run := t.run
	if run == nil {
		run = &runSoFar{}
	}
	var rows []row
	if !e.Repeated {
		rows = t.outcome(e, *run)
	}
	rows = append(rows, run.notices...)
	rows = t.withHeader(rows)
	t.run, t.groups = nil, nil
	return rows
}

// outcome is how a run ended.
func (t *transcript) outcome(e event.Event, run runSoFar) []row {
	end, ok := e.Payload.(event.RunEnd)
	if !ok {
		end.Total = e.Took.Seconds()
	}
	total := Took(time.Duration(end.Total * float64(time.Second)))
	switch e.Phase {
	case event.Superseded:
		return []row{{text: "superseded by a newer change", right: total}}
	case event.Interrupted:
		return []row{{text: "stopped", right: total}}
	case event.Failed:
		text := "failed after " + total
		if ok && !slices.ContainsFunc(end.Stages, func(t event.Timing) bool { return t.Name == "helm" }) {
			text += ", what ran keeps running"
		}
		return []row{{mark: markFailed, text: text, boxes: failure(e.Err, run.outputs)}}
	}
	return t.ready(total, run)
}

// ready says that the platform runs, where it answers, and what was looked at.
func (t *transcript) ready(total string, run runSoFar) []row {
	parts := []string{"ready in " + total}
	if len(t.forwards) == 1 {
		parts = append(parts, t.forwards[0].where())
	}
	if run.images && !run.changed {
		parts = append(parts, "nothing had changed")
	}
	var looked []string
	if run.images {
		looked = append(looked, "proven")
	}
	if t.libraries != "" && !slices.ContainsFunc(t.compared, t.isOlder) {
		looked = append(looked, t.libraries)
	}
	if len(looked) > 0 {
		parts = append(parts, strings.Join(looked, " · "))
	}
	rows := []row{{mark: markReady, parts: parts}}
	if len(t.forwards) > 1 {
		for _, f := range t.forwards {
			_, name, _ := strings.Cut(string(f.Target), "/")
			rows = append(rows, row{text: f.where() + wide + cmp.Or(name, string(f.Target))})
		}
	}
	return rows
}

// isOlder reports whether an image has been made anew since.
func (t *transcript) isOlder(image event.Image) bool {
	tag, known := t.tags[image.Name]
	return known && tag != image.Tag
}

// made keeps the tag of an image.
func (t *transcript) made(image event.Image) {
	if t.tags == nil {
		t.tags = map[event.Name]event.Name{}
	}
	if _, known := t.tags[image.Name]; image.Tag != "" && (known || len(t.tags) < maxImages) {
		t.tags[image.Name] = image.Tag
	}
}

// wide separates parts of a line.
const wide = "   "

// where is the address as people use it.
func (f forwardState) where() string {
	where := cmp.Or(string(f.URL), strings.Replace(string(f.Local), "127.0.0.1:", "localhost:", 1))
	if f.state != "" && f.state != "ready" {
		where += " (no ready pod)"
	}
	return where
}

// listens keeps an address, and returns it.
func (t *transcript) listens(a event.Address) *forwardState {
	at := slices.IndexFunc(t.forwards, func(f forwardState) bool { return f.Local == a.Local })
	if at < 0 {
		if len(t.forwards) == maxForwards {
			return &forwardState{Address: a}
		}
		at = len(t.forwards)
		t.forwards = append(t.forwards, forwardState{})
	}
	t.forwards[at].Address = a
	return &t.forwards[at]
}
