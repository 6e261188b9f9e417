package build

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

// dockerEngine is a Docker daemon with its own BuildKit and image store.
type dockerEngine struct {
	client *client.Client
	at     Place
}

func (e *dockerEngine) place() Place { return e.at }

// open speaks to the daemon's BuildKit through its HTTP API.
func (e *dockerEngine) open(ctx context.Context) (*bkclient.Client, func(error) error, error) {
	if err := e.ping(ctx); err != nil {
		return nil, nil, err
	}
	client, err := bkclient.New(ctx, "",
		bkclient.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return e.client.DialHijack(ctx, "/grpc", "h2c", nil)
		}),
		bkclient.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return e.client.DialHijack(ctx, "/session", proto, meta)
		}))
	return client, func(err error) error { return errors.Join(err, client.Close()) }, err
}

// close has nothing to do: nothing stays open.
func (*dockerEngine) close() error { return nil }

func (e *dockerEngine) ping(ctx context.Context) error {
	_, err := e.at.ping(ctx, e.client)
	return err
}

// base returns nil if the daemon has no image ref for that platform.
func (e *dockerEngine) base(ctx context.Context, ref string, platform ocispecs.Platform) (*base, error) {
	image, err := e.client.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, e.at.dockerError(err)
	}
	if image.Os != platform.OS || image.Architecture != platform.Architecture {
		return nil, nil
	}
	var full dockerspec.DockerOCIImage
	full.OS, full.Architecture, full.Variant = image.Os, image.Architecture, image.Variant
	if image.Config != nil {
		full.Config = *image.Config
	}
	for _, layer := range image.RootFS.Layers {
		full.RootFS.DiffIDs = append(full.RootFS.DiffIDs, digest.Digest(layer))
	}
	return newBase(full)
}

func (e *dockerEngine) has(ctx context.Context, tag name.Tag) (bool, error) {
	_, err := e.client.ImageInspect(ctx, tag.String())
	switch {
	case errdefs.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, e.at.dockerError(err)
	}
	return true, nil
}

func (e *dockerEngine) export(options *bkclient.SolveOpt, _ name.Tag) error {
	options.Exports = []bkclient.ExportEntry{{Type: "moby"}} // into the daemon's own image store
	return nil
}

// offer has nothing to do: the daemon's BuildKit looks into its image store.
func (*dockerEngine) offer(*bkclient.SolveOpt, name.Tag) error { return nil }

// name finds the image: Docker's classic store knows it by the digest of its configuration, its
// containerd store by that of its manifest.
func (e *dockerEngine) name(ctx context.Context, answer map[string]string, tag name.Tag) (string, error) {
	ids := exported(answer)
	for _, id := range ids {
		_, err := e.client.ImageTag(ctx, client.ImageTagOptions{Source: id, Target: tag.String()})
		if !errdefs.IsNotFound(err) {
			return id, err
		}
	}
	if len(ids) == 0 {
		//nolint:staticcheck // a name
		return "", fmt.Errorf("Docker built an image and did not return its ID (answer: %v)", answer)
	}
	// Another devloop, another build of the same content, or a prune removed it.
	return "", event.Transient(fmt.Errorf("image %s vanished from Docker before it was named", ids[0]))
}

// exported returns the IDs that an image of BuildKit's answer may have in Docker.
func exported(answer map[string]string) (ids []string) {
	for _, key := range []string{exptypes.ExporterImageDigestKey, exptypes.ExporterImageConfigDigestKey} {
		if id := digest.Digest(answer[key]); id.Validate() == nil {
			ids = append(ids, id.String())
		}
	}
	return ids
}

// discard removes the image unless it has a name; Docker would keep it for good. It removes it by a
// temporary name: by ID, Docker would also remove an image that another devloop has just named.
func (e *dockerEngine) discard(ctx context.Context, answer map[string]string, tag name.Tag) error {
	temporary, err := Temporary(tag)
	if err != nil {
		return err
	}
	for _, id := range exported(answer) {
		_, err := e.client.ImageTag(ctx, client.ImageTagOptions{Source: id, Target: temporary.String()})
		if err == nil {
			err = e.removeName(ctx, temporary)
		}
		// It may be gone already, or be in use: by a container, or as the base of another image.
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
			return e.at.dockerError(err)
		}
	}
	return nil
}

// remove also removes the name that a failed discard left.
func (e *dockerEngine) remove(ctx context.Context, tag name.Tag) error {
	temporary, err := Temporary(tag)
	if err != nil {
		return err
	}
	return errors.Join(e.removeName(ctx, tag), e.removeName(ctx, temporary))
}

func (e *dockerEngine) removeName(ctx context.Context, tag name.Tag) error {
	_, err := e.client.ImageRemove(ctx, tag.String(), client.ImageRemoveOptions{PruneChildren: true})
	// Without Docker there is nothing to remove.
	if err != nil && !errdefs.IsNotFound(err) && !client.IsErrConnectionFailed(err) {
		return fmt.Errorf("remove image %s from Docker: %w", tag, err)
	}
	return nil
}
