package session

import (
	"context"
	"errors"
	"sync"

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

// buildImage builds an image. If its inputs change meanwhile, it starts again, as the loop does.
func buildImage(ctx context.Context, builder *build.Builder, sink event.Sink, image build.Image) (BuiltImage, error) {
	for {
		input, err := builder.Hash(ctx, image)
		if err != nil {
			return BuiltImage{}, err
		}
		for _, ref := range input.Stale {
			reportStale(sink, ref)
		}
		found := BuiltImage{Name: image.Name, Image: input.Tag.String()}
		if has, err := builder.Has(ctx, input.Tag); has || err != nil {
			return found, err
		}
		err = builder.Build(ctx, sink, input)
		if err == nil {
			found.Built = true
			return found, nil
		}
		if !errors.Is(err, event.ErrSuperseded) {
			return BuiltImage{}, err
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
	errs := make([]error, len(built))
	var group sync.WaitGroup
	for i, image := range c.Images {
		group.Go(func() {
			errs[i] = sink.Stage("build").Guard("build", func() (err error) {
				built[i], err = buildImage(ctx, builder, sink, BuildInput(c, image))
				return err
			})
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, loop.JoinHinted(errs)
	}
	return built, nil
}
