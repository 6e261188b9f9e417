package build

// Base images: their digest and configuration, which a Dockerfile's meaning depends on. Docker's
// own copy comes first, then the registry. A registry's answers are kept on disk, so that the hash
// is the same on the train.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

const (
	registryTimeout = 20 * time.Second // of a lookup in a registry
	againTimeout    = 5 * time.Second  // of a lookup that an earlier answer can stand in for
	staleRest       = 5 * time.Minute  // how long an unreachable registry is left alone
)

// base is what a reference to a base image stands for.
type base struct {
	// Config is the part of the OCI image configuration that Docker and registries agree on. It
	// names the layers by their content. (A manifest's digest changes when the same image is
	// pushed.)
	Config json.RawMessage `json:"config"`
	// Manifest is the digest that the registry has under the reference, "" if unknown. It only
	// saves a second lookup.
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

// baseCache remembers lookups: those of this process in memory, and what registries answered also
// as one file a reference in dir.
type baseCache struct {
	dir string

	mu          sync.Mutex
	known       map[string]*knownBase        // by baseKey
	dockerfiles map[string][sha256.Size]byte // by path, of the content that was read last
}

type knownBase struct {
	*base
	due time.Time // of the next lookup; zero for never
}

func baseKey(ref string, platform ocispecs.Platform) string {
	return ref + " " + platforms.Format(platform)
}

// refresh makes the next lookup of every base image ask again. The last answer counts until then.
func (c *baseCache) refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, known := range c.known {
		known.due = time.Now()
	}
}

// forget is refresh for one base image.
func (c *baseCache) forget(ref string, platform ocispecs.Platform) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.known[baseKey(ref, platform)]; known != nil {
		known.due = time.Now()
	}
}

// file is where a registry's last answer is kept.
func (c *baseCache) file(ref string, platform ocispecs.Platform) string {
	sum := sha256.Sum256([]byte(baseKey(ref, platform)))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:])+".json")
}

// refreshIfChanged refreshes if a Dockerfile has changed: whoever edits it wants current base
// images.
func (c *baseCache) refreshIfChanged(file string, content []byte) {
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
	builder *Builder
	from    []Input // the project's images, which no registry has

	mu    sync.Mutex
	found []resolvedBase
	stale []string
}

// resolvedBase is what a Dockerfile's reference to a base image was resolved to.
type resolvedBase struct {
	ref      string
	platform ocispecs.Platform
	digest   digest.Digest
	local    bool   // Docker's own copy, whatever the registry has by now
	own      *Input // the project's image that it is, else nil
}

// ResolveImageConfig returns the digest and the configuration of a base image.
func (r *baseResolver) ResolveImageConfig(
	ctx context.Context, ref string, opt sourceresolver.Opt,
) (string, digest.Digest, []byte, error) {
	if own := r.own(ref); own != nil {
		found, err := r.use(own, ref, *opt.ImageOpt.Platform)
		if err != nil {
			return "", "", nil, err
		}
		return ref, found.digest(), found.Config, nil
	}
	found, err := r.find(ctx, ref, *opt.ImageOpt.Platform)
	if err != nil {
		if unreachable(err) {
			err = event.Transient(err)
		}
		return "", "", nil, event.WithHint(&missingBaseError{ref, err},
			cmp.Or(event.Hint(err), "check the name and the network, or pull it by hand: docker pull "+ref))
	}
	return ref, found.digest(), found.Config, nil
}

// own returns the project's image that a reference names, nil for others.
func (r *baseResolver) own(ref string) *Input {
	named, err := familiarTag(ref)
	if err != nil {
		return nil
	}
	i := slices.IndexFunc(r.from, func(input Input) bool { return input.Tag.Name() == named.Name() })
	if i < 0 {
		return nil
	}
	return &r.from[i]
}

// use returns what a build of one of the project's images will make.
func (r *baseResolver) use(own *Input, ref string, platform ocispecs.Platform) (*base, error) {
	made, err := own.platform()
	if err != nil {
		return nil, err
	}
	if made.OS != platform.OS || made.Architecture != platform.Architecture {
		return nil, event.WithHint(fmt.Errorf("image %s is built for %s, and is needed here for %s",
			own.Name, platforms.Format(made), platforms.Format(platform)), "give both images the same platform")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found = append(r.found, resolvedBase{ref: ref, platform: platform, digest: own.result.digest(), own: own})
	return own.result, nil
}

type missingBaseError struct {
	ref string
	error
}

func (e *missingBaseError) Error() string {
	return fmt.Sprintf("base image %s: Docker does not hold it, and its registry could not be asked: %v", e.ref, e.error)
}

func (e *missingBaseError) Unwrap() error { return e.error }

// MissingBase returns the repository of the base image that could not be found, if that is what err
// is about, else "".
func MissingBase(err error) (repository string) {
	var missing *missingBaseError
	if !errors.As(err, &missing) {
		return ""
	}
	named, err := reference.ParseNormalizedNamed(missing.ref)
	if err != nil {
		return ""
	}
	return named.Name()
}

// copiesFrom tells whether a COPY --from or RUN --mount=from names the image by a single word, as
// people write the name of a stage or of a named build context.
func copiesFrom(dockerfile []byte, ref string) bool {
	parsed, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		return false
	}
	stages, _, _ := instructions.Parse(parsed.AST, nil)
	var sources []string
	for _, stage := range stages {
		for _, command := range stage.Commands {
			switch c := command.(type) {
			case *instructions.CopyCommand:
				sources = append(sources, c.From)
			case *instructions.RunCommand:
				for _, mount := range instructions.GetMounts(c) {
					sources = append(sources, mount.From)
				}
			}
		}
	}
	return slices.ContainsFunc(sources, func(source string) bool {
		named, err := reference.ParseNormalizedNamed(source)
		return err == nil && reference.FamiliarString(named) == source && reference.TagNameOnly(named).String() == ref
	})
}

// find looks where a build would: at Docker's own copy, then in the registry.
func (r *baseResolver) find(ctx context.Context, ref string, platform ocispecs.Platform) (found *base, err error) {
	b := r.builder
	_, docker := b.engine.(*dockerEngine)
	if docker { // fast, and its copy may change at any time
		if found, err = b.engine.base(ctx, ref, platform); err != nil {
			return nil, err
		}
	}
	local, stale := found != nil, false
	if !local {
		found, stale, err = b.bases.lookup(ctx, ref, platform, func(ctx context.Context) (*base, bool, error) {
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
	r.found = append(r.found, resolvedBase{ref: ref, platform: platform, digest: found.digest(), local: local})
	if stale {
		r.stale = append(r.stale, ref)
	}
	return found, nil
}

// lookUpAgain asks registries for the current base images and remembers their answers.
func (b *Builder) lookUpAgain(ctx context.Context, bases []resolvedBase) {
	resolver := &baseResolver{builder: b}
	for _, base := range bases {
		if !base.local && base.own == nil {
			b.bases.forget(base.ref, base.platform)
			_, _ = resolver.find(ctx, base.ref, base.platform) // the next hash reports the error
		}
	}
}

// lookup calls ask unless this process knows the answer. The answer is stale if it is an earlier
// one because nothing could be reached.
func (c *baseCache) lookup(
	ctx context.Context, ref string, platform ocispecs.Platform, ask func(context.Context) (*base, bool, error),
) (found *base, stale bool, err error) {
	key := baseKey(ref, platform)
	c.mu.Lock()
	known := c.known[key]
	fresh := known != nil && (known.due.IsZero() || time.Now().Before(known.due))
	c.mu.Unlock()
	if fresh {
		return known.base, false, nil
	}
	timeout := registryTimeout
	if _, err := os.Stat(c.file(ref, platform)); known != nil || err == nil {
		timeout = againTimeout
	}
	askCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	found, stale, err = ask(askCtx)
	switch {
	case ctx.Err() != nil: // the caller gave up, which says nothing about the registry
		return nil, false, context.Cause(ctx)
	case err == nil:
	case known != nil && unreachable(err):
		found, stale = known.base, true
	default:
		return nil, false, err
	}
	answer := &knownBase{base: found}
	if stale {
		answer.due = time.Now().Add(staleRest)
	}
	c.mu.Lock()
	c.known[key] = answer
	c.mu.Unlock()
	return found, stale, nil
}

// unreachable reports whether a registry did not answer, or not to the point just now.
func unreachable(err error) bool {
	var answered *transport.Error
	if errors.As(err, &answered) {
		return answered.Temporary()
	}
	return !errors.As(err, new(*credentialsError)) && !errors.As(err, new(*fs.PathError))
}

// inRegistry asks the registry. If it cannot be reached its last answer counts, as a stale one.
func (c *baseCache) inRegistry(
	ctx context.Context, ref string, platform ocispecs.Platform,
) (found *base, stale bool, err error) {
	file, last := c.file(ref, platform), &base{}
	content, readErr := os.ReadFile(file)
	known := readErr == nil && json.Unmarshal(content, last) == nil
	found, err = askRegistry(ctx, ref, platform, last.Manifest)
	switch {
	case err != nil && known && unreachable(err):
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

// maxConfig is how large an image's configuration may be, in bytes: as large as registries let a
// manifest be.
const maxConfig = 4 << 20

// askRegistry returns nil if the registry still has the known manifest: such a request does not
// count towards the limits of registries.
func askRegistry(ctx context.Context, ref string, platform ocispecs.Platform, known string) (*base, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	keychain := &keychain{}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(keychain),
		remote.WithPlatform(v1.Platform{OS: platform.OS, Architecture: platform.Architecture,
			Variant: platform.Variant}),
	}
	if known != "" {
		if head, err := remote.Head(parsed, options...); err == nil && head.Digest.String() == known {
			return nil, nil
		}
	}
	descriptor, err := remote.Get(parsed, options...)
	if err != nil {
		return nil, keychain.explain(err)
	}
	image, err := descriptor.Image()
	if err != nil {
		return nil, err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	if manifest.Config.Size > maxConfig { // the library reads as many bytes as this
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
