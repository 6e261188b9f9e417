package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

var noon = time.Date(2026, 5, 17, 12, 0, 0, 0, time.UTC)

// story sends events to a State, with a clock of its own.
type story struct {
	t     *testing.T
	state State
	now   time.Time
	run   int
	past  []State
	texts []string // of past, when they were made
}

func newStory(t *testing.T) *story { return &story{t: t, state: New(nil), now: noon} }

// after lets time pass.
func (s *story) after(d time.Duration) *story { s.now = s.now.Add(d); return s }

func (s *story) send(stage string, phase event.Phase, message string, took time.Duration, payload any) {
	s.t.Helper()
	e := event.Event{Time: s.now, Stage: stage, Phase: phase, Message: message, Took: took, Payload: payload,
		Run: s.run}
	if phase == event.Failed {
		e.Err = event.WithHint(errors.New("no such version"), "fix it")
	}
	s.take(e)
}

func (s *story) take(e event.Event) {
	s.t.Helper()
	s.past, s.texts = append(s.past, s.state), append(s.texts, textOf(s.t, s.state))
	s.state = s.state.After(e)
}

func (s *story) step(stage, message string, took time.Duration, payload any) {
	s.t.Helper()
	s.send(stage, event.Started, message, 0, payload)
	s.after(took).send(stage, event.Succeeded, message, took, payload)
}

// check looks whether an earlier State was changed by what came later.
func (s *story) check() {
	s.t.Helper()
	for i, past := range s.past {
		if now := textOf(s.t, past); now != s.texts[i] {
			s.t.Fatalf("what was handed out was changed:\n%s\n%s", s.texts[i], now)
		}
	}
}

func textOf(t *testing.T, s State) string {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var web = event.Address{Target: "service ns/web", Local: "127.0.0.1:8001"}

// image is an image of the story.
func image(name, tag event.Name) event.Image {
	return event.Image{Name: name, Tag: tag, Ref: name + ":" + tag}
}

// pushed is one that is in a registry.
func pushed(name, tag event.Name) event.Image {
	return event.Image{Name: name, Tag: tag, Ref: "registry.example:5000/team/" + name + ":" + tag}
}

// begin is what happens until the first build.
func (s *story) begin() {
	s.send("config", event.Detailed, event.ConfigRead, 0, event.Config{
		Project: "demo", Folder: "/demo", Images: event.Names{"worker", "client"},
		Releases: event.Releases{{Namespace: "ns", Name: "gateway", Chart: "https://x/gateway.tgz"},
			{Namespace: "ns", Name: "session", Chart: "deploy/session"}}})
	s.send("loop", event.Noted, event.DevloopStarted, 0,
		event.DevloopStart{Project: "demo", Cluster: "minikube", Folder: "/demo"})
	s.send("forward", event.Noted, event.ForwardListens, 0, web)
	s.start("start", "")
}

func (s *story) start(why, files string) {
	s.run++
	s.send("loop", event.Detailed, event.RunStarts, 0, event.RunStart{Why: event.Name(why), Files: files})
	s.send("loop", event.Started, event.RunComplete, 0, nil)
}

func (s *story) end(phase event.Phase) {
	s.send("loop", phase, event.RunComplete, s.now.Sub(s.state.Run.Started), nil)
}

func (s *story) pod(name, release event.Name, ready bool) {
	s.send("pod", event.Detailed, event.PodChanged, 0, event.Pod{
		PodRef: event.PodRef{Pod: name, Namespace: "ns"}, Release: release, Node: "minikube", Phase: "Running",
		Ready: ready, Reason: map[bool]string{false: "ContainerCreating"}[ready], Created: s.now,
		Containers: containers})
}

var containers = event.Containers{
	{Name: "main", Image: "worker:1", ImageID: "sha256:abc"}, {Name: "side", Image: "other:2"},
}

func (s *story) forward(state event.Name) {
	s.send("forward", event.Noted, event.ForwardReady, 0,
		event.Forward{Address: web, State: state, Pods: event.Names{"web-1", "web-2"}, Open: 1})
}

// A run of one release says so, also in what is kept of it; of the others nothing changes.
func TestRunOfOneRelease(t *testing.T) {
	s := newStory(t)
	s.begin()
	for _, name := range []event.Name{"gateway", "session"} {
		s.send("deploy", event.Succeeded, event.ReleaseApplied, time.Second,
			event.Release{Namespace: "ns", Name: name, Revision: 1})
	}
	s.end(event.Succeeded)
	before := s.state.Releases[1]
	s.start("asked", "")
	s.after(time.Minute).send("loop", event.Detailed, event.RunNarrowed, 0,
		event.RunScope{Releases: event.Names{"gateway"}})
	s.send("deploy", event.Succeeded, event.ReleaseApplied, time.Second,
		event.Release{Namespace: "ns", Name: "gateway", Revision: 2})
	s.end(event.Succeeded)
	of := s.state.Runs[len(s.state.Runs)-1]
	if !slices.Equal(of.Releases, []string{"gateway"}) || !strings.Contains(of.end().Summary(), ", only gateway: ") {
		t.Errorf("the run is of %v: %s", of.Releases, of.end().Summary())
	}
	if s.state.Releases[1] != before || s.state.Releases[0].Revision != 2 {
		t.Errorf("releases: %+v", s.state.Releases)
	}
	if s.start("change", "a"); s.state.Run.Releases != nil {
		t.Errorf("the next run is of %v", s.state.Run.Releases)
	}
}

// TestOneSave is the whole story: a save, a run, a platform that answers.
func TestOneSave(t *testing.T) {
	s := newStory(t)
	if s.state.Health != Starting {
		t.Errorf("at first it is %s", s.state.Health)
	}
	s.begin()
	s.end(event.Succeeded)
	s.run = 0
	s.after(time.Minute).send("loop", event.Noted, event.ChangeSeen, 0, nil)
	if s.state.Health != Working {
		t.Errorf("when a change was seen it is %s", s.state.Health)
	}
	s.run++
	s.after(50*time.Millisecond).send("loop", event.Detailed, event.RunStarts, 0, event.RunStart{
		Why: "change", Files: "requirements.txt", Since: s.now.Add(-150 * time.Millisecond),
		Settled: 0.1})
	s.send("loop", event.Started, event.RunComplete, 0, nil)
	s.step("build", event.InputsHashed, 20*time.Millisecond, nil)
	if s.state.Health != Working || s.state.Run.Why != "change" || s.state.Run.Files != "requirements.txt" {
		t.Errorf("%s, %+v", s.state.Health, s.state.Run)
	}

	s.send("build", event.Noted, event.BuildingImage, 0, event.Build{Image: image("worker", "1")})
	s.send("build", event.Started, event.ImageBuilt, 0, event.Build{Image: image("worker", "1")})
	s.after(time.Second).send("build", event.Progress, event.BuildingImage, 0,
		event.Build{Image: image("worker", "1"), Step: "RUN pip", Done: 2, Total: 4, Since: s.now})
	if i := s.state.Images[0]; i.State != ImageBuilding || i.Step != "RUN pip" || i.Done != 2 || i.Total != 4 ||
		i.Tag != "1" {
		t.Errorf("while it is built the image is %+v", i)
	}
	if last := s.state.Run.Spans[len(s.state.Run.Spans)-1]; last.Kind != "step" || last.Name != "RUN pip" ||
		last.About != "worker" || last.Outcome != Running {
		t.Errorf("the step's bar: %+v", last)
	}
	s.after(4*time.Second).send("build", event.Noted, event.BuildStep, 4*time.Second,
		event.Instruction{Image: event.Image{Name: "worker"}, Step: "RUN pip"})
	s.send("build", event.Detailed, event.BuildStep, 0,
		event.Instruction{Image: event.Image{Name: "worker"}, Step: "FROM", Cached: true})
	s.send("build", event.Detailed, event.BuildStep, time.Millisecond,
		event.Instruction{Image: event.Image{Name: "worker"}, Step: "too short to be seen"})
	s.send("build", event.Succeeded, event.ImageBuilt, 5*time.Second,
		event.Build{Image: image("worker", "1"), ID: "abc"})
	s.send("build", event.Noted, event.ImageFound, 0, event.FoundImage{Image: image("client", "2"), On: "node"})
	s.send("node", event.Started, event.ImageLoaded, 0, event.Loading{Image: image("worker", "1")})
	s.after(time.Second).send("node", event.Progress, event.LoadingImage, 0,
		event.Loading{Image: image("worker", "1"), Bytes: 500, Since: s.now})
	if i := s.state.Images[0]; i.State != ImageLoading || i.Bytes != 500 {
		t.Errorf("on its way the image is %+v", i)
	}
	s.send("node", event.Succeeded, event.ImageLoaded, time.Second,
		event.Loaded{Image: image("worker", "1"), Bytes: 1000})
	s.step("deploy", event.ReleaseApplied, 200*time.Millisecond,
		event.Release{Namespace: "ns", Name: "gateway", Revision: 3})
	s.send("deploy", event.Detailed, event.ReleaseUnchanged, 0,
		event.Release{Namespace: "ns", Name: "session", Revision: 1})
	s.send("deploy", event.Started, event.RolloutComplete, 0, event.Rollout{})
	s.pod("web-1", "gateway", false)
	s.pod("mine", "", false)
	s.after(2*time.Second).pod("web-1", "gateway", true)
	s.forward("ready")
	s.send("deploy", event.Succeeded, event.RolloutComplete, 2*time.Second, event.Rollout{})
	s.step("forward", event.PlatformAnswers, 10*time.Millisecond, event.Answer{URL: "http://x"})
	s.send("node", event.Detailed, event.ImageOnNode, 0,
		event.NodeImage{Image: image("worker", "1"), Node: "minikube", Digest: "sha256:abc", ID: "sha256:def"})
	s.send("node", event.Detailed, event.ImageOnNode, 0,
		event.NodeImage{Image: image("worker", "0"), Node: "minikube", ID: "sha256:old"})
	s.end(event.Succeeded)
	s.check()

	state := s.state
	if state.Health != Healthy || state.Reason != "" {
		t.Errorf("it is %s: %s", state.Health, state.Reason)
	}
	worker := Image{Name: "worker", Tag: "1", State: ImageOnNode, ID: "abc", Done: 2, Total: 4, Bytes: 1000,
		Nodes: []NodeImage{{"minikube", "sha256:abc", "sha256:def"}}}
	if !reflect.DeepEqual(state.Images[0], worker) {
		t.Errorf("image %+v\nnot %+v", state.Images[0], worker)
	}
	if i := state.Images[1]; i.State != ImageOnNode || i.On != "node" || i.Tag != "2" {
		t.Errorf("image %+v", i)
	}
	if r := state.Releases; len(r) != 2 || r[0].State != ReleaseDeployed || r[0].Revision != 3 ||
		r[0].Chart != "https://x/gateway.tgz" || r[1].Revision != 1 {
		t.Errorf("releases %+v", r)
	}
	if p := state.Pods; len(p) != 2 || !p[1].Ready || p[1].Name != "web-1" ||
		!reflect.DeepEqual(p[1].Containers, []Container(containers)) {
		t.Errorf("pods %+v", p)
	}
	if f := state.Forwards; len(f) != 1 || f[0].State != "ready" || len(f[0].Pods) != 2 || f[0].Open != 1 {
		t.Errorf("forwards %+v", f)
	}
	run := state.Runs[len(state.Runs)-1]
	if run.Bytes != 1000 || run.Outcome != Succeeded || len(state.Runs) != 2 {
		t.Errorf("run %+v", run)
	}
	if got := run.end().Summary(); got != "8.4 s: settle 0.1, build 5.0, load 1.0, helm 0.2, rollout 2.0" {
		t.Error(got)
	}
	var bars []string
	for _, span := range run.Spans {
		bars = append(bars, strings.TrimSpace(fmt.Sprintf("%s/%s %s %.1f %s", span.Stage, span.Kind, span.About,
			span.Seconds, span.Outcome)))
	}
	want := []string{"settle/ requirements.txt 0.1 succeeded", "hash/  0.0 succeeded", "build/ worker 5.0 succeeded",
		"build/step worker 4.0 succeeded", "build/step worker 0.0 succeeded",
		"load/ worker 1.0 succeeded", "helm/ gateway 0.2 succeeded", "rollout/  2.0 succeeded",
		"rollout/pod web-1 2.0 succeeded", "answer/ http://x 0.0 succeeded"}
	if !slices.Equal(bars, want) {
		t.Errorf("bars\n%s\nnot\n%s", strings.Join(bars, "\n"), strings.Join(want, "\n"))
	}
}

func TestARunThatFails(t *testing.T) {
	s := newStory(t)
	s.begin()
	s.send("build", event.Noted, event.BuildingImage, 0, event.Build{Image: image("worker", "1")})
	s.send("build", event.Started, event.ImageBuilt, 0, event.Build{Image: image("worker", "1")})
	s.send("build", event.Progress, event.BuildingImage, 0,
		event.Build{Image: image("worker", "1"), Step: "RUN pip", Done: 1, Total: 2, Since: s.now})
	s.after(time.Second).send("build", event.Detailed, event.BuildStep, time.Second,
		event.Instruction{Image: event.Image{Name: "worker"}, Step: "RUN pip", Failed: true})
	s.send("build", event.Noted, event.BuildStepFailed, 0,
		event.Instruction{Image: event.Image{Name: "worker"}, Step: "RUN pip", Output: "ERROR: none"})
	s.send("build", event.Failed, event.ImageBuilt, time.Second, event.Build{Image: image("worker", "1")})
	s.end(event.Failed)
	run := s.state.Runs[0]
	if s.state.Health != Failed || s.state.Reason != "no such version" || run.Hint != "fix it" ||
		run.Output != "ERROR: none" || run.Outcome != RunFailed {
		t.Errorf("%s: %s, %+v", s.state.Health, s.state.Reason, run)
	}
	if i := s.state.Images[0]; i.State != ImageFailed || i.Error != "no such version" {
		t.Errorf("image %+v", i)
	}
	for _, span := range run.Spans {
		if span.Stage == "build" && (span.Outcome != RunFailed || span.Seconds != 1) {
			t.Errorf("bar %+v", span)
		}
	}

	// Another try that goes the same way is the same line of the history.
	s.start("retry", "")
	s.take(event.Event{Time: s.now, Run: s.run, Stage: "loop", Phase: event.Failed, Message: event.RunComplete,
		Err: errors.New("again"), Repeated: true})
	if len(s.state.Runs) != 1 || s.state.Runs[0].Number != 2 {
		t.Errorf("runs %+v", s.state.Runs)
	}

	// One that is superseded leaves nothing under way.
	s.start("change", "x")
	s.send("build", event.Noted, event.BuildingImage, 0, event.Build{Image: image("worker", "3")})
	s.send("build", event.Started, event.ImageBuilt, 0, event.Build{Image: image("worker", "3")})
	s.after(time.Second)
	s.end(event.Superseded)
	if i := s.state.Images[0]; i.State != "" || s.state.Health != Working {
		t.Errorf("%s, image %+v", s.state.Health, i)
	}
	if spans := s.state.Run.Spans; spans[0].Outcome != Superseded || spans[0].Seconds != 1 {
		t.Errorf("bars %+v", spans)
	}
	s.check()
}

func TestHealth(t *testing.T) {
	good := func(t *testing.T) *story {
		s := newStory(t)
		s.begin()
		s.end(event.Succeeded)
		s.forward("ready")
		s.pod("web-1", "gateway", true)
		s.run = 0
		return s
	}
	for _, test := range []struct {
		name   string
		then   func(*story)
		health Health
		reason string
	}{
		{"all is well", func(*story) {}, Healthy, ""},
		{"a forward waits", func(s *story) { s.forward("waiting") }, Degraded,
			"forward 127.0.0.1:8001 → service ns/web is waiting"},
		{"the pod behind a forward is not ready", func(s *story) {
			s.forward("waiting")
			s.pod("web-1", "gateway", false)
		}, Degraded, "pod web-1 is not ready: ContainerCreating"},
		{"a forward is closed", func(s *story) {
			s.forward("waiting")
			s.send("forward", event.Noted, event.ForwardCloses, 0, web)
		}, Healthy, ""},
		{"a pod is not ready", func(s *story) { s.pod("web-1", "gateway", false) }, Degraded,
			"pod web-1 is not ready: ContainerCreating"},
		{"a job's pod that failed before another one succeeded", func(s *story) {
			s.send("pod", event.Detailed, event.PodChanged, 0, event.Pod{
				PodRef: event.PodRef{Pod: "job-1", Namespace: "ns"}, Release: "gateway", Phase: "Failed",
				Reason: "exit code 1"})
		}, Healthy, ""},
		{"a user's pod is not ready", func(s *story) { s.pod("mine", "", false) }, Healthy, ""},
		{"a pod that was not ready is gone", func(s *story) {
			s.pod("web-1", "gateway", false)
			s.send("pod", event.Detailed, event.PodGone, 0, event.PodRef{Pod: "web-1", Namespace: "ns"})
		}, Healthy, ""},
		{"paused", func(s *story) { s.send("devloop", event.Noted, event.Paused, 0, nil) }, Healthy, ""},
		{"interrupted", func(s *story) { s.start("change", ""); s.end(event.Interrupted) }, Ending, ""},
		{"removed", func(s *story) {
			s.send("cleanup", event.Noted, event.CleanupStarts, 0, nil)
			s.send("cleanup", event.Succeeded, event.ReleaseUninstalled, time.Second,
				event.Release{Namespace: "ns", Name: "gateway"})
		}, Ending, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := good(t)
			test.then(s)
			s.check()
			if s.state.Health != test.health || s.state.Reason != test.reason {
				t.Errorf("it is %s: %s", s.state.Health, s.state.Reason)
			}
		})
	}
}

// TestProof: what is checked after a run is part of it; what is checked later, when pods are
// replaced, is not.
func TestProof(t *testing.T) {
	s := newStory(t)
	if text := textOf(t, s.state); s.state.Chain != nil || s.state.Libraries != nil ||
		!strings.Contains(text, `"oldClusters":[]`) {
		t.Errorf("before anything was checked: %s", text)
	}
	s.begin()
	s.step("verify", event.ImageVerified, time.Second, event.Verification{Image: image("worker", "1"), Command: "true"})
	s.send("verify", event.Started, event.ImageVerified, 0, event.Verification{Image: pushed("client", "2")})
	s.after(2*time.Second).send("verify", event.Failed, event.ImageVerified, 2*time.Second,
		event.Verification{Image: pushed("client", "2")})
	s.send("proof", event.Started, event.ChainChecked, 0, nil)
	if s.state.Chain != nil {
		t.Errorf("when a check begins there is a chain: %+v", s.state.Chain)
	}
	whole := event.Links{{Image: "worker", Place: event.AtInputs, Is: "1"},
		{Image: "worker", Place: event.AtPod, Name: "ns/web-1/main", Is: "sha256:abc"}}
	s.after(time.Second).send("proof", event.Succeeded, event.ChainChecked, time.Second, event.Chain{Links: whole})
	checked := s.now
	s.end(event.Succeeded)
	s.forward("ready")
	if c := s.state.Chain; s.state.Health != Healthy || !c.Checked.Equal(checked) || c.Error != "" || c.Hint != "" ||
		!reflect.DeepEqual(c.Links, whole) {
		t.Errorf("%s: %s, chain %+v", s.state.Health, s.state.Reason, c)
	}
	run := s.state.Runs[0]
	if want := []Stage{{Name: "verify", Seconds: 3}, {Name: "proof", Seconds: 1}}; !slices.Equal(run.Stages, want) {
		t.Errorf("stages %v", run.Stages)
	}
	var bars []string
	for _, span := range run.Spans {
		bars = append(bars, fmt.Sprintf("%s %s %.0f %s %s", span.Stage, span.About, span.Seconds, span.Outcome,
			span.Error))
	}
	if want := []string{"verify worker 1 succeeded ", "verify client 2 failed no such version",
		"proof  1 succeeded "}; !slices.Equal(bars, want) {
		t.Errorf("bars %q", bars)
	}

	// Pods were replaced: the chain is checked again, and no run is under way.
	s.run = 0
	broken := slices.Clone(whole)
	broken[1].Is, broken[1].Want = "worker:0", "worker:1"
	s.after(time.Minute).send("proof", event.Started, event.ChainChecked, 0, nil)
	if s.state.Chain.Error != "" || !s.state.Chain.Checked.Equal(checked) {
		t.Errorf("while it is checked again, what was found last is %+v", s.state.Chain)
	}
	s.send("proof", event.Failed, event.ChainChecked, 0, event.Chain{Links: broken})
	if c := s.state.Chain; s.state.Health != Degraded || s.state.Reason != "no such version" ||
		c.Error != "no such version" || c.Hint != "fix it" || !c.Checked.Equal(s.now) || !c.Links[1].Broken() {
		t.Errorf("%s: %s, chain %+v", s.state.Health, s.state.Reason, c)
	}
	if !reflect.DeepEqual(s.state.Runs[0], run) || len(s.state.Runs) != 1 || !reflect.DeepEqual(*s.state.Run, run) {
		t.Errorf("the run became %+v", s.state.Runs)
	}
	s.send("proof", event.Interrupted, event.ChainChecked, 0, nil)
	if s.state.Health != Degraded {
		t.Errorf("when a check was given up it is %s", s.state.Health)
	}
	s.send("proof", event.Succeeded, event.ChainChecked, 0, event.Chain{Links: whole})
	if c := s.state.Chain; s.state.Health != Healthy || c.Error != "" || c.Hint != "" || c.Links[1].Broken() {
		t.Errorf("%s: %s, chain %+v", s.state.Health, s.state.Reason, c)
	}

	two := event.DaskClusters{{Namespace: "ns", Name: "a", Owner: "anna", Image: "worker:0", Since: noon, Workers: 2},
		{Namespace: "ns", Name: "b", Image: "worker:0", Since: noon}}
	s.send("proof", event.Warned, event.ClustersOutdated, 0, event.OutdatedClusters{Clusters: two})
	if !slices.Equal(s.state.Old, two) || s.state.Health != Healthy { // they are their users'
		t.Errorf("%s, old clusters %+v", s.state.Health, s.state.Old)
	}
	s.send("proof", event.Detailed, event.ClustersOutdated, 0, event.OutdatedClusters{Clusters: event.DaskClusters{}})
	if len(s.state.Old) != 0 {
		t.Errorf("old clusters %+v", s.state.Old)
	}

	places := []string{"worker", "client", ".venv"}
	differ := event.Differences{{Library: "dask", Versions: []string{"2", "2", "1"}},
		{Library: "lz4", Versions: []string{"4", "4", ""}}}
	s.after(time.Second).send("proof", event.Warned, event.LibrariesDiffer, 0,
		event.Comparison{Places: places, Libraries: 53, Differences: differ})
	want := &Libraries{Compared: s.now, Places: places, Libraries: 53, Differences: differ}
	if !reflect.DeepEqual(s.state.Libraries, want) ||
		s.state.Health != Healthy {
		t.Errorf("%s, libraries %+v", s.state.Health, s.state.Libraries)
	}
	s.after(time.Second).send("proof", event.Noted, event.LibrariesSame, 0,
		event.Comparison{Places: places, Libraries: 53})
	want = &Libraries{Compared: s.now, Places: places, Libraries: 53, Differences: event.Differences{}}
	if !reflect.DeepEqual(s.state.Libraries, want) ||
		!strings.Contains(textOf(t, s.state), `"differences":[]`) {
		t.Errorf("libraries %+v", s.state.Libraries)
	}
	s.check()
}

// TestWhatWasLookedAtGetsOld: a proof and a comparison say nothing of what has changed since.
func TestWhatWasLookedAtGetsOld(t *testing.T) {
	s := newStory(t)
	expect := func(when string, chain, libraries bool) {
		t.Helper()
		if c, l := s.state.Chain, s.state.Libraries; c == nil || l == nil || c.Outdated != chain || l.Outdated != libraries {
			t.Errorf("%s: chain %+v, libraries %+v", when, c, l)
		}
	}
	found := func(tag event.Name) {
		s.send("build", event.Noted, event.ImageFound, 0, event.FoundImage{Image: image("worker", tag), On: "node"})
	}
	compared := func(tag event.Name) {
		s.send("proof", event.Detailed, event.LibrariesSame, 0, event.Comparison{Places: []string{"worker", ".venv"},
			Libraries: 43, Images: []event.Image{image("worker", tag)}})
	}
	s.begin()
	found("1")
	s.step("proof", event.ChainChecked, time.Second, event.Chain{})
	s.end(event.Succeeded)
	compared("1")
	expect("after a run", false, false)
	s.send("loop", event.Detailed, event.ChangeSeen, 0, nil)
	expect("after a save", true, false)
	s.start("change", "requirements.txt")
	s.send("build", event.Noted, event.BuildingImage, 0, event.Build{Image: image("worker", "2")})
	expect("while the image is built", true, true)
	compared("1")
	expect("when the images before were compared only then", true, true)
	s.end(event.Failed)
	expect("after a run that failed", true, true)
	s.start("change", "requirements.txt")
	found("2")
	s.step("proof", event.ChainChecked, time.Second, event.Chain{})
	s.end(event.Succeeded)
	expect("before the new images are compared", false, true)
	compared("2")
	expect("at last", false, false)
	s.send("cluster", event.Warned, event.ClusterAway, 0, event.Cluster{State: event.ClusterStopped})
	expect("while the cluster is stopped", true, false)
	s.check()
}

// TestPushedImages: in a registry an image has more of a name than in devloop.yaml.
func TestPushedImages(t *testing.T) {
	s := newStory(t)
	s.begin()
	s.send("build", event.Noted, event.ImageFound, 0, event.FoundImage{Image: pushed("worker", "9"), On: "host"})
	s.send("node", event.Succeeded, event.ImageLoaded, time.Second,
		event.Loaded{Image: image("python", "3.11-slim"), Bytes: 5})
	if i := s.state.Images; len(i) != 2 || i[0].Tag != "9" || i[0].State != ImageReady {
		t.Errorf("images %+v", i)
	}
}

// TestAnyEvents sends events at random: no order of them, and nothing that is missing in them, is a
// reason to fall over, and what was handed out stays what it was.
func TestAnyEvents(t *testing.T) {
	stages := []string{"loop", "config", "watch", "build", "node", "deploy", "forward", "cleanup", "devloop", "pod",
		"verify", "proof"}
	phases := []event.Phase{event.Started, event.Succeeded, event.Superseded, event.Interrupted, event.Failed,
		event.Noted, event.Warned, event.Detailed, event.Progress}
	messages := []string{event.DevloopStarted, event.ConfigRead, event.RunStarts, event.RunComplete, event.InputsHashed,
		event.ImageFound, event.BuildingImage, event.ImageBuilt,
		event.BuildStep, event.BuildStepFailed, event.LoadingImage, event.ImageLoaded, event.ImageOnNode,
		event.ReleaseApplied, event.ReleaseUnchanged, event.ReleaseRolledBack,
		event.ReleaseUninstalled, event.RolloutComplete, event.PodChanged, event.PodGone, event.ForwardListens,
		event.ForwardCloses, event.PlatformAnswers, event.ChangeSeen, event.Paused,
		event.ImageVerified, event.ChainChecked, event.ClustersOutdated, event.LibrariesSame, event.LibrariesDiffer}
	payloads := []any{
		nil, event.DevloopStart{Project: "x"}, event.Config{}, event.Config{Images: event.Names{"worker", "", "x"},
			Releases: event.Releases{{Namespace: "ns", Name: "x"}, {}}}, event.Page{},
		event.RunStart{}, event.RunStart{Since: noon, Settled: 1}, event.RunEnd{},
		event.FoundImage{Image: image("worker", "1"), On: "node"}, event.Build{},
		event.Build{Image: image("worker", "1"),
			Step: "x", Done: 2, Since: noon}, event.Instruction{Image: image("worker", "1"), Step: "x", Cached: true},
		event.Instruction{}, event.Loading{Image: image("worker", "1"), Bytes: 1},
		event.Loaded{Image: image("worker", "1")},
		event.NodeImage{Image: image("worker", "1"), Node: "x"}, event.Verification{}, event.Release{},
		event.Release{Namespace: "ns", Name: "x", Revision: 1}, event.Download{Bytes: 1}, event.Command{},
		event.Rollout{},
		event.PodRef{Pod: "x"}, event.Pod{PodRef: event.PodRef{Pod: "x"}, Release: "x", Phase: "Failed"},
		event.Pod{PodRef: event.PodRef{Pod: "x"}, Release: "x", Phase: "Pending", Containers: containers},
		event.LogLine{}, event.ContainerDeath{}, web, event.Forward{Address: web}, event.Forward{State: "ready"},
		event.Answer{}, event.Chain{}, event.Chain{Links: event.Links{{Image: "worker", Want: "x"}}},
		event.OutdatedClusters{}, event.OutdatedClusters{Clusters: event.DaskClusters{{Name: "x"}}}, event.Comparison{},
		event.Comparison{Places: []string{"a", ""}, Differences: event.Differences{{Library: "x"}}},
	}
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // not for secrets
	s := newStory(t)
	for range 3000 {
		e := event.Event{Time: noon.Add(time.Duration(random.IntN(1e9))), Run: random.IntN(3),
			Stage: stages[random.IntN(len(stages))], Phase: phases[random.IntN(len(phases))],
			Message: messages[random.IntN(len(messages))], Took: time.Duration(random.IntN(1e9)),
			Repeated: random.IntN(9) == 0}
		e.Payload = payloads[random.IntN(len(payloads))]
		if e.Phase == event.Failed {
			e.Err = errors.New("failed")
		}
		s.take(e)
		if len(s.past) == 300 {
			s.check()
			s.past, s.texts = nil, nil
		}
	}
	if len(s.state.Runs) > keptRuns {
		t.Errorf("%d runs are kept", len(s.state.Runs))
	}
}

// TestAwayCluster: while the cluster is away nothing is known of its pods, and what was known comes
// back with it: nobody reports again what has not changed.
func TestAwayCluster(t *testing.T) {
	s := newStory(t)
	s.run = 1
	s.send("loop", event.Noted, event.RunStarts, 0, event.RunStart{Why: "start"})
	pod := event.Pod{PodRef: event.PodRef{Pod: "web-1", Namespace: "web"}, Release: "web", Phase: "Running", Ready: true}
	s.send("pod", event.Detailed, event.PodChanged, 0, pod)
	s.send("loop", event.Succeeded, event.RunComplete, 0, nil)
	if s.state.Health != Healthy || !s.state.Pods[0].Ready {
		t.Fatalf("%s, %+v", s.state.Health, s.state.Pods)
	}
	s.after(time.Minute).take(event.Event{Time: s.now, Stage: "devloop", Phase: event.Warned, Message: event.ClusterAway,
		Payload: event.Cluster{State: event.ClusterStopped},
		Err:     event.WithHint(errors.New("it is stopped"), "minikube start")})
	away := Away{State: event.ClusterStopped, Reason: "it is stopped", Hint: "minikube start",
		Since: noon.Add(time.Minute)}
	if s.state.Health != Degraded || s.state.Reason != "it is stopped" || *s.state.Away != away {
		t.Errorf("%s: %s, %+v", s.state.Health, s.state.Reason, s.state.Away)
	}
	if got := s.state.Pods[0]; got.Ready || got.Phase != "Unknown" || got.Reason != "was ready" {
		t.Errorf("%+v", got)
	}
	s.send("devloop", event.Noted, event.ClusterBack, 0, event.Cluster{State: event.ClusterRunning})
	if got := s.state.Pods[0]; s.state.Health != Healthy || s.state.Away != nil || !got.Ready || got.Phase != "Running" {
		t.Errorf("%s: %s, %+v", s.state.Health, s.state.Reason, got)
	}
	s.check()
}

// What a forward leads to becomes known while it listens; it stays the same forward.
func TestAddressesLearnWhatTheyLeadTo(t *testing.T) {
	s := newStory(t)
	s.send("forward", event.Noted, event.ForwardListens, 0, web)
	known := web
	known.URL, known.Gateway = "http://localhost:8001", true
	s.send("forward", event.Noted, event.ForwardReady, 0, event.Forward{Address: known, State: "ready"})
	if f := s.state.Forwards; len(f) != 1 || f[0].Address != known {
		t.Errorf("%+v", f)
	}
	s.send("forward", event.Noted, event.ForwardCloses, 0, known)
	if f := s.state.Forwards; len(f) != 0 {
		t.Errorf("%+v", f)
	}
}

// Of the Dask clusters that are gone, the last five stay with what their schedulers said last.
func TestClustersThatAreGone(t *testing.T) {
	s := newStory(t)
	for _, name := range []event.Name{"a", "b", "c", "d", "e", "f"} {
		s.send("dask", event.Detailed, event.ClusterSeen, 0, event.DaskCluster{Namespace: "ns", Name: name, Owner: "ada",
			Phase: "Running", Running: 2, Wanted: 4, Reason: "2 workers wait", Hint: "scale", Dashboard: "http://x"})
		s.send("dask", event.Noted, event.ClusterGone, 0, event.DaskClusterEnd{Namespace: "ns", Name: name, Owner: "ada",
			Reason: "its scheduler ended", Output: "no memory"})
	}
	if c := s.state.Clusters; len(c) != 5 || c[0].Name != "b" {
		t.Fatalf("%+v", c)
	}
	for _, c := range s.state.Clusters {
		if c.Ended == nil || c.Output != "no memory" || c.Reason != "its scheduler ended" || c.Running != 0 || c.Hint != "" ||
			c.Dashboard != "" || c.Owner != "ada" {
			t.Errorf("%+v", c)
		}
	}
	s.check()
}

// Files that are synced into containers of an image, until that is replaced by one that has them.
func TestSyncedFiles(t *testing.T) {
	s := newStory(t)
	s.send("config", event.Detailed, event.ConfigRead, 0, event.Config{Images: event.Names{"worker"}})
	found := func(tag event.Name) {
		s.send("build", event.Noted, event.ImageFound, 0, event.FoundImage{Image: image("worker", tag), On: "node"})
	}
	synced := func(containers int) {
		s.step("sync", event.FilesSynced, time.Second, event.SyncedFiles{Image: "worker", Written: 2, Containers: containers})
	}
	inputs := func(hash string, into event.Name) {
		s.send("proof", event.Detailed, event.ChainChecked, 0, event.Chain{Links: event.Links{
			{Image: "worker", Place: event.AtInputs, Is: hash, SyncedInto: into}}})
	}
	want := func(when string, tag string, want *Synced) {
		t.Helper()
		if got := s.state.Images[0]; got.Tag != tag || !reflect.DeepEqual(got.Synced, want) {
			t.Errorf("%s: %s, %+v", when, got.Tag, got.Synced)
		}
	}
	s.begin()
	found("1")
	s.end(event.Succeeded)
	want("before", "1", nil)

	s.begin()
	synced(3)
	at := s.now
	found("1")
	inputs("2", "1")
	s.end(event.Succeeded)
	want("a save", "1", &Synced{Run: 2, At: at, Containers: 3})
	run := s.state.Runs[1]
	if !slices.ContainsFunc(run.Stages, func(stage Stage) bool { return stage == Stage{Name: "sync", Seconds: 1} }) {
		t.Errorf("stages %v", run.Stages)
	}

	s.run = 0 // what happens after the run
	s.send("sync", event.Noted, event.FilesSynced, 0, event.SyncedFiles{Image: "worker", Containers: 1, Started: "ns/p/c"})
	want("another container starts", "1", &Synced{Run: 2, At: at, Containers: 4})
	s.send("sync", event.Noted, event.ImageRenewed, 0, event.RenewedImage{Image: image("worker", "2")})
	want("its image is there", "1", &Synced{Run: 2, At: at, Containers: 4, Renewed: "2"})

	s.run = 2
	s.begin()
	synced(4)
	inputs("3", "1")
	s.end(event.Succeeded)
	want("the next save", "1", &Synced{Run: 3, At: s.now, Containers: 4})

	s.begin()
	found("3")
	s.send("sync", event.Succeeded, event.FilesSynced, 0, event.SyncedFiles{Image: "worker", Written: 1, Containers: 2})
	inputs("3", "")
	s.end(event.Succeeded)
	want("pods are replaced, and an older Dask cluster got the files", "3", nil)
	s.check()
}

// An event of one pod takes no work for the others but a copy of the list. Allocations stand for
// the work: they are the same on every machine.
func TestAPodsEventAmongMany(t *testing.T) {
	allocations := func(pods int) float64 {
		s, e := New(nil), event.Event{Stage: event.PodStage, Message: event.PodChanged}
		for i := range pods {
			e.Payload = event.Pod{PodRef: event.PodRef{Namespace: "demo", Pod: event.Name(fmt.Sprint("web-", i*7%pods))}}
			s = s.After(e)
		}
		byName := func(a, b Pod) int { return strings.Compare(a.Name, b.Name) }
		if len(s.Pods) != pods || !slices.IsSortedFunc(s.Pods, byName) {
			t.Fatalf("%d pods: %v", len(s.Pods), s.Pods)
		}
		return testing.AllocsPerRun(10, func() { s.After(e) })
	}
	if few, many := allocations(20), allocations(500); many > few+5 {
		t.Errorf("among 500 pods, an event takes %.0f allocations instead of %.0f", many, few)
	}
}
