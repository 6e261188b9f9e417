// Package build turns the inputs of an image into a content hash, and into an image when that hash is new. Images are built
// by BuildKit in the host's Docker daemon.
package build

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/docker/cli/cli/config"

	"github.com/devloop/devloop/pkg/event"
)

// Builder builds images in one Docker daemon. It is safe for concurrent use.
type Builder struct {
	docker *client.Client
	bases  *baseCache
	files  *fileDigests
}

// New returns a Builder for the daemon that docker talks to; cacheDir keeps what registries said of base images. The caller
// keeps ownership of docker.
func New(docker *client.Client, cacheDir string) *Builder {
	return &Builder{
		docker: docker,
		bases:  &baseCache{dir: filepath.Join(cacheDir, "bases"), known: map[string]base{}},
		files:  &fileDigests{known: map[string]knownFile{}},
	}
}

// Has tells whether the daemon holds the image.
func (b *Builder) Has(ctx context.Context, tag name.Tag) (bool, error) {
	_, err := b.docker.ImageInspect(ctx, tag.String())
	switch {
	case errdefs.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, DockerError(err)
	}
	return true, nil
}

// Remove takes the tag away from the daemon; the layers go with the last tag. A tag that is not there is no error.
func (b *Builder) Remove(ctx context.Context, tag string) error {
	_, err := b.docker.ImageRemove(ctx, tag, client.ImageRemoveOptions{PruneChildren: true})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image %s from Docker: %w", tag, err)
	}
	return nil
}

// Build builds the image and names it input.Tag. The name is given last, and only if the inputs still have input's hash: a
// tag never stands for content that it was not made from (else event.ErrSuperseded). Cancelling ctx ends the build.
func (b *Builder) Build(ctx context.Context, sink event.Sink, input Input) error {
	say := sink.For("build")
	say.Note("building image", "image", input.Tag.String())
	return say.Step(ctx, "image built", func(ctx context.Context) ([]any, error) {
		id, err := b.solveStill(ctx, say, input)
		if err != nil {
			return nil, err
		}
		if _, err := b.docker.ImageTag(ctx, client.ImageTagOptions{Source: id, Target: input.Tag.String()}); err != nil {
			return nil, fmt.Errorf("image %s: name it %s: %w", input.Name, input.Tag, err)
		}
		return []any{"id", shortID(id)}, nil
	}, "image", input.Tag.String())
}

// solveStill builds until no input was written meanwhile: BuildKit may have read a file halfway that holds now what it held before. The
// second time, all that really is the same comes from its cache.
func (b *Builder) solveStill(ctx context.Context, say event.Stage, input Input) (id string, err error) {
	for {
		id, err := b.solve(ctx, say, input)
		if err != nil {
			return "", err
		}
		again, err := b.Hash(ctx, input.Image)
		switch {
		case err != nil:
			return "", err
		case again.Hash != input.Hash:
			return "", fmt.Errorf("image %s: an input changed during the build: %w", input.Name, event.ErrSuperseded)
		case again.stamp == input.stamp:
			return id, nil
		}
		input = again
	}
}

// solve runs BuildKit and returns the image's ID.
func (b *Builder) solve(ctx context.Context, say event.Stage, input Input) (id string, err error) {
	buildkit, err := b.buildkit(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, buildkit.Close()) }()
	contextFS, err := fsutil.NewFS(input.Context)
	if err != nil {
		return "", fmt.Errorf("image %s: context: %w", input.Name, err)
	}
	dockerfileFS, err := fsutil.NewFS(filepath.Dir(input.Dockerfile))
	if err != nil {
		return "", fmt.Errorf("image %s: Dockerfile: %w", input.Name, err)
	}
	attrs := map[string]string{
		"filename": filepath.Base(input.Dockerfile),
		// The base image that Docker holds is the one that was hashed, even if the registry has a newer one.
		"image-resolve-mode": "local",
	}
	if input.Target != "" {
		attrs["target"] = input.Target
	}
	if input.Platform != "" {
		attrs["platform"] = input.Platform
	}
	for key, value := range input.Args {
		attrs["build-arg:"+key] = value
	}

	progress := newProgress(say, input.Name)
	statuses := make(chan *bkclient.SolveStatus)
	var reading sync.WaitGroup
	reading.Go(func() { progress.read(statuses) })
	response, err := buildkit.Solve(ctx, nil, bkclient.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		LocalMounts:   map[string]fsutil.FS{"context": contextFS, "dockerfile": dockerfileFS},
		// The key names the context, so that the daemon keeps its copy and is sent only what changed.
		SharedKey: "devloop:" + input.Context,
		Session: []session.Attachable{authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
			AuthConfigProvider: authprovider.LoadAuthConfig(config.LoadDefaultConfigFile(discard{})),
		})},
		Exports: []bkclient.ExportEntry{{Type: "moby"}}, // into the daemon's own image store
	}, statuses)
	reading.Wait()
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if _, away := Ping(ctx, b.docker); away != nil {
			return "", fmt.Errorf("image %s: the build broke off: %w", input.Name, away)
		}
		return "", progress.explain(input, err)
	}
	// Docker's classic store knows an image by the digest of its configuration, its containerd store by the manifest's.
	for _, key := range []string{exptypes.ExporterImageDigestKey, exptypes.ExporterImageConfigDigestKey} {
		found := digest.Digest(response.ExporterResponse[key])
		if found.Validate() != nil {
			continue
		}
		if _, err := b.docker.ImageInspect(ctx, found.String()); err == nil {
			return found.String(), nil
		}
	}
	return "", fmt.Errorf("image %s: Docker built it and cannot find it again (answer: %v)", input.Name, response.ExporterResponse)
}

// buildkit opens the daemon's own BuildKit, through its HTTP API.
func (b *Builder) buildkit(ctx context.Context) (*bkclient.Client, error) {
	if _, err := Ping(ctx, b.docker); err != nil {
		return nil, err
	}
	return bkclient.New(ctx, "",
		bkclient.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return b.docker.DialHijack(ctx, "/grpc", "h2c", nil)
		}),
		bkclient.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return b.docker.DialHijack(ctx, "/session", proto, meta)
		}))
}

// Ping asks the daemon for a sign of life, and whether it can build what devloop needs.
func Ping(ctx context.Context, docker *client.Client) (client.PingResult, error) {
	ping, err := docker.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		return ping, DockerError(err)
	}
	if ping.OSType == "windows" {
		return ping, event.WithHint(errors.New("the Docker daemon builds Windows images"), "switch Docker to Linux containers")
	}
	return ping, nil
}

// discard is where Docker's configuration reader complains; a broken file only means no credentials.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// DockerError adds what the user can do when the daemon itself is the trouble.
func DockerError(err error) error {
	if client.IsErrConnectionFailed(err) {
		var dial *net.OpError // says it without the client's own advice
		if errors.As(err, &dial) {
			err = dial
		}
		return event.Transient(event.WithHint(fmt.Errorf("no answer from Docker: %w", err), "start Docker, or point DOCKER_HOST at a running daemon"))
	}
	return fmt.Errorf("ask Docker: %w", err)
}

func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

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
