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
	"golang.org/x/sync/singleflight"

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

	// An image that the node could not build when this machine could, as without network, is not
	// built there for so many times as long as the try took. So a node that fails each build takes
	// a tenth of the time at most, and one that is well again is used soon.
	restFactor = 10
	maxRest    = 10 * time.Minute

	// The node builds an image that this machine has, for about as long as moving it there takes,
	// unless little has to be moved. Layers are moved at about that many bytes in a second, where
	// this machine is busy: Docker compresses them on one core.
	littleToMove = 64 << 20
	movedPerSec  = 10 << 20

	// A node whose builder does not answer, such as a Docker that restarts, is waited for. If it
	// is not back by then, each build asks it first whether it is.
	nodeWait     = 10 * time.Second
	nodeInterval = 250 * time.Millisecond
	nodePing     = 3 * time.Second
)

// builders are the places where images are built.
type builders struct {
	host       *build.Builder // this machine's Docker, whether it builds or not
	mainInNode bool           // main is the node's builder
	main       *build.Builder // hashes all images, builds what the node does not: host, or that of BUILDKIT_HOST
	source     node.Source    // of the images that main builds

	node    sync.Mutex                                        // guards inNode
	inNode  *build.Builder                                    // the node's Docker or BuildKit; nil if it cannot build
	reopen  func(ctx context.Context) (*build.Builder, error) // opens inNode, which did not answer; else nil
	nodeOff atomic.Bool                                       // it did not answer, and main builds
	silent  time.Time                                         // when it last let nodePing pass without an answer

	nodes    *node.Cluster
	registry *node.Registry
	journal  *journal.Journal
	sink     event.Sink
	reported event.Changes
	slots    chan struct{}      // one for each build in the node
	brought  singleflight.Group // of the project's images that others are built from
	bases    sync.Mutex         // held while the node loads base images, which images share
	rests    rests
	podOnly  podOnly
	passed   *passedChecks
	loads    tagLocks // held while an image is loaded, by the run or for an image that is built from it
}

// tagLocks are a lock for each tag.
type tagLocks struct {
	mu   sync.Mutex
	held map[name.Tag]chan struct{} // closed at the end
}

// lock waits until nobody else has the lock of the tag.
func (l *tagLocks) lock(ctx context.Context, tag name.Tag) (unlock func(), err error) {
	for {
		l.mu.Lock()
		busy := l.held[tag]
		if busy == nil {
			if l.held == nil {
				l.held = map[name.Tag]chan struct{}{}
			}
			done := make(chan struct{})
			l.held[tag] = done
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.held, tag)
				close(done)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// rests are images that are not built in the node for a while.
type rests struct {
	mu    sync.Mutex
	until map[string]time.Time // by name
}

// add is called after a try that failed and took so long.
func (r *rests) add(image string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = map[string]time.Time{}
	}
	r.until[image] = time.Now().Add(min(restFactor*took, maxRest))
}

// left returns for how long an image still is not built in the node.
func (r *rests) left(image string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(0, time.Until(r.until[image]))
}

// end has all images tried again: the node's builder is another one now.
func (r *rests) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.until)
}

// newBuilders returns builders with only host. Choose finds the others.
func newBuilders(e *environment, registry *node.Registry, journal *journal.Journal, sink event.Sink,
	cache string, passed *passedChecks) *builders {
	host := build.New(e.docker, cache)
	return &builders{host: host, main: host, source: node.DockerSource{Client: e.docker}, nodes: e.nodes,
		registry: registry, journal: journal, sink: sink, slots: make(chan struct{}, buildsInNode),
		passed: passed}
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
		away := event.IsTransient(err)
		if away {
			b.reopen = func(ctx context.Context) (*build.Builder, error) { return e.openInNode(ctx, b.main) }
			b.nodeOff.Store(true)
		}
		switch {
		case c.BuildIn == "node" && away:
			return err
		case c.BuildIn == "node":
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
		b.main, b.inNode, b.mainInNode = b.inNode.SelfHashing(), nil, true
	}
	return nil
}

// openInNode returns a builder of the node's Docker or BuildKit for what hasher has hashed, or why
// there is none.
func (e *environment) openInNode(ctx context.Context, hasher *build.Builder) (*build.Builder, error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	name, shell := e.nodes.BuilderNode()
	docker, err := e.nodes.Docker()
	if errors.Is(err, node.ErrOtherRuntime) {
		dial, err := e.nodes.BuildKit()
		if err != nil {
			return nil, err
		}
		builder, err := hasher.InContainerd(ctx, dial, e.nodes, build.NodeBuildKit(name, shell))
		if err == nil {
			e.add(builder.Close)
		}
		return builder, err
	}
	if err != nil {
		return nil, err
	}
	builder := hasher.InDocker(docker, build.NodeDocker(name, shell))
	if err := builder.Ping(ctx); err != nil {
		if ctx.Err() != nil { // as while the machine is paused
			err = event.Transient(err)
		}
		return nil, errors.Join(err, docker.Close())
	}
	e.add(docker.Close)
	return builder, nil
}

// toMove returns how many bytes of an image that main has would be moved to the node. It is 0 if
// the node cannot build it instead: a node without any of its layers has not built anything like
// it, and has none of its steps in its cache.
func (b *builders) toMove(ctx context.Context, tag name.Tag, input build.Input) int64 {
	docker, isDocker := b.source.(node.DockerSource)
	if !isDocker || input.Tag != tag || b.nodeBuilder(ctx, b.sink.Stage("build")) == nil || b.rests.left(input.Name) > 0 {
		return 0
	}
	lacked, partly, err := docker.Lacked(ctx, b.nodes, tag)
	if err != nil || !partly {
		return 0
	}
	return lacked
}

// buildFound builds an image in the node that main has, too. If that takes longer than to move it,
// or fails, the node gets the one that main has: it is no error.
func (b *builders) buildFound(ctx context.Context, sink event.Sink, input build.Input, toMove int64,
) (onNode bool, err error) {
	stage := sink.Stage("build")
	inNode := b.nodeBuilder(ctx, stage)
	if inNode == nil {
		return false, nil
	}
	stage.Note("image is built in the node, though this machine has it", "image", event.Name(input.Tag.String()),
		"why", fmt.Sprintf("%d MB would have to be moved", toMove>>20))
	limit := time.Duration(toMove/movedPerSec)*time.Second + time.Nanosecond // 0 would be none
	tentative := sink.Tentative()
	err = b.buildInNode(ctx, func(e event.Event) {
		if e.Message != event.BuildStepFailed {
			tentative(e)
		}
	}, inNode, input, limit)
	switch {
	case err == nil:
		return true, b.registry.Untag(input.Tag)
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, event.ErrSuperseded):
		return false, err
	}
	stage.Note("image is taken from this machine after all", "image", event.Name(input.Tag.String()), "why", err.Error())
	if err := b.nodes.Remove(ctx, input.Tag); err != nil { // the build may have been cut off at its very end
		return false, err
	}
	if has, err := b.main.Has(ctx, input.Tag); has || err != nil {
		return false, err
	}
	return false, b.buildOnMain(ctx, sink, input)
}

// build builds an image in the node or, where that is not possible, with main. onNode is true if
// the only node is known to hold what was built.
func (b *builders) build(
	ctx context.Context, sink event.Sink, buildIn string, tag name.Tag, input build.Input,
) (onNode bool, err error) {
	stage := sink.Stage("build")
	inNode := b.nodeBuilder(ctx, stage)
	if inNode == nil {
		return false, b.buildOnMain(ctx, sink, input)
	}
	onlyNode := buildIn == "node"
	if left := b.rests.left(input.Name); left > 0 && !onlyNode {
		stage.Note("image is built on this machine", "image", event.Name(tag.String()),
			"why", "the node could not", "tried again in", left.Round(time.Second))
		return false, b.buildOnMain(ctx, sink, input)
	}
	began := time.Now()
	err = b.buildInNode(ctx, sink, inNode, input, 0)
	took, away := time.Since(began), false
	if event.IsTransient(err) && ctx.Err() == nil {
		var back bool
		if back, away = returns(ctx, stage, inNode, err); back {
			began = time.Now()
			err = b.buildInNode(ctx, sink, inNode, input, 0)
			took = time.Since(began)
		}
	}
	if err == nil {
		return true, b.registry.Untag(tag) // an earlier build here is not what the node holds now
	}
	if !event.IsTransient(err) {
		return false, err
	}
	if onlyNode || ctx.Err() != nil || errors.Is(err, build.ErrServerBusy) {
		return false, fmt.Errorf("build in the node: %w", err)
	}
	if !away || !b.nodeOff.Swap(true) {
		stage.Warn("image is built on this machine, since the node cannot", err, "image", event.Name(tag.String()))
	}
	if err := b.buildOnMain(ctx, sink, input); err != nil {
		return false, err
	}
	if !away {
		b.rests.add(input.Name, took)
	}
	return false, nil
}

// nodeBuilder returns the node's builder, nil if there is none or if it does not answer again yet.
func (b *builders) nodeBuilder(ctx context.Context, stage event.Stage) *build.Builder {
	b.node.Lock()
	defer b.node.Unlock()
	if !b.nodeOff.Load() {
		return b.inNode
	}
	if time.Since(b.silent) < nodeWait { // images that are built side by side do not each wait for it
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, nodePing)
	defer cancel()
	inNode, err := b.inNode, error(nil)
	if inNode == nil {
		inNode, err = b.reopen(ctx)
	} else {
		err = inNode.Ping(ctx)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		b.silent = time.Now()
	}
	if err != nil {
		return nil
	}
	b.inNode = inNode
	b.nodeOff.Store(false)
	b.rests.end()
	stage.Note("images are built in the node again", "why", b.inNode.Place().Name+" answers")
	return b.inNode
}

// returns waits for a builder that does not answer: it may be restarting. back is true if it
// answers after an error that this explains, and away if it does not answer in time.
func returns(ctx context.Context, stage event.Stage, builder *build.Builder, err error) (back, away bool) {
	ping := func() error {
		ctx, cancel := context.WithTimeout(ctx, nodePing)
		defer cancel()
		return builder.Ping(ctx)
	}
	if ping() == nil {
		return errors.Is(err, build.ErrBrokeOff), false
	}
	stage.Note("waiting for the node to build again", "for", builder.Place().Name, "at most", nodeWait)
	ctx, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	ticker := time.NewTicker(nodeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, true
		case <-ticker.C:
			if ping() == nil {
				return true, false
			}
		}
	}
}

// buildOnMain makes sure that main has the images that input is built from, and builds.
func (b *builders) buildOnMain(ctx context.Context, sink event.Sink, input build.Input) error {
	if err := b.bringToMain(ctx, sink, input); err != nil {
		return err
	}
	if !b.mainInNode {
		input.Checks = nil // to pass counts only where the image is going to run
	}
	return b.main.Build(ctx, sink, input)
}

// buildInNode makes sure that the node has the images that input is built from, the base images as
// they were hashed, and builds. The build may take as long as limit, unless that is 0.
func (b *builders) buildInNode(
	ctx context.Context, sink event.Sink, inNode *build.Builder, input build.Input, limit time.Duration,
) error {
	if err := b.bringToNode(ctx, sink, inNode, input); err != nil {
		return err
	}
	missing, err := inNode.MissingBases(ctx, input)
	if err == nil && len(missing) > 0 {
		err = b.loadBases(ctx, sink, inNode, input)
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
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("it takes longer than %s", limit.Round(time.Second)))
		defer cancel()
	}
	return inNode.Build(ctx, sink, input)
}

// loadBases loads the base images that the node lacks, for one image at a time, since images share
// them. Where that fails, main can still build.
func (b *builders) loadBases(ctx context.Context, sink event.Sink, inNode *build.Builder, input build.Input) error {
	b.bases.Lock()
	defer b.bases.Unlock()
	missing, err := inNode.MissingBases(ctx, input)
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
