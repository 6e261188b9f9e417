// Package node knows what images the nodes of a cluster hold and gives them what they lack: an image built on the host is
// pulled by each node's own runtime from devloop's registry, through a port that an ssh connection opens on the node's
// loopback, so that only missing layers travel and the runtime itself verifies them.
package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/devloop/devloop/pkg/event"
)

// Deadlines of what a node is asked to do.
const (
	askTimeout  = 30 * time.Second
	pullTimeout = 10 * time.Minute
	// loads is how many images are loaded side by side: sshd allows ten sessions a connection.
	loads = 4
	// cleanupTimeout is for putting things back after the work's own context has ended.
	cleanupTimeout = 10 * time.Second
)

// Cluster is a set of nodes that devloop can hand images to. Find makes one; Close ends its connections.
type Cluster struct {
	name  string
	certs string // folder of the certificates for the nodes' Docker daemons
	nodes []*Node
	known knownNames
}

// Close ends the connections to all nodes.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.close())
	}
	return errors.Join(errs...)
}

// Missing returns those of tags that at least one node lacks. The nodes are not asked for tags that none of them had a few minutes ago and
// that did not come from here since: a build need not wait for that. Somebody else may have brought one meanwhile; then it is
// built in vain, and not moved, since it is asked for again after that.
func (c *Cluster) Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error) {
	if len(c.nodes) == 0 && len(tags) > 0 {
		return nil, event.WithHint(fmt.Errorf("kube context %q is no minikube profile, and devloop does not know how to give images to its nodes", c.name),
			"use a minikube context, or have no images in devloop.yaml")
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
	group, ctx := errgroup.WithContext(ctx)
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

// Give lets every node pull the images, which the host's Docker daemon holds, from registry. When it returns without an
// error, every node holds exactly these images under these names.
func (c *Cluster) Give(ctx context.Context, sink event.Sink, docker *client.Client, registry *Registry, tags []name.Tag) error {
	say := sink.For("node")
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loads)
	for _, tag := range tags {
		group.Go(func() error {
			say.Note("loading image", "image", tag.String())
			return say.Step(ctx, "image loaded", func(ctx context.Context) ([]any, error) {
				start := time.Now()
				id, err := registry.push(ctx, docker, tag)
				if err != nil {
					return nil, fmt.Errorf("push image %s to devloop's registry: %w", tag, err)
				}
				pushed := time.Since(start)
				var sent atomic.Int64
				if err := c.pullEverywhere(ctx, registry, tag, id, &sent); err != nil {
					return nil, err
				}
				return []any{"bytes", sent.Load(), "push", pushed.Round(time.Millisecond), "nodes", len(c.nodes)}, nil
			}, "image", tag.String())
		})
	}
	return group.Wait()
}

func (c *Cluster) pullEverywhere(ctx context.Context, registry *Registry, tag name.Tag, id identity, sent *atomic.Int64) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		group.Go(func() error { return n.pull(ctx, registry, tag, id, sent) })
	}
	return group.Wait()
}

// pull serves the registry on the node's loopback for as long as the node's runtime pulls tag from it.
func (n *Node) pull(ctx context.Context, registry *Registry, tag name.Tag, want identity, sent *atomic.Int64) error {
	target, err := fullName(tag)
	if err != nil {
		return err
	}
	listener, err := n.listen(ctx)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: registry.counted(sent), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // ends with Close
	}()
	defer func() {
		_ = server.Close() // nothing is left to be lost: the pull has ended
		<-served
	}()
	source := listener.Addr().String() + "/" + tag.RepositoryStr() + ":" + tag.TagStr()
	if err := n.runtime.pull(ctx, n, source, target); err != nil {
		err = fmt.Errorf("load image %s: %w", tag, err)
		if strings.Contains(err.Error(), syscall.ENOSPC.Error()) { // the runtime's words are all there is
			err = event.Transient(event.WithHint(err, "make room on the node: minikube ssh -n "+n.name+" -- sudo crictl rmi --prune"))
		}
		return err
	}
	got, err := n.runtime.digest(ctx, n, target)
	if err != nil {
		return err
	}
	if !want.is(got) {
		return withCleanup(ctx, fmt.Errorf("load image %s: node %s holds %q, not what was built (%s)", tag, n.name, got, want.config),
			func(ctx context.Context) error { return n.runtime.remove(ctx, n, target) })
	}
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
	group, ctx := errgroup.WithContext(ctx)
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
