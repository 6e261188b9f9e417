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

	"github.com/devloop/devloop/pkg/event"
)

// Docker is a Source: the daemon on this machine, which pushes only the blobs that are not here yet.
type Docker struct{ Client *client.Client }

// Push has the daemon push the image.
func (d Docker) Push(ctx context.Context, r *Registry, tag name.Tag) (digest string, err error) {
	address, err := r.listen(ctx)
	if err != nil {
		return "", err
	}
	// The daemon's containerd store gives credentials only to the server that they name.
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
				"the Docker daemon has to run on this machine, or inside of the node (minikube docker-env)")
		}
		digest = cmp.Or(pushedDigest(message, tag.TagStr()), digest)
	}
	if digest == "" {
		return "", event.WithHint(fmt.Errorf("docker push to %s: the daemon does not say what it pushed", address),
			"update Docker to 20.10 or newer")
	}
	return digest, nil
}

// pushedDigest returns what a daemon says that it pushed under tag, "" in a message about anything
// else. It is in the aux message of the classic store (moby's types.PushResult), and in the line
// that both stores end with ("<tag>: digest: sha256:<hex> size: <bytes>").
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

// Built is a Source of images that were built right into the registry.
type Built struct{}

// Push finds them there. Name made sure that it is what BuildKit said.
func (Built) Push(_ context.Context, r *Registry, tag name.Tag) (digest string, err error) {
	ids := r.Identity(tag)
	if ids == nil {
		return "", errors.New("it is not there, and was not built either")
	}
	return ids[0], nil
}

// Source brings images into devloop's registry.
type Source interface {
	// Push sees to it that the registry has the image, with no more effort than what of it is not
	// there yet. It returns the digest of what it brought, of a manifest or of a list of them.
	Push(ctx context.Context, registry *Registry, tag name.Tag) (digest string, err error)
}
