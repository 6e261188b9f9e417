package session

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/distribution/reference"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/node"
)

// newBuilder returns a builder of this machine's Docker daemon, which must answer. leave closes it.
func newBuilder(ctx context.Context) (builder *build.Builder, leave func() error, err error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, nil, err
	}
	docker, err := OpenDocker()
	if err != nil {
		return nil, nil, console.EnvironmentError{Err: err}
	}
	if _, err := build.Ping(ctx, docker); err != nil {
		return nil, nil, console.EnvironmentError{Err: errors.Join(err, docker.Close())}
	}
	return build.New(docker, cache), docker.Close, nil
}

// newHasher is newBuilder for hashing only, which a node or BUILDKIT_HOST can do as well.
func newHasher(ctx context.Context, c *config.Config) (hasher *build.Builder, leave func() error, err error) {
	if remote := os.Getenv("BUILDKIT_HOST"); remote != "" && c.BuildIn != "node" {
		cache, err := CacheDir()
		return build.Remote(remote, nil, cache), func() error { return nil }, err
	}
	hasher, leave, err = newBuilder(ctx)
	if err == nil || c.BuildIn == "host" || c.Push != "" {
		return hasher, leave, err
	}
	if hasher, leave, nodeErr := newNodeHasher(ctx, c); nodeErr == nil {
		return hasher, leave, nil
	}
	return nil, nil, err // about this machine's Docker, which most users have
}

// newNodeHasher is newHasher for a machine without Docker whose node builds.
func newNodeHasher(ctx context.Context, c *config.Config) (hasher *build.Builder, leave func() error, err error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, nil, err
	}
	e := &environment{}
	if err := e.findNodes(ctx, c.KubeContext); err != nil {
		return nil, nil, errors.Join(err, e.close())
	}
	inNode, err := e.openInNode(ctx, build.New(e.docker, cache))
	if err != nil {
		return nil, nil, errors.Join(err, e.close())
	}
	return inNode.SelfHashing(), e.close, nil
}

// HashImages returns the target of a run. It builds nothing.
func HashImages(ctx context.Context, c *config.Config) (target *loop.Target, err error) {
	if len(c.Images) == 0 {
		return &loop.Target{}, nil
	}
	builder, leave, err := newHasher(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, leave()) }()
	return hashImages(ctx, builder, c)
}

func hashImages(ctx context.Context, hasher *build.Builder, c *config.Config) (*loop.Target, error) {
	inputs, err := HashInputs(ctx, hasher, c)
	if err != nil {
		return nil, err
	}
	target := newTarget(inputs)
	if c.Push != "" {
		push := node.NewRemoteRegistry(c.PushPlain())
		if _, err := push.Missing(ctx, loop.Tags(target.Images)); err != nil {
			return nil, err
		}
		addDigests(target.Images, push)
	}
	return target, nil
}

// HashedImages is how a running devloop would name the images of its configuration now.
type HashedImages struct {
	Of   string            `json:"of"`   // ImagesKey of that configuration
	Refs map[string]string `json:"refs"` // by the names of the images
}

// ImagesKey is equal for configurations whose images get equal tags from equal files.
func ImagesKey(c *config.Config) (string, error) {
	images := make([]build.Image, len(c.Images))
	bases := make([][]string, len(c.Images))
	for i, image := range c.Images {
		images[i], bases[i] = BuildInput(c, image, nil), image.Bases()
	}
	text, err := json.Marshal([]any{images, bases, c.BuildIn, c.Push})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Target is the target of a run of c, nil if the images are those of another configuration.
func (h HashedImages) Target(c *config.Config) *loop.Target {
	if key, err := ImagesKey(c); err != nil || key != h.Of {
		return nil
	}
	target := &loop.Target{}
	for _, image := range c.Images {
		target.Images = append(target.Images, &loop.Image{Name: image.Name, Ref: h.Refs[image.Name]})
	}
	return target
}

// hashImages answers devloop diff and devloop render: it hashes the inputs as they are now, with
// what it knows of those that did not change.
func (s *Session) hashImages(ctx context.Context) (any, error) {
	source := s.options.Source
	source.Only = nil // they show all releases
	c, err := config.Load(source)
	if err != nil {
		return nil, err
	}
	if fixed(c) != fixed(s.config.Load()) {
		return nil, errors.New("the configuration has settings that take effect when devloop is started again")
	}
	key, err := ImagesKey(c)
	if err != nil {
		return nil, err
	}
	target, err := hashImages(ctx, s.builders.main, c)
	if err != nil {
		return nil, err
	}
	return HashedImages{Of: key, Refs: target.Refs()}, nil
}

// HashInputs hashes the images of c. With an error, the inputs have at least the files that were
// read; an image that is built from one that has no hash is left out.
func HashInputs(ctx context.Context, hasher *build.Builder, c *config.Config) (inputs []build.Input, err error) {
	hashed := map[string]build.Input{}
	var errs []error
	for _, image := range c.Images {
		var from []build.Input
		for _, base := range image.Bases() {
			if input, ok := hashed[base]; ok {
				from = append(from, input)
			}
		}
		if len(from) < len(image.Bases()) && len(errs) > 0 { // the base's error is enough
			continue
		}
		input, err := hasher.Hash(ctx, BuildInput(c, image, from))
		inputs = append(inputs, input)
		if err != nil {
			var wrong *build.SyncError
			if errors.As(err, &wrong) {
				err = locateRule(c, image.Name, wrong)
			}
			errs = append(errs, hintAtImage(c, image, err))
			continue
		}
		hashed[image.Name] = input
	}
	return inputs, errors.Join(errs...)
}

// locateRule adds the place in devloop.yaml to an error about a rule of an image.
func locateRule(c *config.Config, image string, wrong *build.SyncError) error {
	at := fmt.Sprintf("images.%s.sync[%d]", image, wrong.Rule)
	return c.Wrong(at, wrong.Err.Error(), event.Hint(wrong.Err))
}

// hintAtImage says how an image is built from another one, if a base image that was not found is
// called like one of the configuration.
func hintAtImage(c *config.Config, image config.Image, err error) error {
	base := build.MissingBase(err)
	for _, other := range c.Images {
		for _, repository := range repositories(c, other) {
			named, parseErr := reference.ParseNormalizedNamed(repository)
			if base == "" || parseErr != nil || named.Name() != base {
				continue
			}
			return event.WithHint(err, fmt.Sprintf("if it is the image %s of %s: write ARG BASE and FROM $BASE, and add "+
				"BASE: '{{ image %q }}' to images.%s.args", other.Name, filepath.Base(c.Path), other.Name, image.Name))
		}
	}
	return err
}
