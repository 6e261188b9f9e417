// Package build turns the inputs of an image into a content hash, and into an image when that hash is new. Images are built
// by BuildKit: that of a Docker daemon, of a node, or of another machine (docker.go, buildkit.go).
package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/name"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/moby/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// Builder builds images at one place. It is safe for concurrent use.
type Builder struct {
	engine engine
	hasher *Builder // that made the hashes of what is built, nil for itself
	*memory
}

// memory is what builders that hash the same know of what was hashed before.
type memory struct {
	logs     string // folder
	bases    *baseCache
	files    *fileDigests
	contexts *contexts

	builtMu sync.Mutex
	built   map[name.Tag]string // IDs of what was built
}

// engine is one BuildKit and the store that its images land in.
type engine interface {
	// open connects to BuildKit. The caller closes the connection.
	open(ctx context.Context) (*bkclient.Client, error)
	// alive returns why nothing answers, or nil.
	alive(ctx context.Context) error
	// base returns what a reference to a base image stands for there, nil where it is not known.
	base(ctx context.Context, ref string, platform ocispecs.Platform) (*base, error)
	has(ctx context.Context, tag name.Tag) (bool, error)
	// export is how BuildKit hands over an image that is to be named tag.
	export(tag name.Tag) (bkclient.ExportEntry, error)
	// built returns the ID of what was handed over.
	built(ctx context.Context, answer map[string]string) (id string, err error)
	// name makes it tag, the only name that it has.
	name(ctx context.Context, id string, tag name.Tag) error
	// drop lets go of what gets no name.
	drop(ctx context.Context, tag name.Tag) error
	remove(ctx context.Context, tag name.Tag) error
}

// New returns a Builder for the daemon that docker talks to; cacheDir keeps what registries said of base images. The caller
// keeps ownership of docker.
func New(docker *client.Client, cacheDir string) *Builder {
	return newBuilder(&dockerEngine{docker}, cacheDir)
}

// Alone returns a Builder that builds where b does, and hashes by itself.
func (b *Builder) Alone() *Builder { return &Builder{engine: b.engine, memory: b.memory} }

// Remote returns a Builder for the BuildKit at address, of the form that BUILDKIT_HOST has. Images land in registry.
func Remote(address string, registry Registry, cacheDir string) *Builder {
	return newBuilder(&remoteEngine{address: address, registry: registry}, cacheDir)
}

// InDocker returns a Builder for the Docker daemon of a node. It builds what b has hashed.
func (b *Builder) InDocker(docker *client.Client) *Builder {
	return &Builder{engine: &dockerEngine{docker}, hasher: b, memory: b.memory}
}

// InContainerd returns a Builder for the BuildKit of a node whose runtime is containerd, reached by dial; store is that containerd. It builds
// what b has hashed. The error says why nothing can be built there.
func (b *Builder) InContainerd(ctx context.Context, dial func(context.Context) (net.Conn, error), store Store) (*Builder, error) {
	engine := &containerdEngine{dial: dial, store: store}
	if err := engine.check(ctx); err != nil {
		return nil, err
	}
	return &Builder{engine: engine, hasher: b, memory: b.memory}, nil
}

func newBuilder(engine engine, cacheDir string) *Builder {
	return &Builder{engine: engine, memory: &memory{
		logs:     filepath.Join(cacheDir, "builds"),
		bases:    &baseCache{dir: filepath.Join(cacheDir, "bases"), known: map[string]knownBase{}, dockerfiles: map[string][sha256.Size]byte{}},
		files:    &fileDigests{known: map[string]knownFile{}},
		contexts: &contexts{known: map[string]*hashedContext{}},
		built:    map[name.Tag]string{},
	}}
}

// Refresh has the next Hash ask registries what base images are now.
func (b *Builder) Refresh() { b.bases.refresh() }

// Alive returns why nothing answers, or nil.
func (b *Builder) Alive(ctx context.Context) error { return b.engine.alive(ctx) }

// Has tells whether the image is there.
func (b *Builder) Has(ctx context.Context, tag name.Tag) (bool, error) { return b.engine.has(ctx, tag) }

// Built returns the ID of what was built under tag last, by this Builder or one that hashes the same, "" if nothing was.
func (b *Builder) Built(tag name.Tag) string {
	b.builtMu.Lock()
	defer b.builtMu.Unlock()
	return b.memory.built[tag]
}

// Remove takes the tag away; the layers go with the last tag. A tag that is not there is no error.
func (b *Builder) Remove(ctx context.Context, tag name.Tag) error { return b.engine.remove(ctx, tag) }

// Lacking returns those base images of input for which a build here would take others than those that were hashed, so that they have to be
// brought here first. It is event.ErrSuperseded if one is not what it was when it was hashed.
func (b *Builder) Lacking(ctx context.Context, input Input) ([]name.Tag, error) {
	var lacking []name.Tag
	for _, hashed := range input.bases {
		held, err := b.engine.base(ctx, hashed.ref, hashed.platform)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil && held != nil && held.digest() == hashed.digest {
			continue
		}
		tag, tagErr := familiar(hashed.ref)
		switch {
		case hashed.local && tagErr == nil: // whatever the registry has by now
			lacking = append(lacking, tag)
		case hashed.local:
			return nil, event.Transient(fmt.Errorf("image %s: its base image is in Docker on this machine: %w", input.Name, tagErr))
		case err != nil:
			return nil, event.Transient(fmt.Errorf("image %s: base image %s: %w", input.Name, hashed.ref, err))
		case held != nil: // one of the two is outdated
			now, _, err := b.bases.inRegistry(ctx, hashed.ref, hashed.platform)
			if err == nil && now.digest() == hashed.digest {
				return nil, event.Transient(event.WithHint(fmt.Errorf("image %s: the node holds another version of base image %s than its registry", input.Name, hashed.ref),
					"have the node pull "+hashed.ref+", or build here: buildIn: host"))
			}
			b.bases.forget(hashed.ref, hashed.platform)
			return nil, fmt.Errorf("image %s: base image %s has changed: %w", input.Name, hashed.ref, event.ErrSuperseded)
		}
	}
	return lacking, nil
}

// familiar is a base image's name as people write it.
func familiar(ref string) (name.Tag, error) {
	parsed, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return name.Tag{}, err
	}
	return name.NewTag(reference.FamiliarString(reference.TagNameOnly(parsed)))
}

// Build builds the image and names it input.Tag. The name is given last, and only if the inputs still have input's hash: a
// tag never stands for content that it was not made from (else event.ErrSuperseded). Cancelling ctx ends the build.
func (b *Builder) Build(ctx context.Context, sink event.Sink, input Input) error {
	say := sink.For("build")
	say.Note(event.BuildingImage, "image", event.Name(input.Tag.String()))
	return say.Step(ctx, event.ImageBuilt, func(ctx context.Context) ([]any, error) {
		id, err := b.solveStill(ctx, say, input)
		if err == nil {
			if err = b.engine.name(ctx, id, input.Tag); err != nil {
				err = fmt.Errorf("image %s: name it %s: %w", input.Name, input.Tag, err)
			}
		}
		if err != nil {
			dropCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
			defer cancel()
			if left := b.engine.drop(dropCtx, input.Tag); left != nil {
				say.Detail("what the build left could not be removed", "err", left.Error())
			}
			return nil, err
		}
		b.builtMu.Lock()
		b.built[input.Tag] = id
		b.builtMu.Unlock()
		return []any{"id", ShortID(id)}, nil
	}, "image", event.Name(input.Tag.String()))
}

// dropTimeout is for letting go of what a build has left after its own context has ended.
const dropTimeout = 10 * time.Second

// solveStill builds until no input was written meanwhile: BuildKit may have read a file halfway that holds now what it held before. The
// second time, all that really is the same comes from its cache.
func (b *Builder) solveStill(ctx context.Context, say event.Stage, input Input) (id string, err error) {
	hasher := cmp.Or(b.hasher, b)
	for {
		// BuildKit asks registries at each build, and may get another base image than the one that was hashed: they are asked again meanwhile.
		var asking sync.WaitGroup
		var askErr error
		asking.Go(func() {
			askErr = event.Guard(func() error {
				hasher.askAgain(ctx, input.bases)
				return nil
			})
		})
		id, err := b.solve(ctx, say, input)
		asking.Wait()
		if err = errors.Join(err, askErr); err != nil {
			return "", err
		}
		again, err := hasher.Hash(ctx, input.Image)
		switch {
		case err != nil:
			return "", err
		case again.Hash != input.Hash:
			return "", fmt.Errorf("image %s: an input changed during the build: %w", input.Name, event.ErrSuperseded)
		case again.stamp == input.stamp:
			return id, nil
		}
		input = again
	}
}

// solve runs BuildKit and returns the image's ID.
func (b *Builder) solve(ctx context.Context, say event.Stage, input Input) (id string, err error) {
	options, err := b.options(input)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", input.Name, err)
	}
	buildkit, err := b.engine.open(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, buildkit.Close()) }()
	output, err := createLog(b.logs, input)
	if err != nil {
		say.Warn("the build's output is not kept", err, "image", event.Name(input.Name))
		output = nil
	} else {
		defer func() { _ = output.Close() }() // a build is not worse without it
	}
	progress := newProgress(say, input, output)
	statuses := make(chan *bkclient.SolveStatus)
	var reading sync.WaitGroup
	var readErr error
	reading.Go(func() { //nolint:contextcheck // until statuses is closed, which Solve does
		readErr = event.Guard(func() error {
			progress.read(statuses)
			return nil
		})
		for range statuses { // else Solve waits for who takes them
		}
	})
	response, err := buildkit.Solve(ctx, nil, options, statuses)
	reading.Wait()
	if readErr != nil {
		return "", fmt.Errorf("image %s: the build's progress: %w", input.Name, readErr)
	}
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if away := b.engine.alive(ctx); away != nil {
			return "", fmt.Errorf("image %s: the build broke off: %w", input.Name, away)
		}
		return "", progress.explain(err)
	}
	if id, err = b.engine.built(ctx, response.ExporterResponse); err != nil {
		return "", fmt.Errorf("image %s: %w", input.Name, err)
	}
	return id, nil
}

// options are what BuildKit is asked for.
func (b *Builder) options(input Input) (o bkclient.SolveOpt, err error) {
	export, err := b.engine.export(input.Tag)
	if err != nil {
		return o, err
	}
	contextFS, err := newSent(input.Context, b.files)
	if err != nil {
		return o, fmt.Errorf("context: %w", err)
	}
	dockerfileFS, err := newSent(filepath.Dir(input.Dockerfile), b.files)
	if err != nil {
		return o, fmt.Errorf("Dockerfile: %w", err) //nolint:staticcheck // a name
	}
	platform, err := input.platform()
	if err != nil {
		return o, err
	}
	docker := dockerConfig()
	session, err := attach(docker, input.Image)
	if err != nil {
		return o, err
	}
	args := map[string]string{}
	for key, value := range docker.ParseProxyConfig("default", nil) {
		args[key] = *value
	}
	maps.Copy(args, input.Args)
	return bkclient.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: input.frontendOptions(platform, args),
		LocalMounts:   map[string]fsutil.FS{"context": contextFS, "dockerfile": dockerfileFS},
		// The key names the context, so that the daemon keeps its copy and is sent only what changed.
		SharedKey: "devloop:" + input.Context,
		Session:   session,
		Exports:   []bkclient.ExportEntry{export},
	}, nil
}

// attach returns what a build may ask this machine for while it runs.
func attach(docker *configfile.ConfigFile, image Image) ([]session.Attachable, error) {
	attached := []session.Attachable{credentials(docker)}
	secrets := map[string][]byte{}
	for _, secret := range image.Secrets { // the Dockerfile says whether it is required
		if value, set := os.LookupEnv(secret.Env); secret.Env != "" && set {
			secrets[secret.ID] = []byte(value)
		}
		if secret.File == "" {
			continue
		}
		content, err := files.Read(secret.File, secretsprovider.MaxSecretSize)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("secret %s: %w", secret.ID, err)
		}
		if err == nil {
			secrets[secret.ID] = content
		}
	}
	attached = append(attached, secretsprovider.FromMap(secrets))
	if len(image.SSH) == 0 {
		return attached, nil
	}
	agents := make([]sshprovider.AgentConfig, len(image.SSH))
	for i, ssh := range image.SSH {
		for _, path := range ssh.Paths {
			if err := checkKey(path); err != nil {
				return nil, fmt.Errorf("ssh %s: %w", ssh.ID, err)
			}
		}
		agents[i] = sshprovider.AgentConfig{ID: ssh.ID, Paths: ssh.Paths}
	}
	ssh, err := sshprovider.NewSSHAgentProvider(agents)
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("ssh: %w", err), "start an agent and add the key: eval $(ssh-agent); ssh-add")
	}
	return append(attached, ssh), nil
}

// maxKey is the size of an ssh key, in bytes, of which BuildKit's library reads as much.
const maxKey = 100 << 10

// checkKey makes sure that a path is an agent's socket or a key: BuildKit's library would read
// anything, and wait for a pipe.
func checkKey(path string) error {
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		return nil
	}
	_, err := files.Read(path, maxKey)
	return err
}

// credentials let BuildKit ask for those that Docker's client keeps for registries.
func credentials(docker *configfile.ConfigFile) session.Attachable {
	return authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{AuthConfigProvider: authprovider.LoadAuthConfig(docker)})
}

// withoutProxies leaves out the build arguments that only say how the network is reached; BuildKit's own cache does so, too.
func withoutProxies(args map[string]string, dockerfile []byte) map[string]string {
	kept := maps.Clone(args)
	maps.DeleteFunc(kept, func(key, _ string) bool {
		isProxy := slices.Contains([]string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"}, strings.ToUpper(key))
		return isProxy && !bytes.Contains(dockerfile, []byte(key)) // one that the Dockerfile names may end up in the image
	})
	return kept
}

// dockerConfig is that of Docker's client; a broken file only means no credentials.
func dockerConfig() *configfile.ConfigFile { return config.LoadDefaultConfigFile(io.Discard) }

// ShortID is enough of an image's ID to compare it by eye.
func ShortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}
