package node

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// built is a Source that pushes images as Docker does.
type built map[name.Tag]v1.Image

func (b built) Push(ctx context.Context, r *Registry, tag name.Tag) (string, error) {
	address, err := r.listen(ctx)
	if err != nil {
		return "", err
	}
	ref, err := name.NewTag(at(address, tag))
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, b[tag], remote.WithContext(ctx), remote.WithAuth(credentials(r))); err != nil {
		return "", err
	}
	digest, err := b[tag].Digest()
	return digest.String(), err
}

func credentials(r *Registry) authn.Authenticator {
	return &authn.Basic{Username: username, Password: r.password}
}

func newTag(t *testing.T, text string) name.Tag {
	t.Helper()
	tag, err := name.NewTag(text)
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

func randomImage(t *testing.T, base v1.Image, size int64) v1.Image {
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

func push(t *testing.T, r *Registry, tag string, image v1.Image) name.Tag {
	t.Helper()
	short := newTag(t, tag)
	if _, err := r.receive(t.Context(), built{short: image}, short); err != nil {
		t.Fatal(err)
	}
	return short
}

type builtList struct{ list v1.ImageIndex }

func (b builtList) Push(ctx context.Context, r *Registry, tag name.Tag) (string, error) {
	address, err := r.listen(ctx)
	if err != nil {
		return "", err
	}
	ref, err := name.NewTag(at(address, tag))
	if err != nil {
		return "", err
	}
	digest, err := b.list.Digest()
	return digest.String(), errors.Join(err, remote.WriteIndex(ref, b.list, remote.WithContext(ctx), remote.WithAuth(credentials(r))))
}

// attested is an image in a list with the attestation of how it was built, as BuildKit makes it.
func attested(t *testing.T, image v1.Image) v1.ImageIndex {
	t.Helper()
	attestation, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	return mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}})
}
