// devloop build: the images alone, in Docker; no cluster is needed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
)

// builtImage is one image as "devloop build --json" prints it.
type builtImage struct {
	Name  string `json:"name"`  // in devloop.yaml
	Image string `json:"image"` // with its tag
	Built bool   `json:"built"` // by this call; else Docker held it already
}

func newBuildCommand(o *options) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the images, and print their names",
		Long: `Builds the images that Docker does not hold yet, and prints all of them with their tags on standard output. The cluster is not
asked and not changed.`,
		Example: `  devloop build
  devloop build --json | jq -r '.[].image'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			images, err := buildImages(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(dataOut(cmd), images)
			}
			return printImages(cmd.OutOrStdout(), images)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printImages(w io.Writer, images []builtImage) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, image := range images {
		if _, err := fmt.Fprintf(table, "%s\t%s\n", image.Name, image.Image); err != nil {
			return err
		}
	}
	return table.Flush()
}

func buildImages(ctx context.Context, o *options) (built []builtImage, err error) {
	ctx, p, err := o.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer p.end()
	builder, leave, err := newBuilder(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, leave()) }()

	built = make([]builtImage, len(p.config.Images))
	errs := make([]error, len(built))
	var group sync.WaitGroup
	for i, image := range p.config.Images {
		group.Go(func() {
			errs[i] = p.sink.For("build").Guard("build", func() (err error) {
				built[i], err = buildImage(ctx, builder, p.sink, buildInput(p.config, image))
				return err
			})
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		if ctx.Err() != nil {
			return nil, console.ErrInterrupted
		}
		return nil, loop.Telling(errs)
	}
	return built, nil
}

// newBuilder returns a builder of the Docker daemon, which has to answer. Leave ends its connections.
func newBuilder(ctx context.Context) (builder *build.Builder, leave func() error, err error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, nil, err
	}
	docker, err := openDocker()
	if err != nil {
		return nil, nil, console.EnvironmentError{Err: err}
	}
	if _, err := build.Ping(ctx, docker); err != nil {
		return nil, nil, console.EnvironmentError{Err: errors.Join(err, docker.Close())}
	}
	return build.New(docker, cache), docker.Close, nil
}

// newHasher is newBuilder for who only hashes.
func newHasher(ctx context.Context, c *config.Config) (hasher *build.Builder, leave func() error, err error) {
	if remote := os.Getenv("BUILDKIT_HOST"); remote != "" && c.BuildIn != "node" {
		cache, err := cacheDir()
		return build.Remote(remote, nil, cache), func() error { return nil }, err
	}
	hasher, leave, err = newBuilder(ctx)
	if err == nil || c.BuildIn == "host" || c.Push != "" {
		return hasher, leave, err
	}
	if hasher, leave, nodeErr := newNodeHasher(ctx, c); nodeErr == nil {
		return hasher, leave, nil
	}
	return nil, nil, err // what most people lack
}

// newNodeHasher is newHasher where the node builds, and this machine has no Docker.
func newNodeHasher(ctx context.Context, c *config.Config) (hasher *build.Builder, leave func() error, err error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, nil, err
	}
	s := &session{}
	if _, err := s.findNodes(ctx, c); err != nil {
		return nil, nil, errors.Join(err, s.close())
	}
	s.builder = build.New(s.docker, cache)
	inNode, err := s.openInNode(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, s.close())
	}
	return inNode.Alone(), s.close, nil
}

// buildImage builds an image whose inputs may change meanwhile: the newest state wins, as it does in the loop.
func buildImage(ctx context.Context, builder *build.Builder, sink event.Sink, image build.Image) (builtImage, error) {
	for {
		input, err := builder.Hash(ctx, image)
		if err != nil {
			return builtImage{}, err
		}
		for _, ref := range input.Stale {
			tellStale(sink, ref)
		}
		found := builtImage{Name: image.Name, Image: input.Tag.String()}
		if has, err := builder.Has(ctx, input.Tag); has || err != nil {
			return found, err
		}
		err = builder.Build(ctx, sink, input)
		if err == nil {
			found.Built = true
			return found, nil
		}
		if !errors.Is(err, event.ErrSuperseded) {
			return builtImage{}, err
		}
	}
}

// cacheDir is where devloop keeps what it can get again: charts, image layers, what registries
// said. Nobody else can look into it, also not into one that an earlier version made.
func cacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", event.WithHint(fmt.Errorf("find a folder for devloop's cache: %w", err), "set XDG_CACHE_HOME or HOME")
	}
	dir := filepath.Join(cache, "devloop")
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.Chmod(dir, 0o700)
	}
	if err != nil {
		return "", event.WithHint(fmt.Errorf("make devloop's cache a folder of yours alone: %w", err),
			"set XDG_CACHE_HOME to a folder that is yours, on a file system with permissions")
	}
	return dir, nil
}
