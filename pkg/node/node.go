// Package node knows what images the nodes of a cluster hold, where to build for them, and gives them what they lack: an image built on
// the host is pulled by each node's own runtime from devloop's registry, through a port that an ssh connection opens on the node's
// loopback, so that only missing layers travel and the runtime itself verifies them.
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

	"github.com/devloop/devloop/pkg/event"
)

// Deadlines of what a node is asked to do.
const (
	askTimeout  = 30 * time.Second
	pullTimeout = 15 * time.Minute // of one image, on this machine
	pushTimeout = 2 * time.Hour    // of one image, by way of whatever network
	// loads is how many images are loaded side by side: sshd allows ten sessions a connection.
	loads = 4
	// cleanupTimeout is for putting things back after the work's own context has ended.
	cleanupTimeout = 10 * time.Second
)

// Cluster is a set of nodes that devloop can hand images to. Find makes one; Close ends its connections.
type Cluster struct {
	name   string
	origin Origin
	start  string // the command that brings it up, where that is known
	certs  string // folder of minikube's certificates for the nodes' Docker daemons
	nodes  []*Node
	known  knownNames
}

// Node is one node of a cluster. It is safe for concurrent use.
type Node struct {
	name    string
	way     way
	runtime runtime
	docker  where  // its daemon is, of use where that is its runtime
	shell   string // what a person types to run a command as root in it, "minikube ssh -- sudo"
}

func (n *Node) run(ctx context.Context, args ...string) (string, error) {
	return n.way.run(ctx, nil, args...)
}

// Close ends the connections to all nodes.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.way.close())
	}
	return errors.Join(errs...)
}

// Start is the command that brings the cluster up, "" where it is not known.
func (c *Cluster) Start() string { return c.start }

// Missing returns those of tags that at least one node lacks. The nodes are not asked for tags that none of them had a few minutes ago and
// that did not come from here since: a build need not wait for that. Somebody else may have brought one meanwhile; then it is
// built in vain, and not moved, since it is asked for again after that.
func (c *Cluster) Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error) {
	if len(c.nodes) == 0 && len(tags) > 0 {
		return nil, event.WithHint(fmt.Errorf("kube context %q is no cluster of minikube, kind or k3d, and devloop does not know how to give images to its nodes", c.name),
			"name a registry that they reach under push in devloop.yaml")
	}
	full := make([]string, len(tags))
	for i, tag := range tags {
		var err error
		if full[i], err = fullName(tag); err != nil {
			return nil, err
		}
	}
	if c.known.noneOf(full) {
		c.known.add(full...)
		return tags, nil
	}
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
	if err := group.Wait(); err != nil {
		return nil, err
	}
	c.known.are(slices.Concat(append(held, full)...))
	var missing []name.Tag
	for i, tag := range tags {
		if slices.ContainsFunc(held, func(names []string) bool { return !slices.Contains(names, full[i]) }) {
			missing = append(missing, tag)
		}
	}
	return missing, nil
}

// knownFor is how long what the nodes held is good enough to know what they do not.
const knownFor = 5 * time.Minute

// knownNames are the images that some node may hold.
type knownNames struct {
	mu    sync.Mutex
	names map[string]bool
	at    time.Time // when the nodes were asked
}

func (k *knownNames) are(names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.names, k.at = map[string]bool{}, time.Now()
	for _, name := range names {
		k.names[name] = true
	}
}

// add is for images that are brought from here, and for those that were asked for: they may be there the next time.
func (k *knownNames) add(names ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		if k.names != nil {
			k.names[name] = true
		}
	}
}

// noneOf reports whether it is known that no node holds any of names.
func (k *knownNames) noneOf(names []string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Since(k.at) <= knownFor && !slices.ContainsFunc(names, func(name string) bool { return k.names[name] })
}

// Give lets every node get the images, which source has, from registry. When it returns without an error, every node holds exactly these
// images under these names.
func (c *Cluster) Give(ctx context.Context, sink event.Sink, source Source, registry *Registry, tags []name.Tag) error {
	return give(ctx, sink, tags, loads, pullTimeout, func(ctx context.Context, tag name.Tag, sent *atomic.Int64) ([]any, error) {
		start := time.Now()
		id, err := registry.take(ctx, source, tag)
		if err != nil {
			return nil, err
		}
		pushed := time.Since(start)
		group, ctx := event.NewGroup(ctx)
		for _, n := range c.nodes {
			group.Go(func() error { return n.take(ctx, registry, tag, id, sent) })
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		if full, err := fullName(tag); err == nil {
			c.known.add(full)
		}
		return []any{"bytes", sent.Load(), "push", pushed.Round(time.Millisecond), "nodes", len(c.nodes)}, nil
	})
}

// give has some images on their way at once, each of them a step. One counts in sent what has left this machine.
func give(ctx context.Context, sink event.Sink, tags []name.Tag, atOnce int, timeout time.Duration,
	one func(ctx context.Context, tag name.Tag, sent *atomic.Int64) ([]any, error)) error {
	say := sink.For("node")
	group, ctx := event.NewGroup(ctx)
	group.SetLimit(atOnce)
	for _, tag := range tags {
		group.Go(func() error {
			say.Note(event.LoadingImage, "image", event.Name(tag.String()))
			return say.Step(ctx, event.ImageLoaded, func(ctx context.Context) ([]any, error) {
				ctx, cancel := context.WithTimeout(ctx, timeout)
				var sent atomic.Int64
				var telling sync.WaitGroup
				defer telling.Wait()
				defer cancel()
				telling.Go(func() { _ = say.Contain("progress", func() { tellSent(ctx, say, tag, &sent) }) })
				return one(ctx, tag, &sent)
			}, "image", event.Name(tag.String()))
		})
	}
	return group.Wait()
}

// beat is how often who looks is told how much has left this machine.
const beat = 200 * time.Millisecond

// tellSent tells how much that is, until ctx ends.
func tellSent(ctx context.Context, say event.Stage, tag name.Tag, sent *atomic.Int64) {
	since := time.Now()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			say.Progress(event.LoadingImage, "image", event.Name(tag.String()), "bytes", sent.Load(), "since", since)
		case <-ctx.Done():
			return
		}
	}
}

// Held is an image as a node holds it.
type Held struct {
	Tag    name.Tag
	Node   string
	Digest string   // as what was built is called; "" if the node does not hold it
	IDs    []string // by which pods and the runtime call it, first the one that pods most likely do
}

// Held asks each node what it holds under these tags.
func (c *Cluster) Held(ctx context.Context, tags []name.Tag) ([]Held, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	held := make([]Held, 0, len(tags)*len(c.nodes))
	for _, tag := range tags {
		for _, n := range c.nodes {
			held = append(held, Held{Tag: tag, Node: n.name})
		}
	}
	group, ctx := event.NewGroup(ctx)
	group.SetLimit(loads)
	for i, tag := range tags {
		full, err := fullName(tag)
		if err != nil {
			return nil, err
		}
		for j, n := range c.nodes {
			at := &held[i*len(c.nodes)+j]
			group.Go(func() (err error) {
				if at.Digest, err = n.runtime.digest(ctx, n, full); err != nil || at.Digest == "" {
					return err
				}
				at.IDs, err = n.runtime.ids(ctx, n, full, at.Digest)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("ask the nodes for images: %w", err)
	}
	return held, nil
}

// take makes the node hold the image under tag, by the way that costs least.
func (n *Node) take(ctx context.Context, registry *Registry, tag name.Tag, want identity, sent *atomic.Int64) error {
	target, err := fullName(tag)
	if err != nil {
		return err
	}
	same, err := n.runtime.find(ctx, n, want)
	switch {
	case err != nil:
	case same != "": // other inputs gave the same content
		if err = n.runtime.tag(ctx, n, same, target); err == nil {
			err = n.verify(ctx, target, want)
		}
	default:
		err = n.pull(ctx, registry, tag, target, want, sent)
		if errors.Is(err, errors.ErrUnsupported) {
			if err = n.load(ctx, registry, tag, target, sent); err == nil {
				err = n.verify(ctx, target, want)
			}
		}
	}
	if err != nil {
		err = fmt.Errorf("load image %s: %w", tag, err)
		if strings.Contains(err.Error(), syscall.ENOSPC.Error()) { // the runtime's words are all there is
			err = event.Transient(event.WithHint(err, "make room on the node: "+n.shell+" crictl rmi --prune"))
		}
	}
	return err
}

// verify takes the image's name away if it is not what was built.
func (n *Node) verify(ctx context.Context, image string, want identity) error {
	got, err := n.runtime.digest(ctx, n, image)
	if err != nil || want.is(got) {
		return err
	}
	return withCleanup(ctx,
		fmt.Errorf("node %s holds %q, not what was built (%s)", n.name, got, strings.Join(want, ", ")),
		func(ctx context.Context) error { return n.runtime.untag(ctx, n, image) })
}

// pull serves the image on the node's loopback for as long as the node's runtime pulls it. It gets
// its name last, as what it has to be.
func (n *Node) pull(ctx context.Context, registry *Registry, tag name.Tag, target string,
	want identity, sent *atomic.Int64) error {
	listener, err := n.way.listen(ctx)
	if err != nil {
		return err
	}
	address := listener.Addr().String()
	handler, err := registry.forNode(address, tag, want, sent)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	server := startServer(listener, handler)
	defer func() { _ = server.close() }() // nothing is left to be lost: the pull has ended
	source := at(address, tag)
	if err = n.runtime.pull(ctx, n, source); err == nil {
		err = n.verify(ctx, source, want)
	}
	if err == nil {
		err = n.runtime.tag(ctx, n, source, target)
	}
	return withCleanup(ctx, err, func(ctx context.Context) error { return n.runtime.untag(ctx, n, source) })
}

// load sends the node an archive of what it lacks of the image, where no port can be opened on it.
func (n *Node) load(ctx context.Context, registry *Registry, tag name.Tag, target string, sent *atomic.Int64) error {
	runtime, ok := n.runtime.(containerdRuntime)
	if !ok {
		return fmt.Errorf("node %s: an image cannot be loaded into %s in this way", n.name, n.runtime.name())
	}
	unpacked, err := runtime.unpacked(ctx, n)
	if err != nil {
		return err
	}
	err = n.send(ctx, runtime, registry, tag, target, unpacked, sent)
	if err != nil && ctx.Err() == nil && len(unpacked) > 0 { // something may have been removed meanwhile
		err = n.send(ctx, runtime, registry, tag, target, nil, sent)
	}
	return err
}

func (n *Node) send(ctx context.Context, runtime containerdRuntime, registry *Registry, tag name.Tag, target string, unpacked map[string]bool, sent *atomic.Int64) error {
	archive, writer := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := event.Guard(func() error {
			return registry.writeArchive(io.MultiWriter(writer, counter{sent}), tag, target, unpacked)
		})
		written <- err
		_ = writer.CloseWithError(err)
	}()
	err := runtime.load(ctx, n, archive, target)
	_ = archive.CloseWithError(io.ErrClosedPipe) // where it was not read to its end
	if problem := <-written; problem != nil && !errors.Is(problem, io.ErrClosedPipe) {
		return problem
	}
	return err
}

// Rename gives the image with one name another, on every node, and takes the first away.
func (c *Cluster) Rename(ctx context.Context, from, to name.Tag) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	source, sourceErr := fullName(from)
	target, targetErr := fullName(to)
	if err := errors.Join(sourceErr, targetErr); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := n.runtime.tag(ctx, n, source, target); err != nil {
			return err
		}
		if err := n.runtime.untag(ctx, n, source); err != nil {
			return err
		}
	}
	c.known.add(target)
	return nil
}

// Remove takes the tag from every node. It is no error if it is not there. The caller makes sure that no pod uses it.
func (c *Cluster) Remove(ctx context.Context, tag name.Tag) error {
	target, err := fullName(tag)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	group, ctx := event.NewGroup(ctx)
	for _, n := range c.nodes {
		group.Go(func() error { return n.runtime.remove(ctx, n, target) })
	}
	return group.Wait()
}

// withCleanup runs cleanup even where ctx has ended, and joins its error to err.
func withCleanup(ctx context.Context, err error, cleanup func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return errors.Join(err, cleanup(ctx))
}
