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
	// keptSpans is how many bars a run has at most; even a Dockerfile of a hundred steps is rare.
	keptSpans = 300
	// minSpan is how long a build step takes at least to get a bar, unless it was cached or failed.
	minSpan = 20 * time.Millisecond
)

// New is the State before anything has happened; history are runs of earlier processes.
func New(history []Run) State {
	return State{Health: Starting, Images: []Image{}, Releases: []Release{}, Pods: []Pod{}, pods: []Pod{},
		Forwards: []Forward{}, Clusters: []DaskCluster{}, Old: event.DaskClusters{},
		Runs: append([]Run{}, history[max(0, len(history)-keptRuns):]...)}
}

// After returns the State after an event. It depends on nothing else, and s stays what it is.
func (s State) After(e event.Event) State {
	switch p := e.Payload.(type) {
	case event.LogLine, event.ContainerDeath:
		return s
	case event.DevloopStart:
		s.Project, s.Cluster, s.Folder = string(p.Project), string(p.Cluster), string(p.Folder)
		s.Version, s.System, s.Tool = string(p.Version), string(p.System), string(p.Tool)
		s.Started = e.Time
	case event.Config:
		s = s.configured(e, p)
	case event.Cluster:
		s.Away = awayBy(e, p)
	case event.Page:
		s.Page = string(p.URL)
	case event.RunStart:
		s = s.runStarted(e, p)
	case event.RunScope:
		s = s.inRunOf(e, func(r *Run) { r.Releases = p.Releases })

	case event.FoundImage:
		s = s.found(p)
	case event.Build:
		s = s.built(e, p)
	case event.Instruction:
		s = s.instructed(e, p)
	case event.Loading:
		s = s.loading(e, p)
	case event.Loaded:
		s = s.loaded(e, p)
	case event.NodeImage:
		s = s.onNode(p)
	case event.Verification:
		s = s.spanned(e, "verify", string(p.Image.Name))

	case event.SyncedFiles:
		s = s.synced(e, p)
	case event.RenewedImage:
		s = s.renewed(p)

	case event.Release:
		s = s.released(e, p)
	case event.Download:
		s = s.spanned(e, "helm", p.URL)
	case event.Command:
		s = s.spanned(e, "helm", p.Command)
	case event.Rollout:
		s = s.spanned(e, "rollout", string(p.Release))

	case event.Pod:
		s = s.podChanged(e, p)
	case event.PodRef:
		s = s.podGone(e, p)
	case event.Address:
		s = s.listening(e, p)
	case event.Forward:
		s = s.forwarded(e, p)
	case event.Answer:
		s = s.spanned(e, "answer", p.URL)

	case event.Chain:
		s = s.checked(e, p)
	case event.DaskCluster:
		s = s.clusterSeen(p)
	case event.DaskClusterEnd:
		s = s.clusterGone(e, p)
	case event.OutdatedClusters:
		s.Old = append(event.DaskClusters{}, p.Clusters...)
		s = s.clustersCompared()
	case event.Comparison:
		s.Libraries = compared(e, p)
	default:
		s = s.happened(e)
	}
	s.Pods = s.shownPods()
	s.Chain, s.Libraries = s.datedChain(), s.datedLibraries()
	s.Health, s.Reason = s.health()
	return s
}

// awayBy returns why the cluster cannot be used, nil if it can.
func awayBy(e event.Event, c event.Cluster) *Away {
	if c.State == event.ClusterRunning {
		return nil
	}
	away := &Away{State: c.State, Since: e.Time}
	if e.Err != nil {
		away.Reason, away.Hint = e.Err.Error(), event.Hint(e.Err)
	}
	return away
}

// phaseUnknown is Kubernetes' word for a pod whose state cannot be obtained.
const phaseUnknown = "Unknown"

// shownPods are the pods as they were reported, or while the cluster is away, that they were there.
func (s State) shownPods() []Pod {
	if s.Away == nil {
		return s.pods
	}
	shown := slices.Clone(s.pods)
	for i := range shown {
		pod := &shown[i]
		was := pod.Phase
		if pod.Ready {
			was = "ready"
		}
		pod.Phase, pod.Ready, pod.Reason = phaseUnknown, false, "was "+was
	}
	return shown
}

// happened follows events whose message says all.
func (s State) happened(e event.Event) State {
	switch e.Message {
	case event.CleanupStarts:
		s.ending = true
	case event.Paused, event.Resumed:
		s.Paused = e.Message == event.Paused
	case event.ChangeSeen:
		s.changed = true
	case event.RunComplete:
		return s.runEnded(e)
	case event.InputsHashed, event.NodesAsked:
		return s.spanned(e, "hash", "")
	case event.ChainChecked: // it begins, or was given up
		return s.spanned(e, "proof", "")
	}
	return s
}

// configured keeps what is known of the images and releases that devloop.yaml names.
func (s State) configured(e event.Event, c event.Config) State {
	s.Project, s.File, s.Folder = string(c.Project), string(c.File), string(c.Folder)
	images := make([]Image, 0, len(c.Images))
	for _, name := range c.Images {
		at := slices.IndexFunc(s.Images, func(i Image) bool { return i.Name == name })
		if at < 0 {
			images = append(images, Image{Name: name, Nodes: []NodeImage{}})
		} else {
			images = append(images, s.Images[at])
		}
	}
	releases := make([]Release, 0, len(c.Releases))
	for _, named := range c.Releases {
		r := Release{Namespace: string(named.Namespace), Name: string(named.Name), Changed: e.Time}
		if at := slices.IndexFunc(s.Releases, r.is); at >= 0 {
			r = s.Releases[at]
		}
		r.Chart = named.Chart
		releases = append(releases, r)
	}
	s.Images, s.Releases, s.Part = images, releases, c.Part
	if len(images) == 0 { // there is nothing left to prove
		s.Chain, s.Libraries, s.Old = nil, nil, event.DaskClusters{}
	}
	return s
}

func (s State) runStarted(e event.Event, p event.RunStart) State {
	run := Run{Number: e.Run, Why: string(p.Why), Files: p.Files, Changes: p.Changes, Started: e.Time,
		Outcome: Running,
		Stages:  []Stage{}, Spans: []Span{}}
	if !p.Since.IsZero() {
		run.Started = p.Since
	}
	if !p.Since.IsZero() && run.Files != "" {
		run.add(Span{Stage: "settle", Name: "change settled", About: run.Files, Started: run.Started,
			Seconds: p.Settled, Outcome: Succeeded})
	}
	s.Run, s.changed = &run, false
	return s
}

// outcomes are those of the phases with which something ends.
var outcomes = map[event.Phase]Outcome{
	event.Succeeded: Succeeded, event.Detailed: Succeeded, event.Noted: Succeeded,
	event.Superseded: Superseded, event.Interrupted: Interrupted, event.Failed: RunFailed,
}

func (s State) runEnded(e event.Event) State {
	outcome, ended := outcomes[e.Phase]
	if !ended || s.Run == nil || s.Run.Number != e.Run {
		return s
	}
	s = s.inRun(func(r *Run) {
		r.Outcome, r.Seconds = outcome, event.Seconds(e.Time.Sub(r.Started))
		if outcome == RunFailed && e.Err != nil {
			r.Error, r.Hint = e.Err.Error(), event.Hint(e.Err)
		}
		for i := range r.Spans {
			if span := &r.Spans[i]; span.Outcome == Running {
				span.Outcome, span.Seconds = outcome, event.Seconds(e.Time.Sub(span.Started))
			}
		}
		r.Stages = stages(r.Spans)
	})
	for _, image := range s.Images { // what was under way ended with it
		if image.State == ImageBuilding || image.State == ImageLoading {
			s = s.image(image.Name, func(i *Image) {
				i.State, i.Since, i.Step = "", nil, ""
				if outcome == RunFailed {
					i.State = ImageFailed
				}
			})
		}
	}
	runs := slices.Clone(s.Runs)
	if e.Repeated && len(runs) > 0 { // another try with the same result replaces the one before
		runs = runs[:len(runs)-1]
	}
	runs = append(runs, *s.Run)
	s.Runs = runs[max(0, len(runs)-keptRuns):]
	return s
}

func (s State) found(p event.FoundImage) State {
	name, tag := string(p.Image.Name), string(p.Image.Tag)
	return s.image(name, func(i *Image) {
		if i.Tag != tag {
			*i = Image{Name: name, Nodes: []NodeImage{}}
		}
		i.Tag, i.On, i.Error = tag, string(p.On), ""
		if i.State = ImageReady; i.On == "node" {
			i.State = ImageOnNode
		}
	})
}

func (s State) built(e event.Event, p event.Build) State {
	name, tag := string(p.Image.Name), string(p.Image.Tag)
	switch {
	case e.Message == event.ImageBuilt:
		s = s.spanned(e, "build", name)
		return s.image(name, func(i *Image) {
			if i.ended(e, ImageReady) {
				i.ID = p.ID
			}
		})
	case e.Phase == event.Progress:
		s = s.image(name, func(i *Image) { i.Step, i.Done, i.Total, i.Since = p.Step, p.Done, p.Total, &p.Since })
		return s.inRunOf(e, func(r *Run) {
			if running(r.Spans, "build", p.Step, name) < 0 {
				r.add(Span{Stage: "build", Name: p.Step, About: name, Kind: "step", Started: p.Since, Outcome: Running})
			}
		})
	}
	return s.image(name, func(i *Image) {
		*i = Image{Name: name, Tag: tag, State: ImageBuilding, Since: &e.Time, Nodes: []NodeImage{}}
	})
}

// instructed follows the steps of a build.
func (s State) instructed(e event.Event, p event.Instruction) State {
	return s.inRunOf(e, func(r *Run) {
		if e.Message == event.BuildStepFailed {
			r.Output = p.Output
			return
		}
		step := spanOf(e, "build", string(p.Image.Name))
		step.Name, step.Kind, step.Cached = p.Step, "step", p.Cached
		if p.Failed {
			step.Outcome = RunFailed
		}
		switch at := running(r.Spans, step.Stage, step.Name, step.About); {
		case at >= 0:
			r.Spans[at] = step
		case p.Cached || p.Failed || e.Took >= minSpan:
			r.add(step)
		}
	})
}

func (s State) loading(e event.Event, p event.Loading) State {
	name := string(p.Image.Name)
	if e.Message == event.ImageLoaded { // the step begins, or was not completed
		s = s.spanned(e, "load", name)
		return s.image(name, func(i *Image) { i.ended(e, "") })
	}
	s = s.image(name, func(i *Image) {
		i.State, i.Bytes = ImageLoading, p.Bytes
		if !p.Since.IsZero() {
			i.Since = &p.Since
		}
	})
	return s.inRunOf(e, func(r *Run) {
		if at := running(r.Spans, "load", event.ImageLoaded, name); at >= 0 {
			r.Spans[at].Bytes = p.Bytes
		}
	})
}

func (s State) loaded(e event.Event, p event.Loaded) State {
	name := string(p.Image.Name)
	s = s.spanned(e, "load", name)
	s = s.image(name, func(i *Image) {
		if i.ended(e, ImageOnNode) && p.Bytes > 0 {
			i.Bytes = p.Bytes
		}
	})
	return s.inRunOf(e, func(r *Run) { r.Bytes += p.Bytes })
}

func (s State) onNode(p event.NodeImage) State {
	node := string(p.Node)
	return s.image(string(p.Image.Name), func(i *Image) {
		if i.Tag != string(p.Image.Tag) {
			return
		}
		others := slices.DeleteFunc(slices.Clone(i.Nodes), func(n NodeImage) bool { return n.Node == node })
		i.Nodes = append(others, NodeImage{node, p.Digest, p.ID})
		slices.SortFunc(i.Nodes, func(a, b NodeImage) int { return strings.Compare(a.Node, b.Node) })
		i.State = ImageOnNode
	})
}

// synced follows files on their way into containers of an image.
func (s State) synced(e event.Event, p event.SyncedFiles) State {
	if p.Started == "" {
		s = s.spanned(e, "sync", string(p.Image))
	}
	if p.Containers == 0 || outcomes[e.Phase] != Succeeded {
		return s
	}
	return s.image(string(p.Image), func(i *Image) {
		now := Synced{Run: e.Run, At: e.Time}
		switch {
		case i.Synced != nil && (e.Run == 0 || e.Run == i.Synced.Run): // it started after the run, or in it
			now = *i.Synced
		case e.Run == 0: // its image is older than the one that has the files
			return
		}
		now.Containers += p.Containers
		i.Synced = &now
	})
}

// renewed follows the image that holds files which were synced before.
func (s State) renewed(p event.RenewedImage) State {
	return s.image(string(p.Image.Name), func(i *Image) {
		if i.Synced != nil && i.Tag != string(p.Image.Tag) {
			now := *i.Synced
			now.Renewed = string(p.Image.Tag)
			i.Synced = &now
		}
	})
}

// forgetSynced forgets what was synced into containers of images that are found to hold it.
func (s State) forgetSynced(links event.Links) State {
	for _, link := range links {
		if link.Place == event.AtInputs && link.SyncedInto == "" {
			s = s.image(string(link.Image), func(i *Image) { i.Synced = nil })
		}
	}
	return s
}

// ended follows the end of a step with the image, and reports whether it succeeded.
func (i *Image) ended(e event.Event, then ImageState) bool {
	switch e.Phase {
	case event.Succeeded:
		i.State, i.Step, i.Since, i.Error = then, "", nil, ""
		return true
	case event.Failed:
		i.State, i.Step, i.Since = ImageFailed, "", nil
		if e.Err != nil {
			i.Error = e.Err.Error()
		}
	}
	return false
}

// states are those of a release after a phase of the step that applies it.
var states = map[event.Phase]ReleaseState{
	event.Started: ReleaseApplying, event.Succeeded: ReleaseDeployed, event.Failed: ReleaseFailed,
}

func (s State) released(e event.Event, p event.Release) State {
	state, known := states[e.Phase]
	switch e.Message {
	case event.ReleaseApplied:
		s = s.spanned(e, "helm", string(p.Name))
	case event.ReleaseRolledBack:
		s = s.spanned(e, "helm", string(p.Name))
		if state == ReleaseDeployed {
			state = ReleaseBack
		}
	case event.ReleaseUnchanged:
		state, known = ReleaseDeployed, true
	case event.ReleaseUninstalled:
		state, known = ReleaseGone, e.Phase == event.Succeeded
	}
	if !known {
		return s
	}
	release := Release{Namespace: string(p.Namespace), Name: string(p.Name)}
	s.Releases, _ = upsert(s.Releases, release, func(r *Release) {
		if r.State != state || e.Message != event.ReleaseUnchanged {
			r.Changed = e.Time
		}
		r.State, r.Error = state, ""
		if p.Revision > 0 {
			r.Revision = p.Revision
		}
		if e.Phase == event.Failed && e.Err != nil {
			r.Error = e.Err.Error()
		}
	})
	return s
}

// is reports whether both are the same release.
func (r Release) is(other Release) bool {
	return r.Namespace == other.Namespace && r.Name == other.Name
}

func (s State) podGone(e event.Event, p event.PodRef) State {
	gone := Pod{Namespace: string(p.Namespace), Name: string(p.Pod), Phase: "Gone"}
	if at, known := s.podAt(gone); known {
		s.pods = slices.Delete(slices.Clone(s.pods), at, at+1)
	}
	return s.podSpanned(e.Time, gone, true)
}

func (s State) podChanged(e event.Event, p event.Pod) State {
	pod := Pod{Namespace: string(p.Namespace), Name: string(p.Pod), Release: string(p.Release), Group: string(p.Group),
		Node: string(p.Node), Phase: string(p.Phase), Ready: p.Ready, Reason: p.Reason, Restarts: p.Restarts,
		Created: p.Created, Containers: append([]Container{}, p.Containers...)}
	at, known := s.podAt(pod)
	s.pods = slices.Clone(s.pods)
	if known {
		s.pods[at] = pod
	} else {
		s.pods = slices.Insert(s.pods, at, pod)
	}
	return s.podSpanned(e.Time, pod, known)
}

// podAt returns where a pod stands, or would: they are sorted.
func (s State) podAt(pod Pod) (at int, known bool) {
	return slices.BinarySearchFunc(s.pods, pod, func(a, b Pod) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
}

// podSpanned gives a pod of a release its bar: from when it was there until it was ready, or went.
func (s State) podSpanned(at time.Time, p Pod, known bool) State {
	const name = "pod ready"
	if s.Run == nil || s.Run.Outcome != Running || p.Release == "" && !known {
		return s
	}
	over := p.Ready || p.Phase != "Pending" && p.Phase != "Running"
	i := running(s.Run.Spans, "rollout", name, p.Name)
	switch {
	case i < 0 && !known && !over:
		return s.inRun(func(r *Run) {
			r.add(Span{Stage: "rollout", Name: name, About: p.Name, Kind: "pod", Started: at, Outcome: Running})
		})
	case i >= 0 && over:
		return s.inRun(func(r *Run) {
			r.Spans[i].Seconds, r.Spans[i].Outcome = event.Seconds(at.Sub(r.Spans[i].Started)), Succeeded
			if p.Phase == "Failed" {
				r.Spans[i].Outcome, r.Spans[i].Error = RunFailed, p.Reason
			}
		})
	}
	return s
}

// listening follows the opening and closing of local addresses.
func (s State) listening(e event.Event, p event.Address) State {
	s.Forwards = slices.Clone(s.Forwards)
	at := s.forwardAt(p)
	switch {
	case e.Message == event.ForwardCloses && at >= 0:
		s.Forwards = slices.Delete(s.Forwards, at, at+1)
	case e.Message == event.ForwardListens && at < 0:
		s.Forwards = append(s.Forwards, Forward{Address: p, State: "waiting", Pods: event.Names{}})
	}
	return s
}

func (s State) forwarded(e event.Event, p event.Forward) State {
	if p.Reason == "" && e.Err != nil {
		p.Reason = e.Err.Error()
	}
	p.Pods = append(event.Names{}, p.Pods...)
	s.Forwards = slices.Clone(s.Forwards)
	if at := s.forwardAt(p.Address); at >= 0 {
		s.Forwards[at] = p
	} else {
		s.Forwards = append(s.Forwards, p)
	}
	return s
}

func (s State) forwardAt(address event.Address) int {
	return slices.IndexFunc(s.Forwards, func(f Forward) bool {
		return f.Target == address.Target && f.Local == address.Local
	})
}

func (s State) checked(e event.Event, p event.Chain) State {
	s = s.spanned(e, "proof", "")
	s = s.forgetSynced(p.Links)
	s.Chain = &Chain{Checked: e.Time, Links: p.Links}
	if e.Phase == event.Failed && e.Err != nil {
		s.Chain.Error, s.Chain.Hint = e.Err.Error(), event.Hint(e.Err)
	}
	return s
}

func compared(e event.Event, p event.Comparison) *Libraries {
	if len(p.Places) < 2 { // there is nothing left to compare
		return nil
	}
	return &Libraries{Compared: e.Time, Places: append([]string{}, p.Places...), Libraries: p.Libraries,
		Differences: append(event.Differences{}, p.Differences...), images: p.Images}
}

// datedChain is the chain with Outdated as it is now.
func (s State) datedChain() *Chain {
	outdated := s.Away != nil || s.changed || s.Run == nil || s.Run.Outcome != Succeeded
	if s.Chain == nil || s.Chain.Outdated == outdated {
		return s.Chain
	}
	chain := *s.Chain
	chain.Outdated = outdated
	return &chain
}

// datedLibraries are the libraries with Outdated as it is now. A comparison may also end after a
// newer run has begun.
func (s State) datedLibraries() *Libraries {
	if s.Libraries == nil {
		return nil
	}
	outdated := slices.ContainsFunc(s.Libraries.images, func(was event.Image) bool {
		return slices.ContainsFunc(s.Images, func(is Image) bool {
			return is.Name == string(was.Name) && is.Tag != string(was.Tag)
		})
	})
	if s.Libraries.Outdated == outdated {
		return s.Libraries
	}
	libraries := *s.Libraries
	libraries.Outdated = outdated
	return &libraries
}

// health is how it all stands, and why it is not healthy.
func (s State) health() (Health, string) {
	switch {
	case s.ending:
		return Ending, ""
	case s.Away != nil:
		return Degraded, s.Away.Reason
	case s.Run == nil:
		return Starting, ""
	case s.changed, s.Run.Outcome == Running, s.Run.Outcome == Superseded:
		return Working, ""
	case s.Run.Outcome == Interrupted:
		return Ending, ""
	case s.Run.Outcome == RunFailed:
		return Failed, s.Run.Error
	}
	for _, p := range s.Pods { // before the forwards, which may wait for one of them
		// The rollout judges pods that have ended: a job may have failed once and then succeeded.
		if p.Release != "" && !p.Ready && (p.Phase == "Pending" || p.Phase == "Running") {
			return Degraded, strings.TrimSuffix(fmt.Sprintf("pod %s is not ready: %s", p.Name, p.Reason), ": ")
		}
	}
	for _, f := range s.Forwards {
		if f.State != "ready" {
			return Degraded, fmt.Sprintf("forward %s → %s is %s", f.Local, f.Target, f.State)
		}
	}
	if s.Chain != nil && s.Chain.Error != "" {
		return Degraded, s.Chain.Error
	}
	return Healthy, ""
}

// upsert returns a copy of list with a change made to the element that is the same as fresh, or to
// fresh, and whether there was one.
func upsert[T interface{ is(other T) bool }](list []T, fresh T, change func(*T)) ([]T, bool) {
	list = slices.Clone(list)
	at := slices.IndexFunc(list, fresh.is)
	known := at >= 0
	if !known {
		list = append(list, fresh)
		at = len(list) - 1
	}
	change(&list[at])
	return list, known
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

// spanned begins or ends a bar in the run of the event.
func (s State) spanned(e event.Event, stage, about string) State {
	return s.inRunOf(e, func(r *Run) {
		span := spanOf(e, stage, about)
		at := running(r.Spans, stage, e.Message, about)
		switch {
		case at >= 0 && span.Outcome != Running:
			r.Spans[at] = span
		case at < 0:
			r.add(span)
		}
	})
}

// spanOf returns the bar of what the event begins or ends.
func spanOf(e event.Event, stage, about string) Span {
	span := Span{Stage: stage, Name: e.Message, About: about, Started: e.Time.Add(-e.Took),
		Seconds: event.Seconds(e.Took), Outcome: Running}
	switch p := e.Payload.(type) {
	case event.Loading:
		span.Bytes = p.Bytes
	case event.Loaded:
		span.Bytes = p.Bytes
	case event.Download:
		span.Bytes = p.Bytes
	}
	if outcome, ended := outcomes[e.Phase]; ended {
		span.Outcome = outcome
	}
	if span.Outcome == RunFailed && e.Err != nil {
		span.Error = e.Err.Error()
	}
	return span
}

// running returns the index of the bar that is under way, -1 if there is none.
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

// inRunOf changes the run of the event, if that is under way.
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

// stages adds up how long each stage was under way.
func stages(spans []Span) []Stage {
	type interval struct{ from, to time.Time }
	byStage := map[string][]interval{}
	for _, s := range spans {
		if s.Kind == "" { // the others are parts of these
			byStage[s.Stage] = append(byStage[s.Stage], interval{s.Started, s.Started.Add(seconds(s.Seconds))})
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
		list = append(list, Stage{Name: name, Seconds: event.Seconds(sum)})
	}
	return list
}
