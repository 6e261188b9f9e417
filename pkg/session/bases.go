package session

// Images that are built from others of the project. The loop builds those first, but not always
// where these are built then.

import (
	"context"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/node"
)

// isBase reports whether other images are built from an image.
func isBase(c *config.Config, image string) bool {
	return slices.ContainsFunc(c.Images, func(other config.Image) bool { return slices.Contains(other.Bases(), image) })
}

// bringToNode makes sure that the node has the project's images that input is built from: main had
// built them, or an earlier run had.
func (b *builders) bringToNode(ctx context.Context, sink event.Sink, inNode *build.Builder, input build.Input) error {
	return b.bring(ctx, inNode, input, func(base build.Input) error {
		onMain, err := b.main.Has(ctx, base.Tag)
		switch {
		case err != nil:
			return err
		case onMain:
			return event.Transient(b.load(ctx, sink, base))
		}
		if err := b.passed.forget(base.Tag); err != nil {
			return err
		}
		if err := b.buildInNode(ctx, sink, inNode, base, 0); err != nil {
			return err
		}
		return b.registry.Untag(base.Tag)
	})
}

// bringToMain makes sure that main has the project's images that input is built from. A node does
// not give away what it has: main builds it, too.
func (b *builders) bringToMain(ctx context.Context, sink event.Sink, input build.Input) error {
	return b.bring(ctx, b.main, input, func(base build.Input) error {
		if err := b.bringToMain(ctx, sink, base); err != nil {
			return err
		}
		if err := b.journal.Record(journal.Image, base.Tag.String()); err != nil {
			return err
		}
		if missing, err := b.nodes.Missing(ctx, []name.Tag{base.Tag}); err == nil && len(missing) > 0 {
			return b.main.Build(ctx, sink, base)
		}
		sink.Stage("build").Note("image is built on this machine, too, for one that is built from it",
			"image", event.Name(base.Tag.String()), "for", event.Name(input.Tag.String()))
		if err := b.main.BuildCopy(ctx, sink, base); err != nil {
			return err
		}
		if _, inRegistry := b.source.(node.BuiltSource); inRegistry { // what is there is what nodes have
			return b.load(ctx, sink, base)
		}
		return nil
	})
}

// bring calls get for each of the project's images that input is built from and that is not there.
// Images that are built side by side share one call.
func (b *builders) bring(
	ctx context.Context, to *build.Builder, input build.Input, get func(base build.Input) error,
) error {
	missing, err := to.MissingFrom(ctx, input)
	for _, base := range missing {
		if err != nil {
			break
		}
		_, err, _ = b.brought.Do(to.Place().Name+" "+base.Tag.String(), func() (any, error) {
			return nil, event.Guard(func() error { return get(base) })
		})
	}
	return err
}

// load loads an image that main has into the nodes, unless they hold it by then.
func (b *builders) load(ctx context.Context, sink event.Sink, image build.Input) error {
	unlock, err := b.loads.lock(ctx, image.Tag)
	if err != nil {
		return err
	}
	defer unlock()
	if missing, err := b.nodes.Missing(ctx, []name.Tag{image.Tag}); err != nil || len(missing) == 0 {
		return err
	}
	return b.nodes.Load(ctx, sink, b.source, b.registry, []node.Wanted{{Name: image.Name, Tag: image.Tag}})
}
