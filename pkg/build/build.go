// Package build turns the inputs of an image into a content hash, and into an image when that hash
// is new. BuildKit builds the images: that of a Docker daemon, of a node, or of another machine.
package build

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/moby/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"

	"github.com/devloop/devloop/pkg/event"
)

// Builder builds images in one place. It is safe for concurrent use.
type Builder struct {
	engine engine
	hasher *Builder // that hashed what is built here; nil for itself
	*cache
}

// cache is what builders that hash the same share.
type cache struct {
	logs     string // folder
	bases    *baseCache
	files    *fileDigests
	contexts sync.Map // of *hashedContext, by folder and patterns
	synced   sync.Map // of knownSynced, by the image's Dockerfile, target and name
	built    sync.Map // of IDs, by name.Tag
}

// engine is one BuildKit and the store that its images land in.
type engine interface {
	// open connects to BuildKit for work with ctx. The caller releases the connection, with the error
	// of the work, and gets back that one and its own.
	open(ctx context.Context) (buildkit *bkclient.Client, release func(error) error, err error)
	// close closes what open keeps open.
	close() error
	place() Place
	// ping returns why nothing answers, or nil.
	ping(ctx context.Context) error
	// base returns what a reference to a base image stands for there, nil if that is unknown.
	base(ctx context.Context, ref string, platform ocispecs.Platform) (*base, error)
	has(ctx context.Context, tag name.Tag) (bool, error)
	// export sets how BuildKit hands over the image that will be named tag.
	export(options *bkclient.SolveOpt, tag name.Tag) error
	// offer lets a build use an image that is there, if its BuildKit does not find it by itself.
	offer(options *bkclient.SolveOpt, tag name.Tag) error
	// name gives the image of BuildKit's answer its only name, and returns its ID.
	name(ctx context.Context, answer map[string]string, tag name.Tag) (id string, err error)
	// discard removes what a build left that gets no name. The answer may be nil.
	discard(ctx context.Context, answer map[string]string, tag name.Tag) error
	remove(ctx context.Context, tag name.Tag) error
}

// New returns a Builder for the daemon behind docker, which stays the caller's: it needs no Close.
// Answers of registries and the output of builds are kept in cacheDir.
func New(docker *client.Client, cacheDir string) *Builder {
	return newBuilder(&dockerEngine{docker, hostDocker}, cacheDir)
}

// SelfHashing returns a Builder that builds where b does and hashes by itself.
func (b *Builder) SelfHashing() *Builder { return &Builder{engine: b.engine, cache: b.cache} }

// Remote returns a Builder for the BuildKit at address, in the form of BUILDKIT_HOST. Images land
// in registry. It needs no Close.
func Remote(address string, registry Registry, cacheDir string) *Builder {
	return newBuilder(newRemoteEngine(address, registry), cacheDir)
}

// InDocker returns a Builder for the Docker daemon of a node. It builds what b has hashed.
func (b *Builder) InDocker(docker *client.Client, at Place) *Builder {
	return &Builder{engine: &dockerEngine{docker, at}, hasher: b, cache: b.cache}
}

// InContainerd returns a Builder for the BuildKit that dial reaches on a node with the containerd
// store. It builds what b has hashed. The error says why nothing can be built there.
func (b *Builder) InContainerd(
	ctx context.Context, dial func(context.Context) (net.Conn, error), store Store, at Place,
) (*Builder, error) {
	engine, err := newContainerdEngine(ctx, dial, store, at)
	if err != nil {
		return nil, err
	}
	return &Builder{engine: engine, hasher: b, cache: b.cache}, nil
}

func newBuilder(engine engine, cacheDir string) *Builder {
	return &Builder{engine: engine, cache: &cache{
		logs: filepath.Join(cacheDir, "builds"),
		bases: &baseCache{
			dir: filepath.Join(cacheDir, "bases"), known: map[string]*knownBase{},
			dockerfiles: map[string][sha256.Size]byte{},
		},
		files: &fileDigests{},
	}}
}

// Refresh makes the next Hash ask registries for the current base images.
func (b *Builder) Refresh() { b.bases.refresh() }

// Place is where it builds.
func (b *Builder) Place() Place { return b.engine.place() }

// Close closes the connection to BuildKit. Builders that build in the same place share it.
func (b *Builder) Close() error { return b.engine.close() }

// Ping returns why nothing answers, or nil.
func (b *Builder) Ping(ctx context.Context) error { return b.engine.ping(ctx) }

// Has reports whether the image is there.
func (b *Builder) Has(ctx context.Context, tag name.Tag) (bool, error) { return b.engine.has(ctx, tag) }

// Built returns the ID of the last image that this Builder, or one with the same hashes, built
// under tag; "" for none.
func (b *Builder) Built(tag name.Tag) string {
	id, _ := b.built.Load(tag)
	text, _ := id.(string)
	return text
}

// Remove removes the tag; the layers go with the last tag. A tag that is not there is no error.
func (b *Builder) Remove(ctx context.Context, tag name.Tag) error { return b.engine.remove(ctx, tag) }

// MissingBases returns the base images of input that have to be brought here before a build, which
// would otherwise use others than those that were hashed. The project's own are not among them. The
// error is event.ErrSuperseded if a base image has changed since.
func (b *Builder) MissingBases(ctx context.Context, input Input) (missing []name.Tag, err error) {
	asked := map[string]bool{} // stages share base images
	for _, hashed := range input.bases {
		key := baseKey(hashed.ref, hashed.platform) + " " + hashed.digest.String()
		if hashed.own != nil || asked[key] {
			continue
		}
		asked[key] = true
		tag, err := b.missingBase(ctx, hashed)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", input.Name, err)
		}
		if tag != nil && !slices.Contains(missing, *tag) {
			missing = append(missing, *tag)
		}
	}
	return missing, nil
}

// MissingFrom returns those of the project's images that input is built from and that are not here.
func (b *Builder) MissingFrom(ctx context.Context, input Input) (missing []Input, err error) {
	for _, hashed := range input.bases {
		if hashed.own == nil {
			continue
		}
		has, err := b.engine.has(ctx, hashed.own.Tag)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", input.Name, err)
		}
		same := func(other Input) bool { return other.Tag == hashed.own.Tag }
		if !has && !slices.ContainsFunc(missing, same) {
			missing = append(missing, *hashed.own)
		}
	}
	return missing, nil
}

// missingBase returns nil if a build here would use the base image that was hashed.
func (b *Builder) missingBase(ctx context.Context, hashed resolvedBase) (*name.Tag, error) {
	present, err := b.engine.base(ctx, hashed.ref, hashed.platform)
	switch {
	case err == nil && present != nil && present.digest() == hashed.digest:
		return nil, nil
	case hashed.local: // whatever the registry has by now
		tag, err := familiarTag(hashed.ref)
		if err != nil {
			return nil, event.Transient(fmt.Errorf("its base image is in Docker on this machine: %w", err))
		}
		return &tag, nil
	case err != nil:
		return nil, event.Transient(fmt.Errorf("base image %s: %w", hashed.ref, err))
	case present == nil: // the build asks the registry
		return nil, nil
	}
	now, _, err := b.bases.inRegistry(ctx, hashed.ref, hashed.platform)
	if err == nil && now.digest() == hashed.digest {
		return nil, event.Transient(event.WithHint(
			fmt.Errorf("the node holds another version of base image %s than its registry", hashed.ref),
			"have the node pull "+hashed.ref+", or build here: buildIn: host"))
	}
	b.bases.forget(hashed.ref, hashed.platform)
	return nil, fmt.Errorf("base image %s has changed: %w", hashed.ref, event.ErrSuperseded)
}

// familiarTag is a base image's name as people write it.
func familiarTag(ref string) (name.Tag, error) {
	parsed, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return name.Tag{}, err
	}
	return name.NewTag(reference.FamiliarString(reference.TagNameOnly(parsed)))
}

// Build builds the image and names it input.Tag. It gets the name last, and only if the inputs
// still have input's hash, or else the error is event.ErrSuperseded: a tag never stands for other
// content. Cancelling ctx ends the build.
func (b *Builder) Build(ctx context.Context, sink event.Sink, input Input) error {
	id, err := b.build(ctx, sink, input)
	if err == nil {
		b.built.Store(input.Tag, id)
	}
	return err
}

// BuildCopy is Build of an image that another place has, and that others are built from here. What
// runs is the one of the other place: it stays what Built returns.
func (b *Builder) BuildCopy(ctx context.Context, sink event.Sink, input Input) error {
	_, err := b.build(ctx, sink, input)
	return err
}

func (b *Builder) build(ctx context.Context, sink event.Sink, input Input) (id string, err error) {
	stage := sink.Stage("build")
	stage.Note(event.BuildingImage, event.Build{Image: input.image()})
	err = stage.Step(ctx, event.ImageBuilt, func(ctx context.Context) ([]any, error) {
		answer, err := b.solveStable(ctx, sink, input)
		if err == nil {
			if id, err = b.engine.name(ctx, answer, input.Tag); err != nil {
				err = fmt.Errorf("image %s: name it %s: %w", input.Name, input.Tag, err)
			}
		}
		if err != nil {
			b.discard(ctx, stage, answer, input.Tag)
			return nil, err
		}
		return []any{event.Build{Image: input.image(), ID: ShortID(id)}}, nil
	}, event.Build{Image: input.image()})
	if err != nil {
		forget(input.Checks)
	}
	return id, err
}

// image returns the image as events name it.
func (i Input) image() event.Image {
	return event.Image{Name: event.Name(i.Name), Tag: event.Name(i.Tag.TagStr()), Ref: event.Name(i.Tag.String())}
}

// discardTimeout bounds the clean-up after a build, whose own context may have ended.
const discardTimeout = 10 * time.Second

// discard removes what a build left that gets no name.
func (b *Builder) discard(ctx context.Context, stage event.Stage, answer map[string]string, tag name.Tag) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
	defer cancel()
	if err := b.engine.discard(ctx, answer, tag); err != nil {
		stage.Detail("what the build left could not be removed", "err", err.Error())
	}
}

// solveStable builds until no input was written meanwhile: BuildKit may have read half of a file
// that now has its old content again. The second time, whatever is the same comes from BuildKit's
// cache. With an error, the answer names what the caller should discard.
func (b *Builder) solveStable(
	ctx context.Context, sink event.Sink, input Input,
) (answer map[string]string, err error) {
	hasher := cmp.Or(b.hasher, b)
	for {
		// BuildKit asks registries at each build, and may get another base image than was hashed.
		var lookup errgroup.Group
		lookup.Go(func() error {
			return event.Guard(func() error {
				hasher.lookUpAgain(ctx, input.bases)
				return nil
			})
		})
		answer, err := b.solve(ctx, sink, input)
		if err = errors.Join(err, lookup.Wait()); err != nil {
			return answer, err
		}
		again, err := hasher.Hash(ctx, input.Image)
		switch {
		case err != nil:
			return answer, err
		case again.Hash != input.Hash:
			return answer, fmt.Errorf("image %s: an input changed during the build: %w", input.Name, event.ErrSuperseded)
		case again.stamp == input.stamp:
			return answer, nil
		}
		b.discard(ctx, sink.Stage("build"), answer, input.Tag)
		again.Checks = input.Checks
		input = again
	}
}

// ErrBrokeOff means that the daemon ended during a build. It may be back by now.
var ErrBrokeOff = errors.New("the build broke off")

// ErrServerBusy means that a server that a step needs, such as a package index, answered 429 or
// 5xx. It would answer so wherever the step ran.
var ErrServerBusy = errors.New("a server that the build needs is busy or broken")

// solve runs BuildKit and returns its answer. With an error, this has the image's ID as far as the
// progress told it, and may be nil.
func (b *Builder) solve(ctx context.Context, sink event.Sink, input Input) (answer map[string]string, err error) {
	stage := sink.Stage("build")
	options, err := b.options(input)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", input.Name, err)
	}
	buildkit, release, err := b.engine.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = release(err) }()
	output, err := createLog(b.logs, input)
	if err != nil {
		stage.Warn("the build's output is not kept", err, "image", event.Name(input.Name))
		output = nil
	} else {
		defer func() { _ = output.Close() }() // a build is not worse without it
	}
	progress := newProgress(stage, input, output)
	statuses := make(chan *bkclient.SolveStatus)
	var reading errgroup.Group
	reading.Go(func() error { //nolint:contextcheck // until statuses is closed, which Solve does
		defer func() {
			for range statuses { // Solve would block
			}
		}()
		return event.Guard(func() error {
			progress.read(statuses)
			return nil
		})
	})
	var response *bkclient.SolveResponse
	forget(input.Checks)
	if len(input.Checks) == 0 {
		response, err = buildkit.Solve(ctx, nil, options, statuses)
	} else {
		response, err = buildkit.Build(ctx, options, "",
			checkedBuild(sink, options.Frontend, options.FrontendAttrs, input.Checks), statuses)
	}
	if err := reading.Wait(); err != nil {
		return nil, fmt.Errorf("image %s: the build's progress: %w", input.Name, err)
	}
	if err != nil {
		if ctx.Err() != nil {
			return progress.answer, context.Cause(ctx)
		}
		if away := b.engine.ping(ctx); away != nil {
			return progress.answer, fmt.Errorf("image %s: %w: %w", input.Name, ErrBrokeOff, away)
		}
		return progress.answer, progress.explain(err, b.engine.place())
	}
	return response.ExporterResponse, nil
}

// options are what BuildKit is asked for.
func (b *Builder) options(input Input) (o bkclient.SolveOpt, err error) {
	contextFS, err := newTransferFS(input.Context, b.files)
	if err != nil {
		return o, fmt.Errorf("context: %w", err)
	}
	dockerfileFS, err := newTransferFS(filepath.Dir(input.Dockerfile), b.files)
	if err != nil {
		return o, fmt.Errorf("Dockerfile: %w", err)
	}
	platform, err := input.platform()
	if err != nil {
		return o, err
	}
	docker := dockerConfig()
	session, err := attachables(docker, input.Image)
	if err != nil {
		return o, err
	}
	args := map[string]string{}
	for key, value := range docker.ParseProxyConfig("default", nil) {
		args[key] = *value
	}
	maps.Copy(args, input.Args)
	o = bkclient.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: input.frontendOptions(platform, args),
		LocalMounts:   map[string]fsutil.FS{"context": contextFS, "dockerfile": dockerfileFS},
		// The daemon keeps a copy of the context under this key, and is sent only changes.
		SharedKey: "devloop:" + input.Context,
		Session:   session,
	}
	err = b.engine.export(&o, input.Tag)
	for _, hashed := range input.bases {
		if hashed.own != nil {
			err = errors.Join(err, b.engine.offer(&o, hashed.own.Tag))
		}
	}
	return o, err
}

// ShortID is enough of an image's ID to compare by eye.
func ShortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}
