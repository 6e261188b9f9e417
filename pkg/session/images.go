package session

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	dockerconfig "github.com/docker/cli/cli/config"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/watch"
)

// imageStage is the build stage of a run.
type imageStage struct {
	*builders
	config *config.Config
}

func (i imageStage) Hash(ctx context.Context) (target *loop.Target, files []watch.Path, err error) {
	target = &loop.Target{}
	var errs []error
	for _, image := range i.config.Images {
		input, err := i.main.Hash(ctx, BuildInput(i.config, image))
		for _, file := range input.Files {
			files = append(files, watch.Path(file))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, ref := range input.Stale {
			if i.reported.Changed("stale "+ref, true) {
				reportStale(i.sink, ref)
			}
		}
		target.Images = append(target.Images, newImage(image.Name, input))
	}
	if len(i.config.Images) > 0 { // docker login may be what a base image needs
		files = append(files, watch.Path{Name: filepath.Join(dockerconfig.Dir(), dockerconfig.ConfigFileName)})
	}
	return target, files, errors.Join(errs...)
}

func (i imageStage) Has(ctx context.Context, image *loop.Image) (bool, error) {
	return i.main.Has(ctx, image.Tag)
}

func (i imageStage) Build(ctx context.Context, sink event.Sink, image *loop.Image) error {
	if err := i.journal.Record(journal.Image, image.Tag.String()); err != nil {
		return err
	}
	input := image.Input.(build.Input) //nolint:forcetypeassert // as newImage made it
	return i.build(ctx, sink, i.config.BuildIn, image.Tag, input)
}

// target is a run's target with the configuration that it was made from.
type target struct {
	*loop.Target
	config *config.Config
}

func newImage(name string, input build.Input) *loop.Image {
	return &loop.Image{Name: name, Tag: input.Tag, Ref: input.Tag.String(), Input: input}
}

// reportStale reports a base image whose registry is out of reach.
func reportStale(sink event.Sink, ref string) {
	sink.Stage("build").Note("the registry of a base image cannot be reached, its last answer is used", "base", ref)
}

// BuildInput converts an image of devloop.yaml for the builder.
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
