// Package node knows which images the nodes of a cluster have, where to build for them, and loads
// the missing ones: each node's own runtime pulls from devloop's registry, through a port that an
// ssh connection opens on the node's loopback. So only missing layers travel, and the runtime
// itself verifies them.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

const (
	askTimeout  = 30 * time.Second // of a question to a node
	pullTimeout = 15 * time.Minute // of one image, on this machine
	pushTimeout = 2 * time.Hour    // of one image, over any network
	// loads is how many images a cluster loads in parallel: sshd allows ten sessions per connection.
	loads = 4
	// cleanupTimeout is for cleaning up after the work's own context has ended.
	cleanupTimeout = 10 * time.Second
	// progressInterval is how often the bytes sent so far are reported.
	progressInterval = 200 * time.Millisecond
)

// Cluster is a set of nodes that devloop can load images into. Find makes one.
type Cluster struct {
	name   string
	origin Origin
	certs  string // folder of minikube's certificates for the nodes' Docker daemons
	nodes  []*node
	known  knownNames
	look   func(context.Context, []*node) event.Cluster // at its machines; nil if they are not known

	machines *client.Client // the daemon that may run them; nil for none
	loading  chan struct{}  // has a slot for each image that is loaded in parallel
}

// node is one node of a cluster. It is safe for concurrent use.
type node struct {
	name      string
	transport transport
	runtime   runtime
	docker    addressFunc // of its Docker daemon, if that is the runtime
	shell     string      // what a user types to run a command as root on it, "minikube ssh -- sudo"
	pids      knownPIDs
	manifests knownManifests

	controlPlane bool // it runs the API server; known of containers only
}

func (n *node) run(ctx context.Context, args ...string) (string, error) {
	out, err := n.transport.run(ctx, nil, args...)
	if err != nil && slices.ContainsFunc(runtimeAway,
		func(text string) bool { return strings.Contains(err.Error(), text) }) {
		err = event.Transient(event.WithHint(fmt.Errorf("the %s of the node does not answer: %w", n.runtime.name(), err),
			"see why it does not run: "+n.shell+" systemctl status "+n.runtime.name()))
	}
	return out, err
}

// runtimeAway are texts of the runtimes' commands about a daemon that does not answer.
var runtimeAway = []string{
	"Cannot connect to the Docker daemon", "error during connect", `failed to dial "/run/containerd/`,
}

// Close ends the connections to all nodes.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.transport.close())
	}
	if c.machines != nil {
		errs = append(errs, c.machines.Close())
	}
	return errors.Join(errs...)
}

// Missing returns those of tags that at least one node does not have. Within knownFor, the nodes
// are not asked again about tags that none of them had and that were not loaded from here: a build
// need not wait for that. If another process loaded one meanwhile, it is built in vain.
func (c *Cluster) Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error) {
	if len(c.nodes) == 0 && len(tags) > 0 {
		return nil, event.WithHint(fmt.Errorf("kube context %q is no cluster of minikube, kind or k3d, "+
			"so devloop cannot load images into its nodes", c.name),
			"push images to a registry that they can reach: --set push=REGISTRY")
	}
	names := make([]string, len(tags))
	for i, tag := range tags {
		names[i] = fullName(tag)
	}
	if c.known.noneOf(names) {
		c.known.add(names...)
		return tags, nil
	}
	held, err := c.names(ctx)
	if err != nil {
		return nil, err
	}
	missing := map[name.Tag]bool{}
	for _, present := range held {
		names = append(names, present...)
		there := setOf(present)
		for _, tag := range tags {
			missing[tag] = missing[tag] || !there[fullName(tag)]
		}
	}
	c.known.set(names)
	return only(tags, missing), nil
}

// Present returns those of tags that some node has. Unlike Missing, it always asks.
func (c *Cluster) Present(ctx context.Context, tags []name.Tag) ([]name.Tag, error) {
	held, err := c.names(ctx)
	if err != nil {
		return nil, err
	}
	present := map[name.Tag]bool{}
	for _, tag := range tags {
		present[tag] = slices.ContainsFunc(held, func(names []string) bool { return slices.Contains(names, fullName(tag)) })
	}
	return only(tags, present), nil
}

// names returns the names of the images of each node.
func (c *Cluster) names(ctx context.Context) ([][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	held := make([][]string, len(c.nodes))
	group, ctx := event.NewGroup(ctx)
	for i, n := range c.nodes {
		group.Go(func() (err error) {
			held[i], err = n.runtime.names(ctx, n)
			return err
		})
	}
	return held, group.Wait()
}

func setOf(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

// only returns the tags that are true in which, in their order.
func only(tags []name.Tag, which map[name.Tag]bool) []name.Tag {
	return slices.DeleteFunc(slices.Clone(tags), func(tag name.Tag) bool { return !which[tag] })
}

// knownFor is how long an answer of the nodes, or of a registry, about an image counts.
const knownFor = 5 * time.Minute

// knownNames are the full names of images that some node may have.
type knownNames struct {
	mu    sync.Mutex
	names map[string]bool
	asked time.Time
}

// set is for an answer of the nodes. Names of before stay for as long as it counts: an image may
// have been on its way while the nodes answered.
func (k *knownNames) set(names []string) {
	k.mu.Lock()
	if k.names == nil || time.Since(k.asked) > knownFor {
		k.names = map[string]bool{}
	}
	k.asked = time.Now()
	k.mu.Unlock()
	k.add(names...)
}

// add is for images that were loaded from here, or asked for: they may be there the next time.
func (k *knownNames) add(names ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		if k.names != nil {
			k.names[name] = true
		}
	}
}

// noneOf reports whether no node is known to have any of names.
func (k *knownNames) noneOf(names []string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Since(k.asked) <= knownFor &&
		!slices.ContainsFunc(names, func(name string) bool { return k.names[name] })
}

// Wanted is an image to load.
type Wanted struct {
	Name string // in devloop.yaml; of a base image, its repository
	Tag  name.Tag
}

// Load loads the images of source into every node, through registry. Afterwards every node has
// exactly these images under their tags.
func (c *Cluster) Load(ctx context.Context, sink event.Sink, source Source, registry *Registry,
	images []Wanted) error {
	load := func(ctx context.Context, tag name.Tag, sent *atomic.Int64) ([]any, error) {
		start := time.Now()
		image, err := registry.receive(ctx, source, tag)
		if err != nil {
			return nil, err
		}
		pushed := time.Since(start)
		group, ctx := event.NewGroup(ctx)
		for _, n := range c.nodes {
			group.Go(func() error { return n.load(ctx, registry, tag, image, sent) })
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		c.known.add(fullName(tag))
		return []any{"push", pushed.Round(time.Millisecond), "nodes", len(c.nodes)}, nil
	}
	return loadEach(ctx, sink, images, c.loading, pullTimeout, load)
}

// loadEach loads images as one step each, in parallel as far as slots are free. load adds to sent
// the bytes that have left this machine, and returns more fields of the step's event.
func loadEach(ctx context.Context, sink event.Sink, images []Wanted, slots chan struct{}, timeout time.Duration,
	load func(ctx context.Context, tag name.Tag, sent *atomic.Int64) ([]any, error)) error {
	stage := sink.Stage("node")
	group, ctx := event.NewGroup(ctx)
	for _, image := range images {
		group.Go(func() error {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			loading := event.Loading{Image: event.Image{Name: event.Name(image.Name),
				Tag: event.Name(image.Tag.TagStr()), Ref: event.Name(image.Tag.String())}}
			stage.Note(event.LoadingImage, loading)
			return stage.Step(ctx, event.ImageLoaded, func(ctx context.Context) ([]any, error) {
				ctx, cancel := context.WithTimeout(ctx, timeout)
				var sent atomic.Int64
				var reporting sync.WaitGroup
				defer reporting.Wait()
				defer cancel()
				reporting.Go(func() {
					_ = stage.Recover("progress", func() { reportProgress(ctx, stage, loading, &sent) })
				})
				fields, err := load(ctx, image.Tag, &sent)
				if err != nil {
					return nil, err
				}
				return append([]any{event.Loaded{Image: loading.Image, Bytes: sent.Load()}}, fields...), nil
			}, loading)
		})
	}
	return group.Wait()
}

// reportProgress reports the bytes sent until ctx ends.
func reportProgress(ctx context.Context, stage event.Stage, loading event.Loading, sent *atomic.Int64) {
	loading.Since = time.Now()
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			loading.Bytes = sent.Load()
			stage.Progress(event.LoadingImage, loading)
		case <-ctx.Done():
			return
		}
	}
}

// Image is an image as one node has it.
type Image struct {
	Tag    name.Tag
	Node   string
	Digest string   // as what was built is called, "" if the node does not have it
	IDs    []string // by which pods and the runtime call it, the likeliest for pods first
}

// Inspect asks each node what it has under these tags.
func (c *Cluster) Inspect(ctx context.Context, tags []name.Tag) ([]Image, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	all := make([]Image, len(tags)*len(c.nodes)) // each goroutine fills its own
	group, ctx := event.NewGroup(ctx)
	for at, n := range c.nodes {
		group.Go(func() error { // each has a connection of its own
			ofNode, ctx := event.NewGroup(ctx)
			ofNode.SetLimit(loads)
			for i, tag := range tags {
				image := &all[i*len(c.nodes)+at]
				image.Tag, image.Node = tag, n.name
				ofNode.Go(func() (err error) {
					name := fullName(tag)
					if image.Digest, err = n.runtime.digest(ctx, n, name); err != nil || image.Digest == "" {
						return err
					}
					image.IDs, err = n.runtime.ids(ctx, n, name, image.Digest)
					return err
				})
			}
			return ofNode.Wait()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("ask the nodes for images: %w", err)
	}
	return all, nil
}

// load makes the node have the image under tag, by the cheapest method.
func (n *node) load(ctx context.Context, registry *Registry, tag name.Tag, image *storedImage,
	sent *atomic.Int64) error {
	target := fullName(tag)
	same, err := n.runtime.find(ctx, n, image.ids)
	switch {
	case err != nil:
	case same != "": // other inputs gave the same content
		if err = n.runtime.tag(ctx, n, same, target); err == nil {
			err = n.verify(ctx, target, image)
		}
	default:
		err = n.pull(ctx, registry, tag, image, sent)
		if errors.Is(err, errors.ErrUnsupported) {
			if err = n.importMissing(ctx, registry, target, image, sent); err == nil {
				err = n.verify(ctx, target, image)
			}
		}
	}
	if err != nil {
		err = fmt.Errorf("load image %s: %w", tag, err)
		if strings.Contains(err.Error(), syscall.ENOSPC.Error()) { // runtimes report it as text only
			err = event.Transient(event.WithHint(err, "make room on the node: "+n.shell+" crictl rmi --prune"))
		}
	}
	return err
}

// verify removes the image's name if it is not what was built.
func (n *node) verify(ctx context.Context, name string, image *storedImage) error {
	got, err := n.runtime.digest(ctx, n, name)
	if err != nil || image.is(got) {
		return err
	}
	return withCleanup(ctx,
		fmt.Errorf("node %s holds %q, not what was built (%s)", n.name, got, strings.Join(image.ids, ", ")),
		func(ctx context.Context) error { return n.runtime.untag(ctx, n, name) })
}

// pull serves the image on the node's loopback while the node's runtime pulls it. The image gets
// its name when it is verified. It is errors.ErrUnsupported if no port can be opened on the node.
func (n *node) pull(ctx context.Context, registry *Registry, tag name.Tag, image *storedImage,
	sent *atomic.Int64) error {
	listener, err := n.transport.listen(ctx)
	if err != nil {
		return err
	}
	address := listener.Addr().String()
	stop := serve(listener, sent, registry.forNode(address, tag, image))
	defer func() { _ = stop() }() // the pull has ended
	source := at(address, tag)
	if err = n.runtime.pull(ctx, n, source); err == nil {
		err = n.verify(ctx, source, image)
	}
	if err == nil {
		err = n.runtime.tag(ctx, n, source, fullName(tag))
	}
	return withCleanup(ctx, err, func(ctx context.Context) error { return n.runtime.untag(ctx, n, source) })
}

// importMissing sends the node an archive without the layers that it has.
func (n *node) importMissing(ctx context.Context, registry *Registry, target string, image *storedImage,
	sent *atomic.Int64) error {
	runtime, ok := n.runtime.(containerdRuntime)
	if !ok {
		return fmt.Errorf("node %s: %s cannot import an image without some of its layers", n.name, n.runtime.name())
	}
	unpacked, err := runtime.unpacked(ctx, n)
	if err != nil {
		return err
	}
	send := func(unpacked map[string]bool) error {
		archive, writer := io.Pipe()
		written := make(chan error, 1)
		go func() {
			err := event.Guard(func() error {
				return registry.writeArchive(ctx, io.MultiWriter(writer, counter{sent}), image, target, unpacked)
			})
			written <- err
			_ = writer.CloseWithError(err)
		}()
		err := runtime.importArchive(ctx, n, archive, target)
		_ = archive.CloseWithError(io.ErrClosedPipe) // the runtime may not have read all of it
		if writeErr := <-written; writeErr != nil && !errors.Is(writeErr, io.ErrClosedPipe) {
			return writeErr
		}
		return err
	}
	err = send(unpacked)
	if err != nil && ctx.Err() == nil && len(unpacked) > 0 { // a layer may have been removed meanwhile
		err = send(nil)
	}
	return err
}

// Rename gives the image another name on every node, and removes the first. The nodes have
// containerd.
func (c *Cluster) Rename(ctx context.Context, from, to name.Tag) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, n := range c.nodes {
		if err := (containerdRuntime{}).rename(ctx, n, fullName(from), fullName(to)); err != nil {
			return err
		}
	}
	c.known.add(fullName(to))
	return nil
}

// Remove removes the tag from every node. It is no error if a node does not have it. The caller
// makes sure that no pod uses it.
func (c *Cluster) Remove(ctx context.Context, tag name.Tag) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	group, ctx := event.NewGroup(ctx)
	for _, n := range c.nodes {
		group.Go(func() error { return n.runtime.remove(ctx, n, fullName(tag)) })
	}
	return group.Wait()
}

// withCleanup runs cleanup even if ctx has ended, and joins its error to err.
func withCleanup(ctx context.Context, err error, cleanup func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return errors.Join(err, cleanup(ctx))
}
