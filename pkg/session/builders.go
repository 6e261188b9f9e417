package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/node"
)

const (
	// pingTimeout is how long a daemon may take to answer at the start.
	pingTimeout = 10 * time.Second

	// buildsInNode is how many images a node builds in parallel. Each needs an ssh session.
	buildsInNode = 4

	// nodePause is how long nothing is built in a node that could not build when this machine
	// could, such as one without network: each try may take half a minute.
	nodePause = 10 * time.Minute
)

// builders are the places where images are built.
type builders struct {
	host   *build.Builder // this machine's Docker, whether it builds or not
	main   *build.Builder // hashes all images and builds those that the node does not: host, or the one of BUILDKIT_HOST
	source node.Source    // of the images that main builds
	inNode *build.Builder // the node's Docker or BuildKit; nil if it cannot build

	nodes    *node.Cluster
	registry *node.Registry
	journal  *journal.Journal
	sink     event.Sink
	reported event.Changes
	slots    chan struct{}             // one for each build in the node
	bases    sync.Mutex                // held while the node loads base images, which images share
	failedAt atomic.Pointer[time.Time] // when the node could not build and main could
}

// newBuilders returns builders with only host. Choose finds the others.
func newBuilders(e *environment, registry *node.Registry, journal *journal.Journal, sink event.Sink,
	cache string) *builders {
	host := build.New(e.docker, cache)
	return &builders{host: host, main: host, source: node.DockerSource{Client: e.docker}, nodes: e.nodes,
		registry: registry, journal: journal, sink: sink, slots: make(chan struct{}, buildsInNode)}
}

// choose finds out where images can be built: on this machine; in the node, from which nothing has
// to be moved; or where BUILDKIT_HOST says.
func (b *builders) choose(ctx context.Context, c *config.Config, e *environment, cache string) error {
	stage := b.sink.Stage("node")
	remote := os.Getenv("BUILDKIT_HOST")
	switch {
	case len(c.Images) == 0:
		return nil
	case c.Push != "" && c.BuildIn == "node":
		return c.Wrong("buildIn", "images that are pushed cannot be built in the node", "use host or auto")
	case remote != "" && c.BuildIn != "node":
		b.main, b.source = build.Remote(remote, b.registry, cache), node.BuiltSource{}
		stage.Note("images are built by another BuildKit", "why", "BUILDKIT_HOST is "+remote)
		return b.main.Ping(ctx)
	case c.BuildIn == "host":
		stage.Note("images are built on this machine", "why", "buildIn is host")
		return nil
	case c.Push != "":
		stage.Note("images are built on this machine", "why", "they are pushed to "+c.Push)
		return nil
	}
	var err error
	if b.inNode, err = e.openInNode(ctx, b.main); err != nil {
		if c.BuildIn == "node" {
			return c.Wrong("buildIn", fmt.Sprintf("images cannot be built in the node: %v", err), "use host or auto")
		}
		stage.Note("images are built on this machine", "why", "not in the node: "+err.Error())
		return nil
	}
	stage.Note("images are built in the node", "why", "what is built there need not be moved")
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := build.Ping(ctx, e.docker); err != nil {
		stage.Note("this machine needs no Docker", "why", err.Error())
		b.main, b.inNode = b.inNode.SelfHashing(), nil
	}
	return nil
}

// openInNode returns a builder of the node's Docker or BuildKit for what hasher has hashed, or why
// there is none.
func (e *environment) openInNode(ctx context.Context, hasher *build.Builder) (*build.Builder, error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	docker, err := e.nodes.Docker()
	if errors.Is(err, node.ErrOtherRuntime) {
		dial, err := e.nodes.BuildKit()
		if err != nil {
			return nil, err
		}
		return hasher.InContainerd(ctx, dial, e.nodes)
	}
	if err != nil {
		return nil, err
	}
	e.add(docker.Close)
	if _, err := build.Ping(ctx, docker); err != nil {
		return nil, err
	}
	return hasher.InDocker(docker), nil
}

// build builds an image in the node or, where that is not possible, with main.
func (b *builders) build(ctx context.Context, sink event.Sink, buildIn string, tag name.Tag, input build.Input) error {
	if b.inNode == nil {
		return b.main.Build(ctx, sink, input)
	}
	stage := sink.Stage("build")
	onlyNode := buildIn == "node"
	if last := b.failedAt.Load(); last != nil && time.Since(*last) < nodePause && !onlyNode {
		stage.Note("image is built on this machine", "image", event.Name(tag.String()),
			"why", "the node could not a few minutes ago")
		return b.main.Build(ctx, sink, input)
	}
	err := b.buildInNode(ctx, sink, input)
	if err == nil {
		return b.registry.Untag(tag) // an earlier build here is not what the node holds now
	}
	if !event.IsTransient(err) {
		return err
	}
	if onlyNode || ctx.Err() != nil {
		return fmt.Errorf("build in the node: %w", err)
	}
	stage.Warn("image is built on this machine, since the node cannot", err, "image", event.Name(tag.String()))
	if err := b.main.Build(ctx, sink, input); err != nil {
		return err
	}
	now := time.Now()
	b.failedAt.Store(&now)
	return nil
}

// buildInNode makes sure that the node has the base images that were hashed, and builds.
func (b *builders) buildInNode(ctx context.Context, sink event.Sink, input build.Input) error {
	missing, err := b.inNode.MissingBases(ctx, input)
	if err == nil && len(missing) > 0 {
		err = b.loadBases(ctx, sink, input)
	}
	if err != nil {
		return err
	}
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return b.inNode.Build(ctx, sink, input)
}

// loadBases loads the base images that the node lacks, for one image at a time, since images share
// them. Where that fails, main can still build.
func (b *builders) loadBases(ctx context.Context, sink event.Sink, input build.Input) error {
	b.bases.Lock()
	defer b.bases.Unlock()
	missing, err := b.inNode.MissingBases(ctx, input)
	if err != nil {
		return err
	}
	var wanted []node.Wanted
	for _, tag := range missing {
		name := strings.TrimSuffix(tag.String(), ":"+tag.TagStr())
		wanted = append(wanted, node.Wanted{Name: name, Tag: tag})
	}
	return event.Transient(b.nodes.Load(ctx, sink, b.source, b.registry, wanted))
}
