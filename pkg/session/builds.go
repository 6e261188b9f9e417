package session

import (
	"context"
	"errors"
	"slices"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
)

// BuiltImage is one image as "devloop build --json" prints it.
type BuiltImage struct {
	Name  string `json:"name"`  // in devloop.yaml
	Image string `json:"image"` // with its tag
	Built bool   `json:"built"` // by this call; else Docker held it already
}

// buildImage builds an image and returns its input. If that changes meanwhile, it starts again, as
// the loop does.
func buildImage(
	ctx context.Context, builder *build.Builder, sink event.Sink, image build.Image,
) (found BuiltImage, input build.Input, err error) {
	for {
		input, err = builder.Hash(ctx, image)
		if err != nil {
			return found, input, err
		}
		for _, ref := range input.Stale {
			reportStale(sink, ref)
		}
		found = BuiltImage{Name: image.Name, Image: input.Tag.String()}
		if has, err := builder.Has(ctx, input.Tag); has || err != nil {
			return found, input, err
		}
		err = builder.Build(ctx, sink, input)
		if err == nil {
			found.Built = true
			return found, input, nil
		}
		if !errors.Is(err, event.ErrSuperseded) {
			return found, input, err
		}
	}
}

// BuildAll builds the images that this machine's Docker does not hold.
func BuildAll(ctx context.Context, sink event.Sink, c *config.Config) (built []BuiltImage, err error) {
	builder, leave, err := newBuilder(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, leave()) }()

	built = make([]BuiltImage, len(c.Images))
	inputs := make([]build.Input, len(c.Images))
	var jobs []loop.Job
	for i, image := range c.Images {
		jobs = append(jobs, loop.Job{Name: image.Name, After: image.Bases(), Do: func() error {
			var from []build.Input
			for j, other := range c.Images[:i] {
				if slices.Contains(image.Bases(), other.Name) {
					from = append(from, inputs[j])
				}
			}
			return sink.Stage("build").Guard("build", func() (err error) {
				built[i], inputs[i], err = buildImage(ctx, builder, sink, BuildInput(c, image, from))
				return err
			})
		}})
	}
	if err := loop.RunJobs(jobs); err != nil {
		return nil, err
	}
	return built, nil
}
