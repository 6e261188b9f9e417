package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/devloop/devloop/pkg/event"
)

// Source has images for devloop's registry.
type Source interface {
	// Push pushes what the registry does not have of the image. It returns the digest of what it
	// pushed, a manifest or a list of them.
	Push(ctx context.Context, registry *Registry, tag name.Tag) (digest string, err error)
}

// DockerSource is a Docker daemon as a Source. It pushes only the missing blobs.
type DockerSource struct{ Client *client.Client }

// Push has the daemon push the image.
func (d DockerSource) Push(ctx context.Context, r *Registry, tag name.Tag) (digest string, err error) {
	address, err := r.listen(ctx)
	if err != nil {
		return "", err
	}
	// The daemon's containerd store sends credentials only to the server that they name.
	auth, err := authconfig.Encode(registry.AuthConfig{
		Username: username, Password: r.password, ServerAddress: address})
	if err != nil {
		return "", err
	}
	remote := at(address, tag)
	if _, err := d.Client.ImageTag(ctx, client.ImageTagOptions{Source: tag.String(), Target: remote}); err != nil {
		return "", err
	}
	defer func() {
		err = withCleanup(ctx, err, func(ctx context.Context) error {
			_, err := d.Client.ImageRemove(ctx, remote, client.ImageRemoveOptions{})
			return err
		})
	}()
	pushing, err := d.Client.ImagePush(ctx, remote, client.ImagePushOptions{RegistryAuth: auth})
	if err != nil {
		return "", err
	}
	for message, err := range pushing.JSONMessages(ctx) {
		if err == nil && message.Error != nil {
			err = message.Error
		}
		if err != nil {
			return "", event.WithHint(fmt.Errorf("docker push to %s: %w", address, err),
				"if it cannot reach that address: the daemon has to run on this machine, or in the node (minikube docker-env)")
		}
		digest = cmp.Or(pushedDigest(message, ownTag(tag)), digest)
	}
	if digest == "" {
		return "", event.WithHint(fmt.Errorf("docker push to %s: the daemon does not say what it pushed", address),
			"update Docker to 20.10 or newer")
	}
	return digest, nil
}

// Lacked returns how many bytes of layers the only node would get of an image, and whether it has
// others of them. It is an upper bound, not compressed.
func (d DockerSource) Lacked(ctx context.Context, c *Cluster, tag name.Tag) (bytes int64, partly bool, err error) {
	n, err := c.builderNode()
	if err != nil {
		return 0, false, err
	}
	image, err := d.Client.ImageInspect(ctx, tag.String())
	if err != nil {
		return 0, false, err
	}
	history, err := d.Client.ImageHistory(ctx, tag.String())
	if err != nil {
		return 0, false, err
	}
	has, err := n.runtime.unpacked(ctx, n)
	if err != nil {
		return 0, false, err
	}
	var diffIDs []digest.Digest
	for _, id := range image.RootFS.Layers {
		diffIDs = append(diffIDs, digest.Digest(id))
	}
	lacked := len(diffIDs)
	for _, id := range identity.ChainIDs(diffIDs) {
		if has[id.String()] {
			lacked--
		}
	}
	partly = lacked < len(diffIDs)
	// The last step comes first. Those without a layer have no size, but neither has a new folder.
	for _, step := range history.Items {
		if lacked > 0 && (step.Size > 0 || strings.Contains(step.CreatedBy, "WORKDIR ")) {
			bytes += step.Size
			lacked--
		}
	}
	return bytes, partly, nil
}

// pushedDigest returns the digest that a daemon reports for a pushed tag, "" for other messages. It
// is in the aux message of the classic store (moby's types.PushResult), and in the last line of
// both stores ("<tag>: digest: sha256:<hex> size: <bytes>").
func pushedDigest(m jsonstream.Message, tag string) string {
	var aux struct{ Tag, Digest string }
	if m.Aux != nil && json.Unmarshal(*m.Aux, &aux) == nil && aux.Tag == tag {
		return aux.Digest
	}
	if text, ok := strings.CutPrefix(strings.TrimSpace(m.Status), tag+": digest: "); ok {
		digest, _, _ := strings.Cut(text, " ")
		return digest
	}
	return ""
}

// BuiltSource is a Source of images that were built right into the registry.
type BuiltSource struct{}

// Push has nothing to push. Registry.Tag verified the digest.
func (BuiltSource) Push(_ context.Context, r *Registry, tag name.Tag) (digest string, err error) {
	ids := r.IDs(tag)
	if ids == nil {
		return "", errors.New("it is not there, and was not built either")
	}
	return ids[0], nil
}
