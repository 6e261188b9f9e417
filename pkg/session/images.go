package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/node"
	"github.com/devloop/devloop/pkg/watch"
)

// images is the build stage.
type images struct {
	session *Session
	config  *config.Config

	giving sync.Mutex // held while a base image is brought to the node
}

func (i *images) Hash(ctx context.Context) (target *loop.Target, files []watch.Path, err error) {
	target = &loop.Target{}
	var errs []error
	for _, image := range i.config.Images {
		input, err := i.session.builder.Hash(ctx, BuildInput(i.config, image))
		for _, file := range input.Files {
			files = append(files, watch.Path(file))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, ref := range input.Stale {
			if i.session.reported.Changed("stale "+ref, true) {
				reportStale(i.session.sink, ref)
			}
		}
		target.Images = append(target.Images, newImage(image.Name, input))
	}
	return target, files, errors.Join(errs...)
}

// target is what a run takes the platform to, and the configuration that says so.
type target struct {
	*loop.Target
	config *config.Config
}

func newImage(name string, input build.Input) *loop.Image {
	return &loop.Image{Name: name, Tag: input.Tag, Ref: input.Tag.String(), Input: input}
}

// reportStale reports a base image whose registry is out of reach.
func reportStale(sink event.Sink, ref string) {
	sink.For("build").Note("base image could not be looked up, what its registry said last holds", "base", ref)
}

// BuildInput is an image of devloop.yaml as the builder takes it.
func BuildInput(c *config.Config, image config.Image) build.Image {
	var secrets []build.Secret
	for _, secret := range image.Secrets {
		given := build.Secret{ID: secret.ID, Env: secret.Env}
		if secret.File != "" {
			given.File = c.Abs(inHome(secret.File))
		}
		secrets = append(secrets, given)
	}
	var agents []build.SSH
	for _, line := range image.SSH {
		id, paths, several := strings.Cut(line, "=")
		agent := build.SSH{ID: id}
		if several {
			for path := range strings.SplitSeq(paths, ",") {
				agent.Paths = append(agent.Paths, c.Abs(inHome(path)))
			}
		}
		agents = append(agents, agent)
	}
	return build.Image{
		Name:       image.Name,
		Repository: c.Repository(image.Name),
		Dockerfile: c.Abs(image.Dockerfile),
		Context:    c.Abs(image.Context),
		Target:     image.Target,
		Args:       image.Args,
		Platform:   image.Platform,
		Secrets:    secrets,
		SSH:        agents,
	}
}

func (i *images) Has(ctx context.Context, image *loop.Image) (bool, error) {
	return i.session.builder.Has(ctx, image.Tag)
}

func (i *images) Build(ctx context.Context, sink event.Sink, image *loop.Image) error {
	tag, input := image.Tag, image.Input.(build.Input) //nolint:forcetypeassert // as newImage made it
	if err := i.session.journal.Record(journal.Image, tag.String()); err != nil {
		return err
	}
	say := sink.For("build")
	if i.session.inNode == nil {
		return i.session.builder.Build(ctx, sink, input)
	}
	if last := i.session.nodeFailed.Load(); last != nil && time.Since(*last) < nodeRest && i.config.BuildIn != "node" {
		say.Note("image is built on this machine", "image", event.Name(tag.String()),
			"why", "the node could not a few minutes ago")
		return i.session.builder.Build(ctx, sink, input)
	}
	err := i.buildInNode(ctx, sink, input)
	if err == nil {
		return i.session.registry.Untag(tag) // an earlier build here is not what the node holds now
	}
	if !event.IsTransient(err) {
		return err
	}
	if i.config.BuildIn == "node" || ctx.Err() != nil {
		return fmt.Errorf("build in the node: %w", err)
	}
	say.Warn("image is built on this machine, since the node cannot", err, "image", event.Name(tag.String()))
	if err := i.session.builder.Build(ctx, sink, input); err != nil {
		return err
	}
	now := time.Now()
	i.session.nodeFailed.Store(&now)
	return nil
}

// nodeRest is how long nothing is built in a node after it could not and this machine could, as in one without network: each try may take it
// half a minute.
const nodeRest = 10 * time.Minute

// giveBases gives the node the base images that it lacks, one image of ours after the other, since
// they share them.
func (i *images) giveBases(ctx context.Context, sink event.Sink, input build.Input, lacking []name.Tag) error {
	i.giving.Lock()
	defer i.giving.Unlock()
	if len(lacking) == 0 {
		return nil
	}
	lacking, err := i.session.inNode.MissingBases(ctx, input)
	if err != nil {
		return err
	}
	var wanted []node.Wanted
	for _, tag := range lacking {
		wanted = append(wanted, node.Wanted{Name: strings.TrimSuffix(tag.String(), ":"+tag.TagStr()), Tag: tag})
	}
	// Without it, the image can still be built here.
	return event.Transient(i.session.nodes.Load(ctx, sink, i.session.origin, i.session.registry, wanted))
}

// buildInNode sees to it that the node has the base images that the tag stands for, and builds.
func (i *images) buildInNode(ctx context.Context, sink event.Sink, input build.Input) error {
	lacking, err := i.session.inNode.MissingBases(ctx, input)
	if err != nil {
		return err
	}
	if err := i.giveBases(ctx, sink, input, lacking); err != nil {
		return err
	}
	select {
	case i.session.building <- struct{}{}:
		defer func() { <-i.session.building }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return i.session.inNode.Build(ctx, sink, input)
}

// buildsInNode is how many images are built side by side in a node, to which each needs an ssh session.
const buildsInNode = 4
