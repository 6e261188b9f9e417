// The engines that are a BuildKit without a Docker around it: that of a node, whose images land in the node's containerd, and one
// somewhere else (BUILDKIT_HOST), whose images land in devloop's registry.
package build

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/google/go-containerregistry/pkg/name"
	bkclient "github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer" // what BUILDKIT_HOST may begin with
	_ "github.com/moby/buildkit/client/connhelper/kubepod"
	_ "github.com/moby/buildkit/client/connhelper/nerdctlcontainer"
	_ "github.com/moby/buildkit/client/connhelper/podmancontainer"
	_ "github.com/moby/buildkit/client/connhelper/ssh"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/worker/label"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

// askTimeout is how long a BuildKit may take to say what it works with.
const askTimeout = 10 * time.Second

// Store is the containerd that a node's BuildKit works for.
type Store interface {
	Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error)
	// Rename gives an image another name and takes the first away.
	Rename(ctx context.Context, from, to name.Tag) error
	// Remove takes a name away. It is no error if it is not there.
	Remove(ctx context.Context, tag name.Tag) error
}

type containerdEngine struct {
	dial  func(context.Context) (net.Conn, error)
	store Store
}

func (e *containerdEngine) open(ctx context.Context) (*bkclient.Client, error) {
	return bkclient.New(ctx, "", bkclient.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return e.dial(ctx) }))
}

func (e *containerdEngine) alive(ctx context.Context) error {
	_, err := workers(ctx, e)
	return err
}

// workers asks the BuildKit of an engine for what it works with, which a BuildKit always answers.
func workers(ctx context.Context, e engine) ([]*bkclient.WorkerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	buildkit, err := e.open(ctx)
	if err != nil {
		return nil, event.Transient(fmt.Errorf("connect to BuildKit: %w", err))
	}
	found, err := buildkit.ListWorkers(ctx)
	if err = errors.Join(err, buildkit.Close()); err != nil {
		return nil, event.Transient(fmt.Errorf("no answer from BuildKit: %w", err))
	}
	return found, nil
}

// check makes sure that images land where the kubelet looks for them.
func (e *containerdEngine) check(ctx context.Context) error {
	found, err := workers(ctx, e)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(found, func(w *bkclient.WorkerInfo) bool { return w.Labels[label.ContainerdNamespace] == "k8s.io" }) {
		return errors.New("the node's BuildKit does not work for the kubelet's containerd")
	}
	return nil
}

// base asks BuildKit itself, which looks into containerd and then asks the registry, as it does in a build.
func (e *containerdEngine) base(ctx context.Context, ref string, platform ocispecs.Platform) (*base, error) {
	return resolve(ctx, e, ref, platform)
}

func resolve(ctx context.Context, e engine, ref string, platform ocispecs.Platform) (found *base, err error) {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	buildkit, err := e.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, buildkit.Close()) }()
	_, err = buildkit.Build(ctx, bkclient.SolveOpt{Session: []session.Attachable{credentials(dockerConfig())}}, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		_, _, config, err := c.ResolveImageConfig(ctx, ref, sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &platform, ResolveMode: "local"}})
		if err == nil {
			found, err = parseBase(config)
		}
		return gateway.NewResult(), err
	}, nil)
	return found, err
}

func (e *containerdEngine) has(ctx context.Context, tag name.Tag) (bool, error) {
	missing, err := e.store.Missing(ctx, []name.Tag{tag})
	return len(missing) == 0, err
}

// building is what an image is called until it has its name: BuildKit names it itself, and an image without a name is garbage.
func building(tag name.Tag) (name.Tag, error) {
	return name.NewTag("devloop.invalid/" + tag.RepositoryStr() + ":" + tag.TagStr())
}

// export has the layers stored as they are, since nothing has to be moved, and unpacked, so that the first pod need not wait for that.
func (e *containerdEngine) export(tag name.Tag) (bkclient.ExportEntry, error) {
	temporary, err := building(tag)
	return bkclient.ExportEntry{Type: bkclient.ExporterImage, Attrs: map[string]string{
		"name": temporary.String(), "unpack": "true", "compression": "uncompressed",
	}}, err
}

func (*containerdEngine) built(_ context.Context, answer map[string]string) (string, error) {
	return manifestDigest(answer)
}

func manifestDigest(answer map[string]string) (string, error) {
	found := digest.Digest(answer[exptypes.ExporterImageDigestKey])
	if err := found.Validate(); err != nil {
		return "", fmt.Errorf("BuildKit built it and does not say what (answer: %v): %w", answer, err)
	}
	return found.String(), nil
}

func (e *containerdEngine) name(ctx context.Context, _ string, tag name.Tag) error {
	temporary, err := building(tag)
	if err != nil {
		return err
	}
	return event.Transient(e.store.Rename(ctx, temporary, tag)) // another devloop may have built the same
}

func (e *containerdEngine) drop(ctx context.Context, tag name.Tag) error {
	temporary, err := building(tag)
	if err != nil {
		return err
	}
	return e.store.Remove(ctx, temporary)
}

// remove takes away what a build that was killed has left, too.
func (e *containerdEngine) remove(ctx context.Context, tag name.Tag) error {
	return errors.Join(e.store.Remove(ctx, tag), e.drop(ctx, tag))
}

// Registry is where the images of a remote BuildKit land.
type Registry interface {
	// Content holds the registry's blobs.
	Content() content.Store
	Has(tag name.Tag) bool
	// Name gives a manifest among the blobs a tag.
	Name(digest string, tag name.Tag) error
	Prune(tag name.Tag) error
}

type remoteEngine struct {
	address  string // as in BUILDKIT_HOST
	registry Registry
}

func (e *remoteEngine) open(ctx context.Context) (*bkclient.Client, error) {
	return bkclient.New(ctx, e.address)
}

func (e *remoteEngine) alive(ctx context.Context) error {
	if _, err := workers(ctx, e); err != nil {
		return event.WithHint(fmt.Errorf("BUILDKIT_HOST=%s: %w", e.address, err), "check BUILDKIT_HOST, and that a buildkitd runs there")
	}
	return nil
}

func (e *remoteEngine) base(ctx context.Context, ref string, platform ocispecs.Platform) (*base, error) {
	return resolve(ctx, e, ref, platform)
}

func (e *remoteEngine) has(_ context.Context, tag name.Tag) (bool, error) {
	return e.registry.Has(tag), nil
}

// export takes the blobs that the registry lacks right into it.
func (e *remoteEngine) export(name.Tag) (bkclient.ExportEntry, error) {
	return bkclient.ExportEntry{Type: bkclient.ExporterOCI, Attrs: map[string]string{"tar": "false"},
		OutputStore: e.registry.Content()}, nil
}

func (*remoteEngine) built(_ context.Context, answer map[string]string) (string, error) {
	return manifestDigest(answer)
}

func (e *remoteEngine) name(_ context.Context, id string, tag name.Tag) error {
	return e.registry.Name(id, tag)
}

// drop has nothing to do: blobs that no image uses go with the next Prune.
func (*remoteEngine) drop(context.Context, name.Tag) error { return nil }

func (e *remoteEngine) remove(_ context.Context, tag name.Tag) error { return e.registry.Prune(tag) }
