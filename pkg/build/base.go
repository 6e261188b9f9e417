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
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

// registryTimeout bounds one look-up of a base image in its registry; againTimeout where an earlier answer can stand in for it.
const (
	registryTimeout = 20 * time.Second
	againTimeout    = 5 * time.Second
)

// base is what a reference to a base image stands for.
type base struct {
	// Config is the part of its OCI image configuration that Docker and registries both tell, so that it does not matter who was asked. It
	// names the layers by their content; a manifest's digest would not do: the same image has another one after a push.
	Config json.RawMessage `json:"config"`
	// Manifest is the digest of what its registry has under the reference, "" where nobody said. It only saves a second look.
	Manifest string `json:"manifest,omitempty"`
}

func newBase(full dockerspec.DockerOCIImage) (*base, error) {
	kept := dockerspec.DockerOCIImage{Config: full.Config}
	kept.OS, kept.Architecture, kept.Variant = full.OS, full.Architecture, full.Variant
	kept.RootFS.Type, kept.RootFS.DiffIDs = "layers", full.RootFS.DiffIDs
	config, err := json.Marshal(kept)
	return &base{Config: config}, err
}

// parseBase takes an OCI image configuration.
func parseBase(config []byte) (*base, error) {
	var full dockerspec.DockerOCIImage
	if err := json.Unmarshal(config, &full); err != nil {
		return nil, err
	}
	return newBase(full)
}

func (b base) digest() digest.Digest { return digest.FromBytes(b.Config) }

// baseCache remembers what was found out: for this process in memory, and what registries said beyond it as one file a reference in dir.
type baseCache struct {
	dir   string
	mu    sync.Mutex
	known map[string]knownBase
	// By path, a sum of what was in each Dockerfile when it was read last.
	dockerfiles map[string][sha256.Size]byte
}

type knownBase struct {
	base
	due time.Time // when it is asked for again; zero for never
}

func (k knownBase) fresh() bool { return k.due.IsZero() || time.Now().Before(k.due) }

// staleRest is how long a registry that could not be reached is left alone.
const staleRest = 5 * time.Minute

// refresh has everything asked again; until there is an answer, the last one holds.
func (c *baseCache) refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.known {
		c.expire(key)
	}
}

// expire is refresh for one base image. The caller holds mu.
func (c *baseCache) expire(key string) {
	if known, ok := c.known[key]; ok {
		known.due = time.Now()
		c.known[key] = known
	}
}

// forget has the next one ask again.
func (c *baseCache) forget(ref string, platform ocispecs.Platform) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire(baseKey(ref, platform))
}

func baseKey(ref string, platform ocispecs.Platform) string {
	return ref + " " + platforms.Format(platform)
}

// file is where the last answer of a registry is kept.
func (c *baseCache) file(ref string, platform ocispecs.Platform) string {
	sum := sha256.Sum256([]byte(baseKey(ref, platform)))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:])+".json")
}

// read has everything asked again if a Dockerfile has changed: who works on one wants to know what it starts from.
func (c *baseCache) read(file string, content []byte) {
	sum := sha256.Sum256(content)
	c.mu.Lock()
	last, ok := c.dockerfiles[file]
	c.dockerfiles[file] = sum
	c.mu.Unlock()
	if ok && last != sum {
		c.refresh()
	}
}

// baseResolver is BuildKit's llb.ImageMetaResolver for one conversion.
type baseResolver struct {
	builder  *Builder
	platform ocispecs.Platform

	mu    sync.Mutex
	found []foundBase
	stale []string
}

// foundBase is what a Dockerfile's reference to a base image was taken for.
type foundBase struct {
	ref      string
	platform ocispecs.Platform
	digest   digest.Digest
	local    bool // it is Docker's own copy, whatever the registry has by now
}

// ResolveImageConfig returns the digest and the configuration of a base image.
func (r *baseResolver) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	platform := r.platform
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		platform = *opt.ImageOpt.Platform
	}
	found, err := r.find(ctx, ref, platform)
	if err != nil {
		if unasked(err) {
			err = event.Transient(err)
		}
		return "", "", nil, event.WithHint(fmt.Errorf("base image %s: Docker does not hold it, and its registry could not be asked: %w", ref, err),
			"check the name and the network, or pull it by hand: docker pull "+ref)
	}
	return ref, found.digest(), found.Config, nil
}

// find asks in the order in which a build looks: what is there already, then the registry.
func (r *baseResolver) find(ctx context.Context, ref string, platform ocispecs.Platform) (found *base, err error) {
	b := r.builder
	_, docker := b.engine.(*dockerEngine)
	local := docker
	if docker { // quick to ask, and it may change at any time
		if found, err = b.engine.base(ctx, ref, platform); err != nil {
			return nil, err
		}
	}
	stale := false
	if found == nil {
		local = false
		found, stale, err = b.bases.once(ctx, ref, platform, func(ctx context.Context) (*base, bool, error) {
			if !docker {
				if found, err := b.engine.base(ctx, ref, platform); err == nil {
					return found, false, nil
				}
			}
			return b.bases.inRegistry(ctx, ref, platform)
		})
		if err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found = append(r.found, foundBase{ref, platform, found.digest(), local})
	if stale {
		r.stale = append(r.stale, ref)
	}
	return found, nil
}

// askAgain has registries asked what base images are by now, and remembers the answers.
func (b *Builder) askAgain(ctx context.Context, bases []foundBase) {
	resolver := &baseResolver{builder: b}
	for _, base := range bases {
		if !base.local {
			b.bases.forget(base.ref, base.platform)
			_, _ = resolver.find(ctx, base.ref, base.platform) // the next hash says what is wrong
		}
	}
}

// once asks unless this process knows the answer. It is stale if nobody could be asked and an earlier one has to do.
func (c *baseCache) once(ctx context.Context, ref string, platform ocispecs.Platform, ask func(context.Context) (*base, bool, error)) (found *base, stale bool, err error) {
	key := baseKey(ref, platform)
	c.mu.Lock()
	known, ok := c.known[key]
	c.mu.Unlock()
	if ok && known.fresh() {
		return &known.base, false, nil
	}
	timeout := registryTimeout
	if _, err := os.Stat(c.file(ref, platform)); ok || err == nil {
		timeout = againTimeout
	}
	askCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	found, stale, err = ask(askCtx)
	switch {
	case ctx.Err() != nil: // the caller's time is over, which says nothing of the registry
		return nil, false, context.Cause(ctx)
	case err == nil:
	case ok && unasked(err):
		found, stale = &known.base, true
	default:
		return nil, false, err
	}
	now := knownBase{base: *found}
	if stale {
		now.due = time.Now().Add(staleRest)
	}
	c.mu.Lock()
	c.known[key] = now
	c.mu.Unlock()
	return found, stale, nil
}

// unasked tells whether a registry was not reached, or did not want to answer just now.
func unasked(err error) bool {
	var answered *transport.Error
	return !errors.As(err, &answered) || answered.Temporary()
}

// inRegistry asks the registry; for one that cannot be reached its last answer stands, which is stale.
func (c *baseCache) inRegistry(ctx context.Context, ref string, platform ocispecs.Platform) (found *base, stale bool, err error) {
	file, last := c.file(ref, platform), &base{}
	content, readErr := os.ReadFile(file)
	known := readErr == nil && json.Unmarshal(content, last) == nil
	found, err = askRegistry(ctx, ref, platform, last.Manifest)
	switch {
	case err != nil && known && unasked(err):
		return last, true, nil
	case err != nil:
		return nil, false, err
	case found == nil && known:
		return last, false, nil
	}
	if content, err := json.Marshal(found); err == nil {
		if err := errors.Join(os.MkdirAll(c.dir, 0o700), os.WriteFile(file, content, 0o600)); err != nil {
			return nil, false, fmt.Errorf("remember base image %s: %w", ref, err)
		}
	}
	return found, false, nil
}

// maxConfig is the size of an image's configuration, in bytes: that of a manifest, in registries.
const maxConfig = 4 << 20

// askRegistry returns nil if the registry still has the manifest that is known: to ask for no more than that does not count for the limits that
// registries set.
func askRegistry(ctx context.Context, ref string, platform ocispecs.Platform, known string) (*base, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(v1.Platform{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant})}
	if known != "" {
		if head, err := remote.Head(parsed, options...); err == nil && head.Digest.String() == known {
			return nil, nil
		}
	}
	descriptor, err := remote.Get(parsed, options...)
	if err != nil {
		return nil, err
	}
	image, err := descriptor.Image()
	if err != nil {
		return nil, err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	if manifest.Config.Size > maxConfig { // which is read as long as this says
		return nil, fmt.Errorf("the configuration of %s is too large: %d bytes", ref, manifest.Config.Size)
	}
	raw, err := image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	found, err := parseBase(raw)
	if err != nil {
		return nil, err
	}
	found.Manifest = descriptor.Digest.String()
	return found, nil
}
