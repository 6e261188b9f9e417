package build

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/x/ansi"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/opencontainers/go-digest"

	"github.com/devloop/devloop/pkg/event"
)

// progress reports the steps of one build, keeps the end of what each printed, in case it fails,
// and writes everything to output.
type progress struct {
	stage  event.Stage
	input  Input
	output *os.File // nil if it cannot be kept
	steps  map[digest.Digest]*step
	order  []*step // in which BuildKit named them
	failed *step
	// answer has the ID of the image that Docker's classic store is about to hold, as BuildKit's
	// answer will. It is nil before that.
	answer map[string]string
}

type step struct {
	name    string
	started time.Time // by this machine's clock, zero before
	ended   bool
	tail    []byte
}

// tailLength is how much of a step's output is kept, in bytes: enough for the errors of pip and
// apt, which come last.
const tailLength = 16 << 10

const progressInterval = 200 * time.Millisecond

func newProgress(stage event.Stage, input Input, output *os.File) *progress {
	return &progress{stage: stage, input: input, output: output, steps: map[digest.Digest]*step{}}
}

// read returns when the build closes statuses.
func (p *progress) read(statuses <-chan *bkclient.SolveStatus) {
	written := make(chan *bkclient.SolveStatus)
	var writing sync.WaitGroup
	writing.Go(func() { p.write(written) })
	defer writing.Wait()
	defer close(written)
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case status, ok := <-statuses:
			if !ok {
				return
			}
			p.update(status)
			written <- status
		case <-ticker.C:
			p.report()
		}
	}
}

// write writes BuildKit's plain display of the build to output.
func (p *progress) write(statuses chan *bkclient.SolveStatus) {
	if p.output != nil {
		err := event.Guard(func() error {
			display, err := progressui.NewDisplay(p.output, progressui.PlainMode)
			if err == nil {
				_, err = display.UpdateFrom(context.Background(), statuses) // until statuses is closed
			}
			return err
		})
		if err != nil {
			p.stage.Detail("the build's output is not kept", "err", err.Error())
		}
	}
	for range statuses {
	}
}

func (p *progress) update(status *bkclient.SolveStatus) {
	for _, vertex := range status.Vertexes {
		s := p.step(vertex.Digest)
		s.name = title(vertex.Name)
		if vertex.Started != nil && s.started.IsZero() {
			s.started = time.Now()
		}
		if vertex.Error != "" && !strings.Contains(vertex.Error, context.Canceled.Error()) {
			p.failed = s
		}
		if vertex.Completed == nil || s.ended {
			continue
		}
		s.ended = true
		var took time.Duration
		if vertex.Started != nil {
			took = vertex.Completed.Sub(*vertex.Started)
		}
		send := p.stage.DetailTook
		if inDockerfile.MatchString(vertex.Name) && !vertex.Cached && vertex.Error == "" && took >= notedStep {
			send = p.stage.NoteTook
		}
		send(took, event.BuildStep, event.Instruction{Image: event.Image{Name: event.Name(p.input.Name)},
			Step: s.name, Cached: vertex.Cached, Failed: vertex.Error != ""})
	}
	for _, one := range status.Statuses {
		if id, found := strings.CutPrefix(one.ID, writingImage); found {
			p.answer = map[string]string{exptypes.ExporterImageConfigDigestKey: id}
		}
	}
	for _, line := range status.Logs {
		s := p.step(line.Vertex)
		s.tail = append(s.tail, line.Data...)
		if extra := len(s.tail) - tailLength; extra > 0 {
			s.tail = append([]byte("…"), s.tail[extra:]...) // which event.Secrets knows for a cut
		}
	}
}

// writingImage precedes the ID of the image that Docker is about to store (moby,
// builder-next/exporter/export.go). A build that ends at that moment has no other answer. Docker's
// containerd store does not send it: there, such a build leaves its image.
const writingImage = "writing image "

// notedStep is how long a step has to take for a line in the log without -v.
const notedStep = 100 * time.Millisecond

// inDockerfile matches BuildKit's names for the steps of a Dockerfile: [3/5] RUN ..., [base 2/4]
// COPY ...
var inDockerfile = regexp.MustCompile(`^\[([^\]]+ )?[0-9]+/[0-9]+\] `)

// titleLength is how much of a step's text is shown, in columns.
const titleLength = 120

var mounts = regexp.MustCompile(`--mount=\S+\s+`)

// title is a step's name in one line, without its mounts.
func title(name string) string {
	words := strings.Fields(mounts.ReplaceAllString(event.Printable(name), ""))
	return ansi.Truncate(strings.Join(words, " "), titleLength, " …")
}

// report sends how far the build is.
func (p *progress) report() {
	done, now := 0, (*step)(nil)
	for _, s := range p.order {
		switch {
		case s.ended:
			done++
		case !s.started.IsZero():
			now = s
		}
	}
	if now != nil {
		p.stage.Progress(event.BuildingImage, event.Build{Image: p.input.image(), Step: now.name, Done: done,
			Total: len(p.order), Since: now.started})
	}
}

func (p *progress) step(id digest.Digest) *step {
	s := p.steps[id]
	if s == nil {
		s = &step{}
		p.steps[id] = s
		p.order = append(p.order, s)
	}
	return s
}

// keepLogs is how many builds' output is kept.
const keepLogs = 20

// createLog creates the file for a build's output, which the caller closes, and removes old ones.
func createLog(folder string, input Input) (*os.File, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	if err := pruneLogs(folder); err != nil {
		return nil, err
	}
	file := filepath.Join(folder, strings.ReplaceAll(input.Name, "/", "_")+"-"+input.Tag.TagStr()+".log")
	// Another devloop, for another cluster, may be writing a file of that name: it keeps its own.
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
}

func pruneLogs(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var logs []fs.FileInfo
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil { // another devloop may have removed it
			logs = append(logs, info)
		}
	}
	slices.SortFunc(logs, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, old := range logs[min(keepLogs-1, len(logs)):] {
		if err := os.Remove(filepath.Join(folder, old.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
