package console

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// quiet messages are told by the lines of stages, by headers and by the line of a run that is
// ready; -v shows them one by one.
var quietMessages = []string{
	event.DevloopStarted, event.ChangeSeen, event.BuildingImage, event.LoadingImage, event.ForwardListens,
	event.InputsHashed, event.NodesAsked, event.ChainIntact, event.ClusterSeen, "old image removed",
}

// happened returns the rows of what is no part of a stage, and keeps what later rows need of it.
func (t *transcript) happened(e event.Event) []row {
	switch p := e.Payload.(type) {
	case event.DevloopStart:
		t.project, t.cluster = string(p.Project), string(p.Cluster)
	case event.Instruction:
		if e.Message == event.BuildStepFailed && t.run != nil && len(t.run.outputs) < maxOutputs && !e.Repeated {
			t.run.outputs = append(t.run.outputs, box{title: imageName(p.Image) + ": " + p.Step, lines: textLines(p.Output)})
			return nil
		}
	case event.Address:
		return t.address(e, p)
	case event.Forward:
		return t.forward(e, p)
	case event.Comparison:
		return t.compares(e, p)
	case event.ContainerDeath:
		if e.Phase == event.Warned {
			return []row{deathOf(p)}
		}
	case event.SyncedFiles:
		if p.Started != "" && e.Level() != event.Debug {
			return []row{startedWith(p)}
		}
		if e.Phase == event.Succeeded { // after its run
			return nil
		}
	case event.UnsyncedContainer:
		if e.Level() != event.Debug {
			return []row{{mark: markNotice, text: joined("files cannot be written into "+containerName(p.Container), p.Reason),
				hint: "that takes a new image of " + string(p.Image)}}
		}
	case event.RenewedImage:
		if e.Level() != event.Debug {
			return []row{{text: "image " + imageName(p.Image) + " has the files now: new pods get it",
				hint: "r replaces those that run"}}
		}
	case event.OutdatedClusters:
		if e.Phase == event.Warned {
			return []row{outdated(p, e)}
		}
	case event.DaskCluster:
		return daskCluster(e, p)
	case event.DaskClusterEnd:
		return daskClusterEnd(e, p)
	case event.Cluster:
		if e.Phase == event.Warned && e.Err != nil {
			return []row{{mark: markNotice, text: errorText(e.Err), hint: event.Hint(e.Err)}}
		}
		return []row{{text: e.Message}}
	case event.LogLine:
		return []row{t.podRow(e, p)}
	}
	place, isPlace := strings.CutPrefix(e.Message, "images are built ")
	switch {
	case isPlace && e.Phase == event.Noted:
		return []row{{label: buildLabel, text: joined(place, text(e.Field("why")))}}
	case e.Message == event.CRDsApplied && e.Phase == event.Noted:
		return []row{{label: deployLabel,
			text: fmt.Sprintf("%s CRDs of %s", text(e.Field("count")), text(e.Field("release")))}}
	case e.Message == event.LocalPython:
		about := fmt.Sprintf("%s (%s, Python %s), by %s", t.shortPath(text(e.Field("path"))), text(e.Field("kind")),
			cmp.Or(text(e.Field("python")), "of unknown version"), text(e.Field("by")))
		return []row{{label: "python", text: about}}
	case e.Message == event.VenvSynced && e.Phase == event.Succeeded:
		return []row{{label: labelOf(e.Stage), cut: true, subject: t.shortPath(text(e.Field("venv"))),
			text: installed(text(e.Field("installed"))), right: Took(e.Took)}}
	case e.Message == event.ClusterChosen:
		t.cluster = text(e.Field("context"))
		return []row{{label: "cluster", text: t.cluster + ": " + text(e.Field("why"))}}
	case e.Message == event.PageServed:
		return []row{{label: "page", text: text(e.Field("url"))}}
	case e.Message == "keys":
		keys := cmp.Or(text(e.Field("keys")), text(e.Field("help"))+": help")
		return []row{{label: "keys", parts: strings.Split(keys, ", ")}}
	case e.Message == event.CleanupStarts:
		_, hint := describe(e)
		t.run, t.groups, t.ending = nil, nil, true
		return []row{{mark: markRun, text: e.Message, right: hint}}
	case slices.Contains(quietMessages, e.Message):
		return nil
	}
	return t.other(e)
}

// installed turns pip's "tabulate-0.9.0 six-1.16.0" into what headers say of packages.
func installed(list string) string {
	names, more, _ := strings.Cut(list, " and ")
	var items []string
	for name := range strings.FieldsSeq(names) {
		if at := strings.LastIndexByte(name, '-'); at > 0 {
			name = name[:at] + " " + name[at+1:]
		}
		items = append(items, "+ "+name)
	}
	if more != "" {
		items = append(items, "… "+more)
	}
	return strings.Join(items, ", ")
}

// shortPath is a path as people write it: from the working folder, or from home.
func (t *transcript) shortPath(path string) string {
	for _, from := range []struct{ folder, as string }{{t.folder, ""}, {t.home, "~"}} {
		if name, err := filepath.Rel(from.folder, path); err == nil && filepath.IsLocal(name) {
			return filepath.Join(from.as, name)
		}
	}
	return path
}

// other returns the row of an event that is only for people.
func (t *transcript) other(e event.Event) []row {
	about, hint := describe(e)
	switch {
	case e.Phase == event.Warned:
		notice := row{mark: markNotice, text: joined(e.Message, about), hint: hint}
		if e.Err != nil {
			notice.text = joined(joined(e.Message, shorten(e.Err.Error())), about)
			notice.hint = cmp.Or(event.Hint(e.Err), hint)
		}
		return []row{notice}
	case e.Phase == event.Failed && e.Level() == event.Error:
		text := e.Message
		if e.Message == event.ChainChecked {
			text, about = "what runs has changed", "" // the error has the links that count
		}
		return []row{{mark: markFailed, text: joined(text, about), boxes: failure(e.Err, nil)}}
	case e.Level() != event.Info:
		return nil
	}
	r := row{text: joined(e.Message, about), hint: hint}
	if e.Took > 0 {
		r.right = Took(e.Took)
	}
	if t.run != nil && e.Run == t.run.number || e.Stage == "cleanup" {
		r.label = labelOf(e.Stage)
	}
	if e.Stage == "cleanup" && strings.HasSuffix(e.Message, "left behind") {
		r = row{mark: markReady, text: r.text}
	}
	return []row{r}
}

func joined(message, about string) string {
	if about == "" {
		return message
	}
	return message + ": " + about
}

// plainKeys are those of fields whose values say by themselves what they are.
var plainKeys = []string{
	"release", "image", "object", "objects", "file", "files", "folder", "why", "reason", "pod", "pods", "line", "context",
	"path", "claim", "crd", "crds", "resource", "namespace", "command", "images", "releases", "local", "target", "url",
	"state", "base", "because", "gateway and image", "hooks", "libraries",
}

// describe returns what varies in an event for a person, and what it says that can be done.
func describe(e event.Event) (about, hint string) {
	var parts []string
	details := e.Details()
	for i := 0; i+1 < len(details); i += 2 {
		key, value := fmt.Sprint(details[i]), text(details[i+1])
		switch {
		case value == "" || key == "namespace" && len(details) > 2:
		case key == "hint":
			hint = value
		case key == "or", strings.HasSuffix(key, " with"):
			hint = key + " " + value
		case slices.Contains(plainKeys, key):
			parts = append(parts, value)
		default:
			parts = append(parts, key+" "+value)
		}
	}
	return strings.Join(parts, ", "), hint
}

// text returns a value of a field as people read it.
func text(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case time.Duration:
		return Took(v)
	case time.Time:
		return v.Format(time.TimeOnly)
	}
	return shorten(fmt.Sprint(value))
}

func (t *transcript) address(e event.Event, a event.Address) []row {
	switch {
	case e.Message == event.ForwardListens:
		t.listens(a)
		return nil
	case e.Message == event.ForwardCloses:
		t.forwards = slices.DeleteFunc(t.forwards, func(f forwardState) bool { return f.Local == a.Local })
	}
	return t.other(e)
}

// forward follows an address. While a run is under way it may wait for the new pods, and before the
// first run for any: only afterwards that is news.
func (t *transcript) forward(e event.Event, p event.Forward) []row {
	f := t.listens(p.Address)
	was := f.state
	f.state = p.State
	switch {
	case e.Message == event.ForwardFails && e.Phase == event.Warned:
		f.told = true
		notice := row{mark: markNotice, text: joined(f.address()+" waits, its pod cannot be reached", errorText(e.Err))}
		notice.hint = event.Hint(e.Err)
		return []row{notice}
	case e.Message == event.ForwardWaits && e.Phase == event.Noted && t.run == nil && !t.ending && was == "ready":
		f.told = true
		return []row{{mark: markNotice, text: joined(f.address()+" waits", p.Reason)}}
	case e.Message == event.ForwardReady && f.told:
		f.told = false
		return []row{{text: f.address() + " answers again"}}
	}
	return nil
}

// address is where, whatever the state.
func (f forwardState) address() string {
	f.state = ""
	return f.where()
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return shorten(err.Error())
}

// compares keeps what the next line of a run that is ready says about libraries. The comparison
// comes after the run whose images it is about.
func (t *transcript) compares(e event.Event, c event.Comparison) []row {
	t.compared = c.Images
	places := strings.Join(c.Places, ", ")
	switch {
	case len(c.Places) < 2:
		t.libraries = ""
	case c.Same():
		t.libraries = fmt.Sprintf("%d libraries the same", c.Libraries)
	default:
		t.libraries = fmt.Sprintf("%d of %d libraries differ", len(c.Differences), c.Libraries)
	}
	switch {
	case e.Phase == event.Warned:
		differences := box{title: "libraries", lines: textLines(differenceTable(c))}
		return []row{{mark: markNotice, text: t.libraries + ": " + places, hint: "devloop skew", boxes: []box{differences}}}
	case e.Phase == event.Noted:
		return []row{{text: t.libraries + ": " + places}}
	}
	return nil
}

// startedWith is about a container that got files as it started.
func startedWith(s event.SyncedFiles) row {
	when := "after it was ready"
	if s.InTime {
		when = "before it was ready"
	}
	return row{text: containerName(s.Started) + " started and got the synced files " + when, right: filesOf(s)}
}

// containerName is namespace/pod/container as a line names it.
func containerName(full event.Name) string {
	_, name, _ := strings.Cut(string(full), "/")
	if pod, container, found := strings.Cut(name, "/"); found && strings.Contains(pod, container) {
		return pod
	}
	return cmp.Or(name, string(full))
}

func deathOf(d event.ContainerDeath) row {
	about := string(d.Pod)
	if !strings.Contains(about, string(d.Container)) {
		about += "/" + string(d.Container)
	}
	r := row{mark: markNotice, text: joined("pod "+about+" died", d.Reason)}
	if d.Restarts > 0 {
		r.text += fmt.Sprintf(", %d restarts so far", d.Restarts)
	}
	if d.Output != "" {
		r.boxes = []box{{title: "its last lines", lines: textLines(d.Output)}}
	}
	return r
}

// outdated names Dask clusters by their owners where that is clear.
func outdated(old event.OutdatedClusters, e event.Event) row {
	var names []string
	for _, c := range old.Clusters {
		sameOwner := func(other event.DaskCluster) bool { return other.Owner == c.Owner && other.Name != c.Name }
		name := c.Owner
		if name == "" || slices.ContainsFunc(old.Clusters, sameOwner) {
			name = c.ShortName()
		}
		names = append(names, name)
	}
	count := fmt.Sprintf("%d Dask clusters run", len(names))
	if len(names) == 1 {
		count = "1 Dask cluster runs"
	}
	return row{mark: markNotice, text: count + " the image before: " + strings.Join(names, ", "),
		hint: text(e.Field("stop with"))}
}

// clusterName is a Dask cluster as a line names it: the names that its gateway makes are long.
func clusterName(name event.Name, owner string) string {
	name = event.ShortName(name)
	if owner != "" {
		return "Dask cluster " + string(name) + " of " + owner
	}
	return "Dask cluster " + string(name)
}

func daskCluster(e event.Event, c event.DaskCluster) []row {
	if e.Level() == event.Debug {
		return nil
	}
	name := clusterName(c.Name, c.Owner)
	switch e.Message {
	case event.ClusterUp:
		return []row{{text: name + " is up", hint: string(c.Dashboard)}}
	case event.ClusterWaits:
		return []row{{mark: markNotice, text: cmp.Or(c.Reason, name+" waits"), hint: c.Hint}}
	}
	return nil
}

func daskClusterEnd(e event.Event, c event.DaskClusterEnd) []row {
	if e.Level() == event.Debug {
		return nil
	}
	r := row{text: clusterName(c.Name, c.Owner) + " is gone"}
	if e.Phase == event.Warned {
		r.mark, r.text = markNotice, joined(r.text, c.Reason)
		if c.Output != "" {
			r.boxes = []box{{title: "the scheduler's last lines", lines: textLines(c.Output)}}
		}
	}
	return []row{r}
}

// failure returns a box for each fact: what failed, on what, what it printed, and what to do.
func failure(err error, outputs []box) []box {
	var facts []Fact
	if err != nil {
		facts = Facts(err)
	}
	var boxes []box
	for _, f := range facts {
		message := f.Message
		if f.problems == nil {
			message = shorten(message)
		}
		boxes = append(boxes, box{lines: textLines(message), hint: f.Hint})
	}
	if len(boxes) != 1 || len(outputs) != 1 {
		return append(outputs, boxes...)
	}
	printed := outputs[0].lines
	failed, why, found := strings.Cut(strings.Join(boxes[0].lines, "\n"), " failed: ")
	first, _, _ := strings.Cut(why, ";")
	if found && strings.Contains(strings.Join(printed, "\n"), strings.TrimSuffix(first, " …")) {
		boxes[0].lines = []string{failed + " failed"} // what it printed says why
	}
	boxes[0].lines = slices.Concat(boxes[0].lines, []string{""}, printed)
	return boxes
}

// maxBoxLines is how many lines a box has; the first and the last ones count.
const maxBoxLines = 40

func textLines(text string) []string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > maxBoxLines {
		left := fmt.Sprintf("… %d lines", len(lines)-maxBoxLines)
		lines = slices.Concat(lines[:maxBoxLines/4], []string{left}, lines[len(lines)-maxBoxLines*3/4:])
	}
	for i, line := range lines {
		lines[i] = shorten(line)
	}
	return lines
}

// detailOf is all of an event, in one text.
func detailOf(e event.Event) string {
	message := e.Message
	if slices.Contains([]event.Phase{event.Started, event.Failed, event.Superseded, event.Interrupted}, e.Phase) {
		message += ": " + string(e.Phase)
	}
	parts := []string{e.Time.Format("15:04:05.000"), e.Stage + ": " + message}
	details := e.Details()
	if e.Took > 0 {
		details = append(slices.Clone(details), "took", e.Took.Round(time.Millisecond))
	}
	if f := factOf(e); f.Message != "" {
		details = append(slices.Clone(details), "err", shorten(f.Message))
		if f.Hint != "" {
			details = append(details, "hint", f.Hint)
		}
		for _, cause := range f.causes {
			details = append(details, "because", cause)
		}
	}
	for i := 0; i+1 < len(details); i += 2 {
		value := fmt.Sprint(details[i+1])
		if value == "" || strings.ContainsAny(value, " \n\"") {
			value = `"` + strings.ReplaceAll(value, `"`, `\"`) + `"`
		}
		parts = append(parts, fmt.Sprint(details[i])+"="+value)
	}
	return strings.Join(parts, " ")
}
