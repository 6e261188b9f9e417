// What a build says while it runs, kept short: its steps, and the last words of one that fails.
package build

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/devloop/devloop/pkg/event"
)

// progress follows one build: it tells of its steps and remembers what they printed, for the case that one fails.
type progress struct {
	say    event.Stage
	image  string
	steps  map[digest.Digest]*step
	failed *step
}

type step struct {
	name string
	told bool
	tail []byte
}

// tailLength is how much of a failed step's output is kept, in bytes: pip's and apt's errors come last and fit.
const tailLength = 16 << 10

func newProgress(say event.Stage, image string) *progress {
	return &progress{say: say, image: image, steps: map[digest.Digest]*step{}}
}

// read returns when the build closes statuses.
func (p *progress) read(statuses <-chan *bkclient.SolveStatus) {
	for status := range statuses {
		for _, vertex := range status.Vertexes {
			s := p.step(vertex.Digest)
			s.name = vertex.Name
			if vertex.Error != "" && !strings.Contains(vertex.Error, context.Canceled.Error()) {
				p.failed = s
			}
			if vertex.Completed != nil && !s.told {
				s.told = true
				var took time.Duration
				if vertex.Started != nil {
					took = vertex.Completed.Sub(*vertex.Started)
				}
				p.say.Detail("build step", "image", p.image, "step", vertex.Name, "cached", vertex.Cached, "took", took.Round(time.Millisecond))
			}
		}
		for _, line := range status.Logs {
			s := p.step(line.Vertex)
			s.tail = append(s.tail, line.Data...)
			if extra := len(s.tail) - tailLength; extra > 0 {
				s.tail = s.tail[extra:]
			}
		}
	}
}

func (p *progress) step(id digest.Digest) *step {
	s := p.steps[id]
	if s == nil {
		s = &step{}
		p.steps[id] = s
	}
	return s
}

// explain names the step that failed and what it printed last. What a network or a full disk did may pass.
func (p *progress) explain(input Input, err error) error {
	failure := fmt.Errorf("image %s: %s: %w", input.Name, filepath.Base(input.Dockerfile), err)
	output := ""
	if p.failed != nil {
		output = string(p.failed.tail)
		failure = fmt.Errorf("image %s: %s: %s: %w", input.Name, filepath.Base(input.Dockerfile), p.failed.name, err)
		if said := reason(output); said != "" {
			failure = fmt.Errorf("image %s: %s: %s failed: %s", input.Name, filepath.Base(input.Dockerfile), p.failed.name, said)
		}
	}
	says := func(words []string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(err.Error(), w) || strings.Contains(output, w) })
	}
	switch {
	case says(noRoom):
		return event.Transient(event.WithHint(failure, "make room where Docker keeps its data: docker system prune"))
	case says(noNetwork), status.Code(err) == codes.Unavailable:
		return event.Transient(event.WithHint(failure, "check the network"))
	case p.failed == nil:
		return failure
	}
	return event.WithHint(failure, "mend it and save; what ran keeps running")
}

// What pip, apt, curl, git and Docker itself say when the disk is full, or when the network or a server on it is away.
var (
	noRoom    = []string{"No space left on device", "no space left on device"}
	noNetwork = []string{
		"Temporary failure in name resolution", "Temporary failure resolving", "Could not resolve host", "Name or service not known",
		"NewConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "Connection timed out", "Connection reset by peer", "Network is unreachable",
		"dial tcp", "i/o timeout", "TLS handshake timeout",
	}
)

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
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if len(line) > reasonLine {
			line = strings.ToValidUTF8(line[:reasonLine], "") + " …"
		}
		last = line
		if lower := strings.ToLower(line); strings.HasPrefix(lower, "error") || strings.HasPrefix(lower, "e: ") {
			errorLines = append(errorLines, line)
		}
	}
	if len(errorLines) == 0 {
		return last
	}
	return strings.Join(errorLines[max(0, len(errorLines)-reasonLines):], "; ")
}
