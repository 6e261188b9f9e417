package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/node"
)

// holder is what has to hold an image before a pod can run it.
type holder interface {
	// Missing returns those of tags that are not there.
	Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error)
	Load(ctx context.Context, sink event.Sink, source node.Source, registry *node.Registry, images []node.Wanted) error
}

// openBuilders finds out where images can be built: on this machine, in the node, where nothing has to be moved, or where BUILDKIT_HOST says.
func (s *Session) openBuilders(ctx context.Context) error {
	c := s.config.Load()
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	say := s.sink.For("node")
	s.builder, s.origin = s.host, node.DockerSource{Client: s.docker}
	remote := os.Getenv("BUILDKIT_HOST")
	switch {
	case len(c.Images) == 0:
		return nil
	case c.Push != "" && c.BuildIn == "node":
		return c.Wrong("buildIn", "images that are pushed cannot be built in the node", "use host or auto")
	case remote != "" && c.BuildIn != "node":
		s.builder, s.origin = build.Remote(remote, s.registry, cache), node.BuiltSource{}
		say.Note("images are built by another BuildKit", "why", "BUILDKIT_HOST is "+remote)
		return s.builder.Ping(ctx)
	case c.BuildIn == "host":
		say.Note("images are built on this machine", "why", "buildIn is host")
		return nil
	case c.Push != "":
		say.Note("images are built on this machine", "why", "they are pushed to "+c.Push)
		return nil
	}
	if s.inNode, err = s.openInNode(ctx); err != nil {
		if c.BuildIn == "node" {
			return c.Wrong("buildIn", fmt.Sprintf("images cannot be built in the node: %v", err), "use host or auto")
		}
		say.Note("images are built on this machine", "why", "not in the node: "+err.Error())
		return nil
	}
	say.Note("images are built in the node", "why", "what is built there need not be moved")
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := build.Ping(ctx, s.docker); err != nil {
		say.Note("this machine needs no Docker", "why", err.Error())
		s.builder, s.inNode = s.inNode.SelfHashing(), nil
	}
	return nil
}

// openInNode returns a builder of the node's own Docker or BuildKit that builds what s.builder has hashed, or why there is none.
func (s *Session) openInNode(ctx context.Context) (*build.Builder, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	docker, err := s.nodes.Docker()
	if errors.Is(err, node.ErrOtherRuntime) {
		dial, err := s.nodes.BuildKit()
		if err != nil {
			return nil, err
		}
		return s.builder.InContainerd(ctx, dial, s.nodes)
	}
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, docker.Close)
	if _, err := build.Ping(ctx, docker); err != nil {
		return nil, err
	}
	return s.builder.InDocker(docker), nil
}

// askTimeout is how long a daemon may take to answer at start.
const askTimeout = 10 * time.Second
