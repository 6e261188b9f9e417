// One save, stage by stage: what devloop's events say of a run, and what its end waited for.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/devloop/devloop/pkg/event"
)

// stage is a part of a run. Its times are in seconds since the save.
type stage struct {
	Name string  `json:"name"`
	From float64 `json:"from"`
	To   float64 `json:"to"`
	Of   string  `json:"of,omitempty"` // what the names of the stages begin with that this one is a part of
}

// save is one save as it was measured.
type save struct {
	Given        float64 `json:"given,omitempty"` // until the gateway gave the new image to clusters
	Complete     float64 `json:"complete"`        // until the run was complete
	Stages       []stage `json:"stages"`
	CriticalPath []stage `json:"criticalPath"` // of the whole run
}

// newSave makes it of the lines of a log in JSON, up to the end of the run.
func newSave(lines []line, saved time.Time) (s save, err error) {
	var events []event.Event
	for _, l := range lines {
		var e event.Event
		if json.Unmarshal([]byte(l.text), &e) == nil { // else it is no event
			events = append(events, e)
		}
	}
	if len(events) == 0 || events[len(events)-1].Message != event.RunComplete {
		return s, fmt.Errorf("the last of %d events is not that a run is complete", len(events))
	}
	s.Complete = events[len(events)-1].Time.Sub(saved).Seconds()
	s.Stages = stagesOf(events, saved)
	s.CriticalPath = criticalPath(s.Stages, s.Complete)
	return s, nil
}

// stagesOf returns what the events of a run tell of: all steps that took time, and the pods that
// came up meanwhile.
func stagesOf(events []event.Event, saved time.Time) (stages []stage) {
	since := func(at time.Time) float64 { return at.Sub(saved).Seconds() }
	seen := map[string]int{}
	add := func(name, of string, from, to float64) {
		if seen[name]++; seen[name] > 1 {
			name = fmt.Sprintf("%s (%d)", name, seen[name])
		}
		stages = append(stages, stage{name, max(from, 0), to, of})
	}
	run := events[len(events)-1].Run
	phases := map[string]float64{} // the beginnings of the stages of pods
	for _, e := range events {
		switch payload := e.Payload.(type) {
		case event.RunStart:
			add(e.Message, "", 0, since(e.Time))
		case event.Pod:
			if payload.Created.Before(saved.Add(-time.Second)) { // its seconds are whole ones
				continue
			}
			name := "pod " + workload(string(payload.Pod))
			begin(phases, name+" starts", since(e.Time))
			if payload.Phase == "Running" && begin(phases, name+" becomes ready", since(e.Time)) {
				add("  "+name+" starts", event.RolloutComplete, phases[name+" starts"], since(e.Time))
			}
			if payload.Ready && begin(phases, name+" is ready", 0) {
				add("  "+name+" becomes ready", event.RolloutComplete, phases[name+" becomes ready"], since(e.Time))
			}
		case event.Instruction:
			if e.Run == run && e.Took > 0 {
				add("  "+instruction(payload.Step), event.ImageBuilt, since(e.Time.Add(-e.Took)), since(e.Time))
			}
		default:
			if e.Run == run && e.Took > 0 && e.Message != event.RunComplete {
				add(strings.TrimSpace(e.Message+" "+subject(e)), "", since(e.Time.Add(-e.Took)), since(e.Time))
			}
		}
	}
	return stages
}

// begin notes that something begins, and reports whether it is the first time.
func begin(phases map[string]float64, name string, at float64) bool {
	if _, known := phases[name]; known {
		return false
	}
	phases[name] = at
	return true
}

var (
	podSuffix = regexp.MustCompile(`(-[a-z0-9]{6,10})?-[a-z0-9]{5}$`)
	stepNoise = regexp.MustCompile(`^\[[^]]*\] |--(mount|from|chown|chmod)=\S+ `)
)

// workload is the name of a pod without what differs from one pod to the next.
func workload(pod string) string { return podSuffix.ReplaceAllString(pod, "") }

// instruction shortens a step of a build, "[stage-1 6/8] RUN --mount=... pip install -r /opt/...".
// Images that share it build it once, so it has no image here.
func instruction(step string) string {
	const most = 44
	step = stepNoise.ReplaceAllString(step, "")
	if utf8.RuneCountInString(step) > most {
		step = string([]rune(step)[:most-1]) + "…"
	}
	return step
}

// subject is what an event is about: an image without its tag, or a release.
func subject(e event.Event) string {
	for _, key := range []string{"image", "release"} {
		if value := e.Field(key); value != nil {
			name, _, _ := strings.Cut(fmt.Sprint(value), ":")
			return name[strings.LastIndex(name, "/")+1:]
		}
	}
	return ""
}

// criticalPath returns what the end waited for, in order and without holes. It goes back from the
// end: each stage waited for what ended last before it began. Of a stage with parts, the parts
// count. Where nothing has ended, the time belongs to what was under way; where nothing was, to
// what came after it.
func criticalPath(stages []stage, end float64) (path []stage) {
	const same = 0.003 // the times of events are in milliseconds
	hasParts := func(whole stage) bool {
		return slices.ContainsFunc(stages, func(s stage) bool { return s.Of != "" && strings.HasPrefix(whole.Name, s.Of) })
	}
	next := "the end"
	for at := end; at > 0; {
		last := stage{}
		for _, s := range stages {
			if s.From < at && s.To <= at+same && s.To > last.To && !hasParts(s) {
				last = s
			}
		}
		if at-last.To > same {
			path = append(path, stage{Name: underway(stages, last.To, at, next), From: last.To, To: at})
		} else {
			last.To = at
		}
		if last.Name != "" {
			path = append(path, last)
		}
		at, next = last.From, last.Name
	}
	slices.Reverse(path)
	return path
}

// underway names a time in which no stage has ended. Parts are left out: they run beside others.
func underway(stages []stage, from, to float64, next string) string {
	name, most := "until: "+strings.TrimSpace(next), (to-from)/2
	for _, s := range stages {
		if overlap := min(s.To, to) - max(s.From, from); overlap > most && s.Of == "" {
			name, most = s.Name, overlap
		}
	}
	return name
}

// stageTable returns the stages of all saves of a benchmark in Markdown: medians, with the smallest
// and the largest sample behind them.
func stageTable(saves []save) string {
	type times struct{ from, took, critical []float64 }
	all := map[string]*times{}
	of := func(name string) *times {
		if all[name] == nil {
			all[name] = &times{}
		}
		return all[name]
	}
	var complete, given []float64
	for _, s := range saves {
		complete, given = append(complete, s.Complete), append(given, s.Given)
		for _, stage := range s.Stages {
			t := of(stage.Name)
			t.from, t.took = append(t.from, stage.From), append(t.took, stage.To-stage.From)
		}
		critical, began := map[string]float64{}, map[string]float64{}
		for _, stage := range s.CriticalPath {
			critical[stage.Name] += stage.To - stage.From
			began[stage.Name] = stage.From
		}
		for name, seconds := range critical {
			t := of(name)
			t.critical = append(t.critical, seconds)
			if strings.HasPrefix(name, "until: ") {
				t.from, t.took = append(t.from, began[name]), append(t.took, seconds)
			}
		}
	}
	type row struct {
		from float64
		text []string
	}
	var rows []row
	for name, t := range all {
		for len(t.critical) < len(saves) { // it was not on the path of all
			t.critical = append(t.critical, 0)
		}
		const shown = 0.01
		if median(t.took) < shown && median(t.critical) < shown {
			continue
		}
		critical := ""
		if median(t.critical) >= shown {
			critical = seconds(median(t.critical))
		}
		took := seconds(median(t.took))
		if len(t.took) > 1 {
			took += fmt.Sprintf(" (%s–%s)", seconds(slices.Min(t.took)), seconds(slices.Max(t.took)))
		}
		rows = append(rows, row{median(t.from), []string{name, seconds(median(t.from)), took, critical}})
	}
	slices.SortFunc(rows, func(a, b row) int {
		if a.from != b.from {
			return int(1e6 * (a.from - b.from))
		}
		return strings.Compare(a.text[0], b.text[0])
	})
	cells := [][]string{{"stage", "begins", "takes", "on the critical path"}, nil}
	for _, r := range rows {
		cells = append(cells, r.text)
	}
	if slices.Max(given) > 0 {
		cells = append(cells, []string{"**the gateway gives the new image**", seconds(median(given)), "", ""})
	}
	cells = append(cells, []string{"**run complete**", seconds(median(complete)), "", seconds(median(complete))})
	return markdown(cells)
}

func seconds(value float64) string { return fmt.Sprintf("%.2f", value) }

// writeSaves keeps them beside what the programs printed.
func writeSaves(dir string, saves []save) error {
	if dir == "" || len(saves) == 0 {
		return nil
	}
	text, err := json.MarshalIndent(saves, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "stages.json"), text, 0o644)
}
