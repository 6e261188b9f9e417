// What a build says while it runs, kept short: its steps, and the last words of one that fails. All of it is in a file.
package build

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/devloop/devloop/pkg/event"
)

// progress follows one build: it tells of its steps, remembers what they printed, for the case that one fails, and writes all of it to output.
type progress struct {
	say    event.Stage
	input  Input
	output *os.File // nil if it cannot be kept
	steps  map[digest.Digest]*step
	order  []*step // as they came
	failed *step
}

type step struct {
	name    string
	started time.Time // by this machine's clock, zero before
	ended   bool
	tail    []byte
}

// tailLength is how much of a failed step's output is kept, in bytes: pip's and apt's errors come last and fit.
const tailLength = 16 << 10

// beat is how often who looks is told how far the build is.
const beat = 200 * time.Millisecond

func newProgress(say event.Stage, input Input, output *os.File) *progress {
	return &progress{say: say, input: input, output: output, steps: map[digest.Digest]*step{}}
}

// read returns when the build closes statuses.
func (p *progress) read(statuses <-chan *bkclient.SolveStatus) {
	written := make(chan *bkclient.SolveStatus)
	var writing sync.WaitGroup
	writing.Go(func() { p.write(written) })
	defer writing.Wait()
	defer close(written)
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case status, ok := <-statuses:
			if !ok {
				return
			}
			p.take(status)
			written <- status
		case <-ticker.C:
			p.beat()
		}
	}
}

// write writes BuildKit's own plain report.
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
			p.say.Detail("the build's output is not kept", "err", err.Error())
		}
	}
	for range statuses {
	}
}

func (p *progress) take(status *bkclient.SolveStatus) {
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
		tell, fields := p.say.DetailTook, []any{"image", event.Name(p.input.Name), "step", s.name}
		if inDockerfile.MatchString(vertex.Name) && !vertex.Cached && vertex.Error == "" && took >= worthALine {
			tell = p.say.NoteTook
		}
		if vertex.Cached {
			fields = append(fields, "cached", true)
		}
		if vertex.Error != "" {
			fields = append(fields, "failed", true)
		}
		tell(took, event.BuildStep, fields...)
	}
	for _, line := range status.Logs {
		s := p.step(line.Vertex)
		s.tail = append(s.tail, line.Data...)
		if extra := len(s.tail) - tailLength; extra > 0 {
			s.tail = append([]byte("…"), s.tail[extra:]...) // a secret that is cut here is still one
		}
	}
}

// worthALine is how long a step has to take for a line in the log.
const worthALine = 100 * time.Millisecond

// inDockerfile is how BuildKit calls the steps of a Dockerfile: [3/5] RUN ..., [base 2/4] COPY ...
var inDockerfile = regexp.MustCompile(`^\[([^\]]+ )?[0-9]+/[0-9]+\] `)

// titleLength is how much of a step's text is shown, in columns.
const titleLength = 120

var mounts = regexp.MustCompile(`--mount=\S+\s+`)

// title is a step's name in one line, without what does not tell it from others.
func title(name string) string {
	return ansi.Truncate(strings.Join(strings.Fields(mounts.ReplaceAllString(event.Printable(name), "")), " "), titleLength, " …")
}

// beat tells how far the build is.
func (p *progress) beat() {
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
		p.say.Progress(event.BuildingImage, "image", event.Name(p.input.Tag.String()), "step", now.name, "done", done,
			"total", len(p.order), "since", now.started)
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

// createLog makes the file for a build's whole output, which the caller closes, and removes the oldest ones.
func createLog(folder string, input Input) (*os.File, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	if err := pruneLogs(folder); err != nil {
		return nil, err
	}
	file := filepath.Join(folder, strings.ReplaceAll(input.Name, "/", "_")+"-"+input.Tag.TagStr()+".log")
	// Another devloop may be writing to a file of that name, for another cluster: it keeps the one
	// that it has.
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600) // others need not read what a build says
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

// explain names the step that failed and why, and tells what it printed last. What a network or a full disk did may pass.
func (p *progress) explain(err error) error {
	at := fmt.Sprintf("image %s: %s", p.input.Name, filepath.Base(p.input.Dockerfile))
	failure := fmt.Errorf("%s: %w", at, err)
	output, shown := "", ""
	if p.failed != nil {
		output = string(p.failed.tail)
		shown = lastLines(output)
		failure = fmt.Errorf("%s: %s: %w", at, p.failed.name, err)
		if said := reason(output); said != "" {
			failure = fmt.Errorf("%s: %s failed: %s", at, p.failed.name, said)
		}
		if shown != "" {
			p.say.Note(event.BuildStepFailed, "image", event.Name(p.input.Name), "step", p.failed.name, "output", shown)
		}
	}
	last := err.Error() + "\n" + shown // what came before was got over
	says := func(words []string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(last, w) })
	}
	hint := ""
	switch {
	case says(noRoom):
		failure, hint = event.Transient(failure), "make room where Docker keeps its data: docker system prune"
	case says(noNetwork), strings.Contains(output, lastRetry) && says(pipNoNetwork), status.Code(err) == codes.Unavailable:
		failure, hint = event.Transient(failure), "check the network"
	case p.failed != nil:
		hint = "mend it and save; what ran keeps running"
	}
	switch {
	case hint == "":
		return failure
	case p.output == nil:
		return event.WithHint(failure, hint)
	}
	return event.WithHint(failure, hint+"; the whole output is in "+p.output.Name())
}

// What pip, uv, apt, curl, git and Docker itself say when the disk is full, or when the network or a server on it is away.
var (
	noRoom    = []string{"No space left on device", "no space left on device"}
	noNetwork = []string{
		"Temporary failure in name resolution", "Temporary failure resolving", "Could not resolve host", "Name or service not known",
		"Connection timed out", "Connection reset by peer", "Network is unreachable",
		"dial tcp", "i/o timeout", "TLS handshake timeout", "error sending request", "dns error", "operation timed out",
	}
)

// pip warns of each try that fails, and goes on to say that there is no such package.
var pipNoNetwork = []string{"NewConnectionError", "ConnectTimeoutError", "ReadTimeoutError"}

const lastRetry = "Retry(total=0"

// Of a failed step's output, reason tells so many lines, and so much of each, in bytes: pip lists every version that it knows first.
const (
	reasonLines = 2
	reasonLine  = 300
)

// reason picks the lines of a failed step's output that say why: the last that call themselves errors, else the last one.
func reason(output string) string {
	var errorLines []string
	last := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(event.Printable(line))
		if line == "" {
			continue
		}
		if len(line) > reasonLine {
			line = strings.ToValidUTF8(line[:reasonLine], "") + " …"
		}
		last = line
		if lower := strings.ToLower(line); strings.HasPrefix(lower, "error") || strings.HasPrefix(lower, "e: ") || strings.HasPrefix(lower, "cause: ") {
			errorLines = append(errorLines, line)
		}
	}
	if len(errorLines) == 0 {
		return last
	}
	return strings.Join(errorLines[max(0, len(errorLines)-reasonLines):], "; ")
}

// failureLines is how many lines of a failed step's output are shown.
const failureLines = 12

// lastLines are the last ones that say something, short enough for a terminal.
func lastLines(output string) string {
	var lines []string
	for line := range strings.Lines(output) {
		line = line[strings.LastIndexByte(strings.TrimRight(line, "\r\n"), '\r')+1:] // a progress bar draws over itself
		if line = strings.TrimRight(event.Printable(line), " "); line != "" {
			lines = append(lines, ansi.Truncate(line, reasonLine, " …"))
		}
	}
	return strings.Join(lines[max(0, len(lines)-failureLines):], "\n")
}
