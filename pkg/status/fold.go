package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// keptRuns is how many runs that ended are kept.
	keptRuns = 50
	// keptSpans is how many bars a run has at most; a Dockerfile of a hundred steps is rare, and one that makes thousands is not to be watched.
	keptSpans = 300
	// worthASpan is how long a build step has to take to get a bar, unless it comes from the cache.
	worthASpan = 20 * time.Millisecond
)

// New is the State before anything has happened; history are runs of earlier processes.
func New(history []Run) State {
	return State{Health: Starting, Images: []Image{}, Releases: []Release{}, Pods: []Pod{}, Forwards: []Forward{}, Old: event.DaskClusters{},
		Runs: append([]Run{}, history[max(0, len(history)-keptRuns):]...)}
}

// After returns the State after an event. It depends on nothing else, and s stays what it is.
func (s State) After(e event.Event) State {
	switch e.Stage {
	case event.ConfigStage:
		s = s.configured(e)
	case "loop":
		s = s.looped(e)
	case "build", "node":
		s = s.imaged(e)
	case "deploy", "cleanup":
		s = s.deployed(e)
	case event.PodStage:
		if e.Message == event.PodLog {
			return s
		}
		s = s.podded(e)
	case "forward":
		s = s.forwarded(e)
	case "verify":
		if e.Message == event.ImageVerified {
			name, _ := s.imageName(text(e, "image"))
			s = s.spanned(e, "verify", e.Message, name)
		}
	case "proof":
		s = s.proven(e)
	case "devloop":
		switch e.Message {
		case event.Paused:
			s.Paused = true
		case event.Resumed:
			s.Paused = false
		case event.PageOpens:
			s.Page = text(e, "url")
		}
	}
	s.Health, s.Reason = s.health()
	return s
}

// configured follows what devloop.yaml names.
func (s State) configured(e event.Event) State {
	if e.Message != event.ConfigRead {
		return s
	}
	s.Project, s.File, s.Folder = text(e, "project"), text(e, "file"), text(e, "folder")
	names, _ := e.Field("images").([]string)
	images := make([]Image, 0, len(names))
	for _, name := range names {
		known := find(s.Images, func(i Image) bool { return i.Name == name })
		if known == nil {
			known = &Image{Name: name, Nodes: []NodeImage{}}
		}
		images = append(images, *known)
	}
	ids, _ := e.Field("releases").([]string)
	charts, _ := e.Field("charts").([]string)
	releases := make([]Release, 0, len(ids))
	for i, id := range ids {
		namespace, name, _ := strings.Cut(id, "/")
		known := find(s.Releases, func(r Release) bool { return r.Namespace == namespace && r.Name == name })
		if known == nil {
			known = &Release{Namespace: namespace, Name: name, Changed: e.Time}
		}
		r := *known
		if i < len(charts) {
			r.Chart = charts[i]
		}
		releases = append(releases, r)
	}
	s.Images, s.Releases = images, releases
	if len(images) == 0 { // nobody is going to prove anything any more
		s.Chain, s.Libraries, s.Old = nil, nil, event.DaskClusters{}
	}
	return s
}

func (s State) looped(e event.Event) State {
	switch {
	case e.Message == event.DevloopStarted:
		s.Project, s.Cluster, s.Folder, s.Started = text(e, "project"), text(e, "cluster"), text(e, "folder"), e.Time
	case e.Message == event.RunStarts:
		run := Run{Number: e.Run, Why: text(e, "why"), Files: text(e, "files"), Started: e.Time, Outcome: Running, Stages: []Stage{}, Spans: []Span{}}
		if since := moment(e, "since"); !since.IsZero() {
			settled, _ := e.Field("settled").(time.Duration)
			run.Started = since
			run.add(Span{Stage: "settle", Name: "change settled", About: run.Files, Started: since, Seconds: event.Seconds(settled), Outcome: Succeeded})
		}
		s.Run, s.changed = &run, false
	case e.Message == event.ChangeSeen:
		s.changed = true
	case e.Message == event.RunComplete && s.Run != nil && s.Run.Number == e.Run:
		outcome, ended := outcomes[e.Phase]
		if !ended {
			return s
		}
		return s.runEnded(e, outcome)
	}
	return s
}

// outcomes are those of the phases with which something ends.
var outcomes = map[event.Phase]Outcome{
	event.Succeeded: Succeeded, event.Detailed: Succeeded, event.Noted: Succeeded,
	event.Superseded: Superseded, event.Interrupted: Interrupted, event.Failed: Broken,
}

func (s State) runEnded(e event.Event, outcome Outcome) State {
	s = s.inRun(func(r *Run) {
		r.Outcome, r.Seconds = outcome, event.Seconds(e.Time.Sub(r.Started))
		if outcome == Broken && e.Err != nil {
			r.Error, r.Hint = e.Err.Error(), event.Hint(e.Err)
		}
		for i := range r.Spans {
			if span := &r.Spans[i]; span.Outcome == Running {
				span.Outcome, span.Seconds = outcome, event.Seconds(e.Time.Sub(span.Started))
			}
		}
		r.Stages = stages(r.Spans)
	})
	for i := range s.Images { // what was under way ended with it
		if state := s.Images[i].State; state == ImageBuilding || state == ImageLoading {
			s = s.image(s.Images[i].Name, func(image *Image) {
				image.State, image.Since, image.Step = "", nil, ""
				if outcome == Broken {
					image.State = ImageFailed
				}
			})
		}
	}
	runs := slices.Clone(s.Runs)
	if e.Repeated && len(runs) > 0 { // another try that went the same way takes the place of the one before
		runs = runs[:len(runs)-1]
	}
	runs = append(runs, *s.Run)
	s.Runs = runs[max(0, len(runs)-keptRuns):]
	return s
}

// imaged follows the images, from the hash to the node.
func (s State) imaged(e event.Event) State {
	ref := text(e, "image")
	name, tag := s.imageName(ref)
	switch e.Message {
	case event.InputsHashed, event.NodesAsked:
		return s.spanned(e, "hash", e.Message, "")
	case event.ImageFound:
		return s.image(name, func(i *Image) {
			if i.Tag != tag {
				*i = Image{Name: name, Nodes: []NodeImage{}}
			}
			i.Tag, i.On, i.Error = tag, text(e, "on"), ""
			if i.State = ImageReady; i.On == "node" {
				i.State = ImageOnNode
			}
		})
	case event.BuildingImage:
		if e.Phase != event.Progress {
			return s.image(name, func(i *Image) {
				*i = Image{Name: name, Tag: tag, State: ImageBuilding, Since: &e.Time, Nodes: []NodeImage{}}
			})
		}
		since := moment(e, "since")
		s = s.image(name, func(i *Image) {
			i.Step, i.Done, i.Total, i.Since = text(e, "step"), int(number(e, "done")), int(number(e, "total")), &since
		})
		return s.inRunOf(e, func(r *Run) {
			if running(r.Spans, "build", text(e, "step"), name) < 0 {
				r.add(Span{Stage: "build", Name: text(e, "step"), About: name, Kind: "step", Started: since, Outcome: Running})
			}
		})
	case event.BuildStep:
		cached, _ := e.Field("cached").(bool)
		return s.inRunOf(e, func(r *Run) {
			step := spanOf(e, "build", text(e, "step"), name)
			step.Kind, step.Cached = "step", cached
			if failed, _ := e.Field("failed").(bool); failed {
				step.Outcome = Broken
			}
			at := running(r.Spans, step.Stage, step.Name, step.About)
			switch {
			case at >= 0:
				r.Spans[at] = step
			case cached || step.Outcome == Broken || e.Took >= worthASpan:
				r.add(step)
			}
		})
	case event.BuildStepFailed:
		return s.inRunOf(e, func(r *Run) {
			r.Output = text(e, "output")
		})
	case event.ImageBuilt:
		s = s.spanned(e, "build", e.Message, name)
		return s.image(name, func(i *Image) { i.end(e, ImageReady, "id") })
	case event.LoadingImage:
		s = s.image(name, func(i *Image) {
			i.State, i.Bytes = ImageLoading, int64(number(e, "bytes"))
			if since := moment(e, "since"); !since.IsZero() {
				i.Since = &since
			}
		})
		return s.inRunOf(e, func(r *Run) {
			if at := running(r.Spans, "load", event.ImageLoaded, name); at >= 0 {
				r.Spans[at].Bytes = int64(number(e, "bytes"))
			}
		})
	case event.ImageLoaded:
		s = s.spanned(e, "load", e.Message, name)
		s = s.image(name, func(i *Image) { i.end(e, ImageOnNode, "") })
		if e.Phase == event.Succeeded {
			s = s.inRunOf(e, func(r *Run) { r.Bytes += int64(number(e, "bytes")) })
		}
	case event.ImageHeld:
		return s.image(name, func(i *Image) {
			if i.Tag != tag {
				return
			}
			held := slices.DeleteFunc(slices.Clone(i.Nodes), func(n NodeImage) bool { return n.Node == text(e, "node") })
			i.Nodes = append(held, NodeImage{text(e, "node"), text(e, "digest"), text(e, "id")})
			slices.SortFunc(i.Nodes, func(a, b NodeImage) int { return strings.Compare(a.Node, b.Node) })
			i.State = ImageOnNode
		})
	}
	return s
}

// end is the end of a step with the image.
func (i *Image) end(e event.Event, then ImageState, id string) {
	switch e.Phase {
	case event.Succeeded:
		i.State, i.Step, i.Since, i.Error = then, "", nil, ""
		if id != "" {
			i.ID = text(e, id)
		}
		if bytes := number(e, "bytes"); bytes > 0 {
			i.Bytes = int64(bytes)
		}
	case event.Failed:
		i.State, i.Step, i.Since = ImageFailed, "", nil
		if e.Err != nil {
			i.Error = e.Err.Error()
		}
	}
}

// deployed follows releases and rollouts.
func (s State) deployed(e event.Event) State {
	name := text(e, "release")
	switch e.Message {
	case event.DevloopEnds:
		s.ending = true
	case event.ReleaseApplied, event.ReleaseRolledBack:
		s = s.spanned(e, "helm", e.Message, name)
		states := map[event.Phase]ReleaseState{event.Started: ReleaseApplying, event.Succeeded: ReleaseDeployed, event.Failed: ReleaseFailed}
		state, ok := states[e.Phase]
		if !ok {
			return s
		}
		if e.Message == event.ReleaseRolledBack && state == ReleaseDeployed {
			state = ReleaseBack
		}
		return s.release(e, state)
	case event.ReleaseUnchanged:
		return s.release(e, ReleaseDeployed)
	case event.ReleaseRemoved:
		if e.Phase == event.Succeeded {
			return s.release(e, ReleaseGone)
		}
	case event.RolloutComplete:
		return s.spanned(e, "rollout", e.Message, name)
	case event.ChartDownloaded:
		return s.spanned(e, "helm", e.Message, text(e, "url"))
	case event.CommandRun:
		return s.spanned(e, "helm", e.Message, text(e, "command"))
	}
	return s
}

func (s State) release(e event.Event, state ReleaseState) State {
	namespace, name := text(e, "namespace"), text(e, "release")
	s.Releases = slices.Clone(s.Releases)
	at := slices.IndexFunc(s.Releases, func(r Release) bool { return r.Namespace == namespace && r.Name == name })
	if at < 0 {
		s.Releases = append(s.Releases, Release{Namespace: namespace, Name: name})
		at = len(s.Releases) - 1
	}
	r := &s.Releases[at]
	if r.State != state || e.Message != event.ReleaseUnchanged {
		r.Changed = e.Time
	}
	r.State, r.Error = state, ""
	if revision := number(e, "revision"); revision > 0 {
		r.Revision = int(revision)
	}
	if e.Phase == event.Failed && e.Err != nil {
		r.Error = e.Err.Error()
	}
	return s
}

// podded follows pods.
func (s State) podded(e event.Event) State {
	namespace, name := text(e, "namespace"), text(e, "pod")
	is := func(p Pod) bool { return p.Namespace == namespace && p.Name == name }
	switch e.Message {
	case event.PodGone:
		s.Pods = slices.DeleteFunc(slices.Clone(s.Pods), is)
		return s.pod(e.Time, Pod{Name: name, Phase: "Gone"}, true)
	case event.PodChanged:
		ready, _ := e.Field("ready").(bool)
		p := Pod{Namespace: namespace, Name: name, Release: text(e, "release"), Group: text(e, "group"), Node: text(e, "node"), Phase: text(e, "phase"),
			Ready: ready, Reason: text(e, "reason"), Restarts: int(number(e, "restarts")), Created: moment(e, "created"), Containers: []Container{}}
		containers, _ := e.Field("containers").([]string)
		for _, c := range containers { // name image imageID
			parts := append(strings.Fields(c), "", "", "")
			p.Containers = append(p.Containers, Container{Name: parts[0], Image: parts[1], ImageID: parts[2]})
		}
		s.Pods = slices.Clone(s.Pods)
		at := slices.IndexFunc(s.Pods, is)
		if at < 0 {
			s.Pods = append(s.Pods, p)
			slices.SortFunc(s.Pods, func(a, b Pod) int {
				return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
			})
			return s.pod(e.Time, p, false)
		}
		s.Pods[at] = p
		return s.pod(e.Time, p, true)
	}
	return s
}

// pod gives a pod of a release its bar: from when it was there until it was ready, or went.
func (s State) pod(at time.Time, p Pod, known bool) State {
	if s.Run == nil || s.Run.Outcome != Running || p.Release == "" && !known {
		return s
	}
	over := p.Ready || p.Phase != "Pending" && p.Phase != "Running"
	i := running(s.Run.Spans, "rollout", podSpan, p.Name)
	switch {
	case i < 0 && !known && !over:
		return s.inRun(func(r *Run) {
			r.add(Span{Stage: "rollout", Name: podSpan, About: p.Name, Kind: "pod", Started: at, Outcome: Running})
		})
	case i >= 0 && over:
		return s.inRun(func(r *Run) {
			r.Spans[i].Seconds, r.Spans[i].Outcome = event.Seconds(at.Sub(r.Spans[i].Started)), Succeeded
			if p.Phase == "Failed" {
				r.Spans[i].Outcome, r.Spans[i].Error = Broken, p.Reason
			}
		})
	}
	return s
}

const podSpan = "pod ready"

// forwarded follows forwards, whose events carry their state.
func (s State) forwarded(e event.Event) State {
	if e.Message == event.PlatformAnswers {
		return s.spanned(e, "answer", e.Message, text(e, "url"))
	}
	target, local := text(e, "target"), text(e, "local")
	if target == "" {
		return s
	}
	is := func(f Forward) bool { return f.Target == target && f.Local == local }
	if e.Message == event.ForwardCloses {
		s.Forwards = slices.DeleteFunc(slices.Clone(s.Forwards), is)
		return s
	}
	s.Forwards = slices.Clone(s.Forwards)
	at := slices.IndexFunc(s.Forwards, is)
	if at < 0 {
		s.Forwards = append(s.Forwards, Forward{Target: target, Local: local, State: "waiting", Pods: []string{}})
		at = len(s.Forwards) - 1
	}
	f := &s.Forwards[at]
	if state := text(e, "state"); state != "" {
		f.State, f.Reason, f.Pods = state, text(e, "reason"), []string{}
		if f.Reason == "" && e.Err != nil {
			f.Reason = e.Err.Error()
		}
		if pods := text(e, "pods"); pods != "" {
			f.Pods = strings.Split(pods, ",")
		}
	}
	for key, count := range map[string]*int64{"open": &f.Open, "held": &f.Held, "sent": &f.Sent, "received": &f.Received} {
		if e.Field(key) != nil {
			*count = int64(number(e, key))
		}
	}
	return s
}

// proven follows the proof that what runs is what is on the disk.
func (s State) proven(e event.Event) State {
	switch e.Message {
	case event.ChainChecked:
		s = s.spanned(e, "proof", e.Message, "")
		links, known := e.Field("links").(event.Links)
		if !known { // it only begins, or was given up
			return s
		}
		s.Chain = &Chain{Checked: e.Time, Links: links}
		if e.Phase == event.Failed && e.Err != nil {
			s.Chain.Error, s.Chain.Hint = e.Err.Error(), event.Hint(e.Err)
		}
	case event.ClustersOld:
		clusters, _ := e.Field("clusters").(event.DaskClusters)
		s.Old = append(event.DaskClusters{}, clusters...)
	case event.LibrariesSame, event.LibrariesDiffer:
		places, _ := e.Field("places").([]string)
		if len(places) < 2 { // there is nothing to compare any more
			s.Libraries = nil
			return s
		}
		differences, _ := e.Field("differences").(event.Differences)
		s.Libraries = &Libraries{Compared: e.Time, Places: append([]string{}, places...), Libraries: int(number(e, "libraries")), Differences: append(event.Differences{}, differences...)}
	}
	return s
}

// health is how it all stands, and why it is not healthy.
func (s State) health() (Health, string) {
	switch {
	case s.ending:
		return Ending, ""
	case s.Run == nil:
		return Starting, ""
	case s.changed, s.Run.Outcome == Running, s.Run.Outcome == Superseded:
		return Working, ""
	case s.Run.Outcome == Interrupted:
		return Ending, ""
	case s.Run.Outcome == Broken:
		return Failed, s.Run.Error
	}
	for _, f := range s.Forwards {
		if f.State != "ready" {
			return Degraded, fmt.Sprintf("forward %s → %s is %s", f.Local, f.Target, f.State)
		}
	}
	for _, p := range s.Pods {
		// Those that have ended are judged by the rollout: a job may have failed once and then succeeded.
		if p.Release != "" && !p.Ready && (p.Phase == "Pending" || p.Phase == "Running") {
			return Degraded, strings.TrimSuffix(fmt.Sprintf("pod %s is not ready: %s", p.Name, p.Reason), ": ")
		}
	}
	if s.Chain != nil && s.Chain.Error != "" {
		return Degraded, s.Chain.Error
	}
	return Healthy, ""
}

// image changes what is known of an image.
func (s State) image(name string, change func(*Image)) State {
	at := slices.IndexFunc(s.Images, func(i Image) bool { return i.Name == name })
	if at < 0 { // a base image that is brought to the node
		return s
	}
	s.Images = slices.Clone(s.Images)
	change(&s.Images[at])
	return s
}

// imageName takes a reference apart. In a registry that is pushed to, an image has more of a name than in devloop.yaml.
func (s State) imageName(ref string) (name, tag string) {
	name = ref
	if colon := strings.LastIndexByte(ref, ':'); colon > strings.LastIndexByte(ref, '/') {
		name, tag = ref[:colon], ref[colon+1:]
	}
	best := ""
	for _, i := range s.Images {
		if (name == i.Name || strings.HasSuffix(name, "/"+i.Name)) && len(i.Name) > len(best) {
			best = i.Name
		}
	}
	return cmp.Or(best, name), tag
}

// spanned begins or ends a bar of the run that the event is of.
func (s State) spanned(e event.Event, stage, name, about string) State {
	return s.inRunOf(e, func(r *Run) {
		span := spanOf(e, stage, name, about)
		at := running(r.Spans, stage, name, about)
		switch {
		case at >= 0 && span.Outcome != Running:
			r.Spans[at] = span
		case at < 0:
			r.add(span)
		}
	})
}

// spanOf is the bar of something that the event begins or ends.
func spanOf(e event.Event, stage, name, about string) Span {
	span := Span{Stage: stage, Name: name, About: about, Started: e.Time.Add(-e.Took), Seconds: event.Seconds(e.Took),
		Outcome: Running, Bytes: int64(number(e, "bytes"))}
	if outcome, ended := outcomes[e.Phase]; ended {
		span.Outcome = outcome
	}
	if span.Outcome == Broken && e.Err != nil {
		span.Error = e.Err.Error()
	}
	return span
}

// running is the number of the bar that is under way, -1 if there is none.
func running(spans []Span, stage, name, about string) int {
	return slices.IndexFunc(spans, func(s Span) bool {
		return s.Outcome == Running && s.Stage == stage && s.Name == name && s.About == about
	})
}

func (r *Run) add(s Span) {
	if len(r.Spans) < keptSpans {
		r.Spans = append(r.Spans, s)
	}
}

// inRunOf changes the run that the event is of, if that is the one under way.
func (s State) inRunOf(e event.Event, change func(*Run)) State {
	if s.Run == nil || s.Run.Number != e.Run || s.Run.Outcome != Running {
		return s
	}
	return s.inRun(change)
}

func (s State) inRun(change func(*Run)) State {
	run := *s.Run
	run.Spans = slices.Clone(run.Spans)
	change(&run)
	s.Run = &run
	return s
}

// stages adds up for how long something of each stage was under way.
func stages(spans []Span) []Stage {
	type interval struct{ from, to time.Time }
	byStage := map[string][]interval{}
	for _, s := range spans {
		if s.Kind == "" { // the others are parts of these
			byStage[s.Stage] = append(byStage[s.Stage], interval{s.Started, s.Started.Add(time.Duration(s.Seconds * float64(time.Second)))})
		}
	}
	list := make([]Stage, 0, len(byStage))
	for _, name := range Stages {
		intervals, known := byStage[name]
		if !known {
			continue
		}
		slices.SortFunc(intervals, func(a, b interval) int { return a.from.Compare(b.from) })
		var sum time.Duration
		var until time.Time
		for _, i := range intervals {
			if i.from.After(until) {
				until = i.from
			}
			if i.to.After(until) {
				sum += i.to.Sub(until)
				until = i.to
			}
		}
		list = append(list, Stage{name, event.Seconds(sum)})
	}
	return list
}

// find returns the first that is meant, or nil.
func find[T any](list []T, is func(T) bool) *T {
	if at := slices.IndexFunc(list, is); at >= 0 {
		return &list[at]
	}
	return nil
}

// text is a field as text, "" if there is none.
func text(e event.Event, key string) string {
	if value := e.Field(key); value != nil {
		return fmt.Sprint(value)
	}
	return ""
}

// number is a field as a number, 0 if it is none.
func number(e event.Event, key string) float64 {
	switch v := e.Field(key).(type) {
	case int:
		return float64(v)
	case int32:
		return float64(v)
	case int64:
		return float64(v)
	case float64:
		return v
	}
	return 0
}

// moment is a field as a time, the zero time if it is none.
func moment(e event.Event, key string) time.Time {
	at, _ := e.Field(key).(time.Time)
	return at
}
