// Base images: their digest and configuration, which a Dockerfile's meaning depends on. Docker's own copy is asked
// first, then the registry; what a registry said is kept on disk, so that the hash is the same on the train.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/client"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

// registryTimeout bounds one look-up of a base image in its registry.
const registryTimeout = 20 * time.Second

// base is what a reference to a base image stands for.
type base struct {
	Digest digest.Digest   `json:"digest"`
	Config json.RawMessage `json:"config"` // OCI image configuration
}

// baseCache remembers what registries said: for this process in memory, beyond it as one file a reference in dir.
type baseCache struct {
	dir   string
	mu    sync.Mutex
	known map[string]base
}

// baseResolver is BuildKit's llb.ImageMetaResolver for one conversion.
type baseResolver struct {
	docker   *client.Client
	cache    *baseCache
	platform ocispecs.Platform
}

// ResolveImageConfig returns the digest and the configuration of a base image.
func (r *baseResolver) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	platform := r.platform
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		platform = *opt.ImageOpt.Platform
	}
	found, err := r.inDocker(ctx, ref, platform)
	if err != nil {
		return "", "", nil, err
	}
	if found == nil {
		found, err = r.cache.inRegistry(ctx, ref, platform)
	}
	if err != nil {
		var answered *transport.Error // else it was not reached
		if !errors.As(err, &answered) || answered.Temporary() {
			err = event.Transient(err)
		}
		return "", "", nil, event.WithHint(fmt.Errorf("base image %s: Docker does not hold it, and its registry could not be asked: %w", ref, err),
			"check the name and the network, or pull it by hand: docker pull "+ref)
	}
	return ref, found.Digest, found.Config, nil
}

// inDocker returns nil where the daemon does not hold ref for that platform.
func (r *baseResolver) inDocker(ctx context.Context, ref string, platform ocispecs.Platform) (*base, error) {
	image, err := r.docker.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, DockerError(err)
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
	config, err := essential(full)
	if err != nil {
		return nil, err
	}
	// A pulled image is known by the digest that its registry gave it, so that both ways of asking agree.
	id := image.ID
	if len(image.RepoDigests) > 0 {
		if _, after, ok := strings.Cut(image.RepoDigests[0], "@"); ok {
			id = after
		}
	}
	parsed, err := digest.Parse(id)
	if err != nil {
		return nil, fmt.Errorf("base image %s: Docker's ID %q: %w", ref, id, err)
	}
	return &base{Digest: parsed, Config: config}, nil
}

// essential keeps what both Docker and registries tell of an image, so that it does not matter who was asked.
func essential(full dockerspec.DockerOCIImage) (json.RawMessage, error) {
	kept := dockerspec.DockerOCIImage{Config: full.Config}
	kept.OS, kept.Architecture, kept.Variant = full.OS, full.Architecture, full.Variant
	kept.RootFS.Type, kept.RootFS.DiffIDs = "layers", full.RootFS.DiffIDs
	return json.Marshal(kept)
}

// inRegistry asks once per process; a registry that cannot be reached is answered for by the last known answer.
func (c *baseCache) inRegistry(ctx context.Context, ref string, platform ocispecs.Platform) (*base, error) {
	key := ref + " " + platforms.Format(platform)
	c.mu.Lock()
	known, ok := c.known[key]
	c.mu.Unlock()
	if ok {
		return &known, nil
	}
	sum := sha256.Sum256([]byte(key))
	file := filepath.Join(c.dir, hex.EncodeToString(sum[:])+".json")
	found, err := askRegistry(ctx, ref, platform)
	if err != nil {
		content, readErr := os.ReadFile(file)
		if readErr != nil || json.Unmarshal(content, &found) != nil || ctx.Err() != nil {
			return nil, err
		}
	} else if content, err := json.Marshal(found); err == nil {
		if err := errors.Join(os.MkdirAll(c.dir, 0o755), os.WriteFile(file, content, 0o644)); err != nil {
			return nil, fmt.Errorf("remember base image %s: %w", ref, err)
		}
	}
	c.mu.Lock()
	c.known[key] = found
	c.mu.Unlock()
	return &found, nil
}

func askRegistry(ctx context.Context, ref string, platform ocispecs.Platform) (base, error) {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return base{}, err
	}
	descriptor, err := remote.Get(parsed, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(v1.Platform{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant}))
	if err != nil {
		return base{}, err
	}
	image, err := descriptor.Image()
	if err != nil {
		return base{}, err
	}
	raw, err := image.RawConfigFile()
	if err != nil {
		return base{}, err
	}
	var full dockerspec.DockerOCIImage
	if err := json.Unmarshal(raw, &full); err != nil {
		return base{}, err
	}
	config, err := essential(full)
	if err != nil {
		return base{}, err
	}
	return base{Digest: digest.Digest(descriptor.Digest.String()), Config: config}, nil
}
