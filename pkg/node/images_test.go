package node

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// digester is an image, a list of images or a layer.
type digester interface{ Digest() (v1.Hash, error) }

// pushable is an image, or a list of images.
type pushable interface {
	remote.Taggable
	digester
}

// built is a Source that pushes images as Docker does.
type built map[name.Tag]pushable

func (b built) Push(ctx context.Context, r *Registry, tag name.Tag) (string, error) {
	address, err := r.listen(ctx)
	if err != nil {
		return "", err
	}
	ref, err := name.NewTag(at(address, tag))
	if err != nil {
		return "", err
	}
	digest, err := b[tag].Digest()
	auth := &authn.Basic{Username: username, Password: r.password}
	return digest.String(), errors.Join(err, remote.Push(ref, b[tag], remote.WithContext(ctx), remote.WithAuth(auth)))
}

func newTag(t *testing.T, text string) name.Tag {
	t.Helper()
	tag, err := name.NewTag(text)
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

// newImage returns an image with random layers of a size in bytes.
func newImage(t *testing.T, size, layers int64) v1.Image {
	t.Helper()
	image, err := random.Image(size, layers)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// addLayer returns an image with another random layer.
func addLayer(t *testing.T, base v1.Image, size int64) v1.Image {
	t.Helper()
	layer, err := random.Layer(size, "application/vnd.docker.image.rootfs.diff.tar.gzip")
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// attested returns a list of an image and its attestation, as BuildKit makes it.
func attested(t *testing.T, image v1.Image) v1.ImageIndex {
	t.Helper()
	platform := func(os, architecture string) v1.Descriptor {
		return v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: architecture}}
	}
	return mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: image, Descriptor: platform("linux", "amd64")},
		mutate.IndexAddendum{Add: newImage(t, 100, 1), Descriptor: platform("unknown", "unknown")})
}

func digestOf(t *testing.T, of digester) v1.Hash {
	t.Helper()
	digest, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func configOf(t *testing.T, image v1.Image) v1.Hash {
	t.Helper()
	digest, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func layersOf(t *testing.T, image v1.Image) []v1.Layer {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

// readLayers downloads all layers of an image.
func readLayers(image v1.Image) error {
	layers, err := image.Layers()
	for _, layer := range layers {
		reader, openErr := layer.Compressed()
		if openErr != nil {
			return openErr
		}
		_, copyErr := io.Copy(io.Discard, reader)
		err = errors.Join(err, copyErr, reader.Close())
	}
	return err
}

func openRegistry(t *testing.T, dir string) *Registry {
	t.Helper()
	r, err := OpenRegistry(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// push pushes an image, and returns its tag.
func push(t *testing.T, r *Registry, text string, image pushable) name.Tag {
	t.Helper()
	tag := newTag(t, text)
	if _, err := r.receive(t.Context(), built{tag: image}, tag); err != nil {
		t.Fatal(err)
	}
	return tag
}
