package session

import (
	"context"
	"fmt"
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
	config    *config.Config
	unchecked bool // builds try no checks: no run waits for these images
}

func (i imageStage) Hash(ctx context.Context) (target *loop.Target, files []watch.Path, err error) {
	inputs, err := HashInputs(ctx, i.main, i.config)
	for _, input := range inputs {
		for _, file := range input.Files {
			files = append(files, watch.Path(file))
		}
		for _, ref := range input.Stale {
			if i.reported.Changed("stale "+ref, true) {
				reportStale(i.sink, ref)
			}
		}
		if input.Synced == nil {
			continue
		}
		for _, wrong := range input.Synced.LeftOut {
			problem := locateRule(i.config, input.Name, wrong)
			if i.reported.Changed(fmt.Sprintf("sync %s %d", input.Name, wrong.Rule), problem.Error()) {
				i.sink.Stage(event.ConfigStage).Warn("files are not synced, the image is built again instead", problem)
			}
		}
	}
	if len(i.config.Images) > 0 { // docker login may be what a base image needs
		files = append(files, watch.Path{Name: filepath.Join(dockerconfig.Dir(), dockerconfig.ConfigFileName)})
	}
	for n := range inputs {
		inputs[n].Checks = i.podOnly.inBuild(i.config, inputs[n])
	}
	target = newTarget(inputs)
	target.Pushed = i.config.Push != ""
	return target, files, err
}

func (i imageStage) Build(ctx context.Context, sink event.Sink, image *loop.Image) (loaded bool, err error) {
	if err := i.passed.forget(image.Tag); err != nil { // the nodes get another image of this tag
		return false, err
	}
	onHost, err := i.main.Has(ctx, image.Tag)
	if err != nil {
		return false, err
	}
	input, toMove := inputsOf(image), int64(0)
	if i.unchecked {
		input.Checks = nil
	}
	if onHost {
		if toMove = i.toMove(ctx, image.Tag, input); toMove <= littleToMove {
			sink.Stage("build").Note(event.ImageFound, event.FoundImage{Image: image.Event(), On: "host"})
			return false, nil
		}
	}
	if err := i.journal.Record(journal.Image, image.Tag.String()); err != nil {
		return false, err
	}
	if onHost {
		return i.buildFound(ctx, sink, input, toMove)
	}
	if input.Tag != image.Tag {
		return false, fmt.Errorf("image %s: it is no longer known what %s was built from", image.Name, image.Tag)
	}
	return i.build(ctx, sink, i.config.BuildIn, image.Tag, input)
}

// target is a run's target with the configuration that it was made from.
type target struct {
	*loop.Target
	config *config.Config
}

// newTarget returns the target of a run.
func newTarget(inputs []build.Input) *loop.Target {
	target := &loop.Target{}
	for _, input := range inputs {
		image := &loop.Image{Name: input.Name, Tag: input.Tag, Ref: input.Tag.String(), Input: input}
		if input.Synced != nil && len(input.Synced.LeftOut) < len(input.Sync) {
			image.Rest = input.Synced.Rest
		}
		for _, from := range input.From {
			image.Bases = append(image.Bases, from.Name)
		}
		target.Images = append(target.Images, image)
	}
	return target
}

// inputsOf returns what an image of a target is made of.
func inputsOf(image *loop.Image) build.Input {
	return image.Input.(build.Input) //nolint:forcetypeassert // as newTarget made it
}

// reportStale reports a base image whose registry is out of reach.
func reportStale(sink event.Sink, ref string) {
	sink.Stage("build").Note("the registry of a base image cannot be reached, its last answer is used", "base", ref)
}

// BuildInput converts an image of devloop.yaml for the builder. from has the images that it may be
// built from; those that are not hashed yet appear in its arguments without a tag.
func BuildInput(c *config.Config, image config.Image, from []build.Input) build.Image {
	reference := func(name string) string {
		for _, input := range from {
			if input.Name == name {
				return input.Tag.String()
			}
		}
		return c.Repository(name)
	}
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
	var rules []build.SyncRule
	for _, rule := range image.Sync {
		rules = append(rules, build.SyncRule{From: rule.From, To: rule.To})
	}
	return build.Image{
		Name:       image.Name,
		Repository: c.Repository(image.Name),
		Dockerfile: c.Abs(image.Dockerfile),
		Context:    c.Abs(image.Context),
		Target:     image.Target,
		Args:       image.ResolveArgs(reference),
		Platform:   image.Platform,
		From:       from,
		Secrets:    secrets,
		SSH:        agents,
		Sync:       rules,

		LenientSync: c.Format != "",
	}
}
