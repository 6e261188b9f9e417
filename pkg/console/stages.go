package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// group is a stage of a run, for all images or releases together: it gets one line.
type group struct {
	label        string
	open         int  // steps that have not ended
	fresh        bool // it has succeeded with something that no earlier try of the run has reported
	began, ended time.Time

	names     []string // of what it worked on, in the order in which that ended
	ran       []string // steps of builds; those that images share are one
	bytes     int64
	revisions []string
	unchanged []string
	synced    event.SyncedFiles // of all images: what one of their containers got
	upTo      bool              // some got less
	text      string            // the rest that there is to say
}

// maxNames is how many names, or steps, a group keeps.
const maxNames = 500

// The labels of stages.
const (
	syncLabel    = "sync"
	buildLabel   = "build"
	loadLabel    = "load"
	verifyLabel  = "verify"
	deployLabel  = "deploy"
	rolloutLabel = "rollout"
	answerLabel  = "answer"
	proofLabel   = "proof"
)

// stageOf returns the label of the stage that an event is about, "" if it is about none.
func stageOf(e event.Event) string {
	switch e.Message {
	case event.FilesSynced:
		if files, ok := e.Payload.(event.SyncedFiles); ok && files.Started == "" {
			return syncLabel
		}
	case event.ImageBuilt, event.BuildStep, event.ImageFound:
		return buildLabel
	case event.ImageLoaded:
		return loadLabel
	case event.ImageVerified:
		return verifyLabel
	case event.ReleaseApplied, event.ReleaseUnchanged:
		return deployLabel
	case event.RolloutComplete:
		return rolloutLabel
	case event.PlatformAnswers:
		return answerLabel
	case event.ChainChecked:
		if e.Run > 0 { // else it is checked again, after its run
			return proofLabel
		}
	}
	return ""
}

// ofImages reports whether a stage is one that each image goes through by itself.
func ofImages(label string) bool {
	return label == buildLabel || label == loadLabel || label == verifyLabel
}

// labels are those of the senders of all other events.
var labels = map[string]string{
	"node": loadLabel, "forward": answerLabel, "cleanup": "remove", "local": "venv", "loop": "", "devloop": "",
}

func labelOf(stage string) string {
	if label, ok := labels[stage]; ok {
		return label
	}
	return stage
}

// staged adds an event to its group, and returns the rows of groups that have ended.
func (t *transcript) staged(e event.Event) []row {
	label := stageOf(e)
	at := slices.IndexFunc(t.groups, func(g *group) bool { return g.label == label })
	if at < 0 {
		at = len(t.groups)
		t.groups = append(t.groups, &group{label: label, began: e.Time.Add(-e.Took)})
	}
	g := t.groups[at]
	switch {
	case e.Message == event.BuildStep:
		g.step(e)
		return nil
	case e.Message == event.ImageFound:
		if t.run != nil {
			t.run.images = true
		}
		return nil
	case e.Message == event.ReleaseUnchanged:
		release, _ := e.Payload.(event.Release)
		g.unchanged = add(g.unchanged, string(release.Name))
		return nil
	case e.Phase == event.Started:
		if g.open == 0 && !g.fresh {
			g.began = e.Time
		}
		g.open++
		return nil
	}
	g.open = max(0, g.open-1)
	if files, ok := e.Payload.(event.SyncedFiles); ok && files.Containers == 0 {
		return nil
	}
	if e.Phase == event.Succeeded || e.Phase == event.Detailed {
		g.ended = e.Time
		g.fresh = g.fresh || !e.Repeated
		g.add(e)
		if t.run != nil && label != rolloutLabel && label != answerLabel {
			t.run.images = t.run.images || label != deployLabel
			t.run.changed = t.run.changed || label != proofLabel && label != verifyLabel
		}
	}
	if t.run == nil && g.open == 0 { // no stage follows
		return t.endGroups(func(other *group) bool { return other == g })
	}
	return nil
}

// step counts a step of a Dockerfile that was run.
func (g *group) step(e event.Event) {
	step, _ := e.Payload.(event.Instruction)
	number, text, found := strings.Cut(strings.TrimPrefix(step.Step, "["), "] ")
	if found && strings.Contains(number, "/") && !step.Cached && !step.Failed {
		g.ran = add(g.ran, text)
	}
}

// add takes what a step of the group has done.
func (g *group) add(e event.Event) {
	switch p := e.Payload.(type) {
	case event.Build:
		g.names = add(g.names, imageName(p.Image))
	case event.Loaded:
		g.names = add(g.names, imageName(p.Image))
		g.bytes += p.Bytes
		if nodes := fmt.Sprint(e.Field("nodes")); nodes != "1" && e.Field("nodes") != nil {
			g.text = " to " + nodes + " nodes"
		}
	case event.SyncedFiles:
		g.names = add(g.names, string(p.Image))
		g.upTo = g.upTo || g.synced.Containers > 0 && (p.Written != g.synced.Written || p.Deleted != g.synced.Deleted)
		g.synced.Written, g.synced.Deleted = max(g.synced.Written, p.Written), max(g.synced.Deleted, p.Deleted)
		g.synced.Containers += p.Containers
		g.synced.Restarted += p.Restarted
	case event.Verification:
		g.names, g.text = add(g.names, imageName(p.Image)), p.Command
	case event.Release:
		g.names = add(g.names, string(p.Name))
		g.revisions = add(g.revisions, fmt.Sprint(p.Revision))
	case event.Rollout:
		if p.Release != "" {
			g.names = add(g.names, string(p.Release))
		}
	case event.Answer:
		g.names = add(g.names, strings.TrimPrefix(strings.Replace(p.URL, "//127.0.0.1:", "//localhost:", 1), "http://"))
	case event.Chain:
		var places []string
		for _, link := range p.Links {
			g.names = add(g.names, string(link.Image))
			places = add(places, string(link.Place))
		}
		g.text = fmt.Sprintf("the same in all %d places", len(places))
	}
	if n := e.Field("workloads"); n != nil {
		g.text = fmt.Sprintf("%v workloads up", n)
	}
}

// add appends a text that is not there yet.
func add(to []string, text string) []string {
	if text == "" || len(to) >= maxNames || slices.Contains(to, text) {
		return to
	}
	return append(to, text)
}

// endGroups returns the rows of groups that have ended, and forgets these.
func (t *transcript) endGroups(ended func(*group) bool) (rows []row) {
	t.groups = slices.DeleteFunc(t.groups, func(g *group) bool {
		if !ended(g) {
			return false
		}
		if g.fresh {
			rows = append(rows, t.rowOf(g))
		}
		return true
	})
	return t.withHeader(rows)
}

func (t *transcript) rowOf(g *group) row {
	r := row{label: g.label, cut: true, subject: strings.Join(g.names, ", "), text: g.text,
		right: Took(g.ended.Sub(g.began))}
	switch g.label {
	case syncLabel:
		r.text = g.syncText()
	case buildLabel:
		switch len(g.ran) {
		case 0:
			r.text = "all from the cache"
		case 1:
			r.text = "1 step ran"
		default:
			r.text = fmt.Sprintf("%d steps ran", len(g.ran))
		}
	case loadLabel:
		r.subject = cmp.Or(t.cluster, r.subject)
		r.text = Size(uint64(max(0, g.bytes))) + g.text
		if g.bytes < noBytes*int64(len(g.names)) {
			r.text = "next to nothing: " + r.text
		}
	case deployLabel:
		r.text = "revision "
		if len(g.revisions) > 1 {
			r.text = "revisions "
		}
		r.text += strings.Join(g.revisions, ", ")
		if len(g.unchanged) > 0 {
			r.text += "; unchanged: " + strings.Join(g.unchanged, ", ")
		}
	case answerLabel:
		r.subject, r.text = "", r.subject+" answers"
	}
	return r
}

// syncText is what containers got: "2 files, 1 deleted, in 5 containers".
func (g *group) syncText() string {
	text := filesOf(g.synced)
	if g.upTo {
		text = "up to " + text
	}
	if g.synced.Written > 0 && g.synced.Deleted > 0 {
		text += ","
	}
	text += " in " + counted(g.synced.Containers, "container")
	if g.synced.Restarted > 0 {
		text += fmt.Sprintf(", %d restarted", g.synced.Restarted)
	}
	return text
}

// filesOf is what was done with files: "2 files", "2 files, 1 deleted", "1 file deleted".
func filesOf(s event.SyncedFiles) string {
	switch {
	case s.Deleted == 0:
		return counted(s.Written, "file")
	case s.Written == 0:
		return counted(s.Deleted, "file") + " deleted"
	}
	return fmt.Sprintf("%s, %d deleted", counted(s.Written, "file"), s.Deleted)
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// noBytes is how much of an image is sent, about, when the nodes have all of its layers.
const noBytes = 10_000

// imageName is an image's name in devloop.yaml, or its reference without the tag.
func imageName(image event.Image) string {
	if image.Name != "" {
		return string(image.Name)
	}
	ref, _, _ := strings.Cut(string(image.Ref), "@")
	if at := strings.LastIndexByte(ref, ':'); at > strings.LastIndexByte(ref, '/') {
		ref = ref[:at]
	}
	return ref
}

// Took returns a time as people say it: "2.7 s", "1 min 12 s", "2 h 5 min".
func Took(d time.Duration) string {
	switch seconds := d.Round(time.Second) / time.Second; {
	case d < 50*time.Millisecond:
		return "0.0 s"
	case d < time.Minute-50*time.Millisecond:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case seconds < 3600:
		return fmt.Sprintf("%d min %d s", seconds/60, seconds%60)
	default:
		return fmt.Sprintf("%d h %d min", seconds/3600, seconds/60%60)
	}
}
