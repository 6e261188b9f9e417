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
	nodes []*Node
}

// Close ends the connections to all nodes.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.close())
	}
	return errors.Join(errs...)
}

// Missing returns those of tags that at least one node lacks.
func (c *Cluster) Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	held, err := c.images(ctx)
	if err != nil {
		return nil, err
	}
	var missing []name.Tag
	for _, tag := range tags {
		full, err := fullName(tag)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(held, func(images map[string]string) bool { return images[full] == "" }) {
			missing = append(missing, tag)
		}
	}
	return missing, nil
}

// images asks every node what it holds, in the order of c.nodes.
func (c *Cluster) images(ctx context.Context) ([]map[string]string, error) {
	held := make([]map[string]string, len(c.nodes))
	group, ctx := errgroup.WithContext(ctx)
	for i, n := range c.nodes {
		group.Go(func() (err error) {
			held[i], err = n.runtime.images(ctx, n)
			return err
		})
	}
	return held, group.Wait()
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
	held, err := n.runtime.images(ctx, n)
	if err != nil {
		return err
	}
	if got := held[target]; !want.is(got) {
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
