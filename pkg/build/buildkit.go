package build

// The engines without a Docker daemon: the BuildKit of a node, whose images land in the node's
// containerd, and the one that BUILDKIT_HOST names, whose images land in devloop's registry.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/distribution/reference"
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

// askTimeout is how long a BuildKit may take to list its workers.
const askTimeout = 10 * time.Second

// Store is the containerd that a node's BuildKit works for.
type Store interface {
	Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error)
	// Rename gives an image another name and takes the first away.
	Rename(ctx context.Context, from, to name.Tag) error
	// Remove takes a name away. A name that is not there is no error.
	Remove(ctx context.Context, tag name.Tag) error
}

// Registry is where the images of a remote BuildKit land.
type Registry interface {
	// Content holds the registry's blobs.
	Content() content.Store
	Has(tag name.Tag) bool
	// IDs returns the image's digests, first that of what was pushed; nil if it is not there.
	IDs(tag name.Tag) []string
	// Tag gives a manifest among the blobs a tag.
	Tag(digest string, tag name.Tag) error
	Prune(tag name.Tag) error
}

// buildkit is what both engines share: a way to connect.
type buildkit struct {
	connect func(context.Context) (*bkclient.Client, error)
	// keep has all calls use one connection, which stays open while it works: to open one takes a
	// process on the node. connect must notice a dead one.
	keep bool

	mu      sync.Mutex
	current *connection // nil for none
}

// connection is closed when its last user leaves it.
type connection struct {
	*bkclient.Client
	users int
}

func (b *buildkit) open(ctx context.Context) (*bkclient.Client, func(error) error, error) {
	if !b.keep {
		client, err := b.connect(ctx)
		return client, func(err error) error { return errors.Join(err, client.Close()) }, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == nil {
		client, err := b.connect(ctx)
		if err != nil {
			return nil, nil, err
		}
		b.current = &connection{client, 1} // b is a user itself
	}
	used := b.current
	used.users++
	return used.Client, func(err error) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		mayBeBroken := err != nil && !errors.Is(ctx.Err(), context.Canceled)
		err = errors.Join(err, used.leave())
		if mayBeBroken && b.current == used {
			err = errors.Join(err, b.drop())
		}
		return err
	}, nil
}

// drop has the next call connect again. The caller holds mu.
func (b *buildkit) drop() error {
	if b.current == nil {
		return nil
	}
	err := b.current.leave()
	b.current = nil
	return err
}

func (c *connection) leave() error {
	if c.users--; c.users > 0 {
		return nil
	}
	return c.Close()
}

func (b *buildkit) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.drop()
}

func (b *buildkit) ping(ctx context.Context) error {
	_, err := b.workers(ctx)
	return err
}

// workers asks for what every BuildKit can answer.
func (b *buildkit) workers(ctx context.Context) ([]*bkclient.WorkerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client, release, err := b.open(ctx)
	if err != nil {
		return nil, event.Transient(fmt.Errorf("connect: %w", err))
	}
	found, err := client.ListWorkers(ctx)
	if err = release(err); err != nil {
		return nil, event.Transient(fmt.Errorf("ask for its workers: %w", err))
	}
	return found, nil
}

// base asks BuildKit itself, which looks where a build would: in its store, then in the registry.
func (b *buildkit) base(ctx context.Context, ref string, platform ocispecs.Platform) (found *base, err error) {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	client, release, err := b.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = release(err) }()
	session := bkclient.SolveOpt{Session: []session.Attachable{credentials(dockerConfig())}, Internal: true}
	image := sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &platform, ResolveMode: "local"}}
	_, err = client.Build(ctx, session, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		_, _, config, err := c.ResolveImageConfig(ctx, ref, image)
		if err == nil {
			found, err = parseBase(config)
		}
		return gateway.NewResult(), err
	}, nil)
	return found, err
}

func manifestDigest(answer map[string]string) (string, error) {
	found := digest.Digest(answer[exptypes.ExporterImageDigestKey])
	if err := found.Validate(); err != nil {
		return "", fmt.Errorf("BuildKit built it and does not say what (answer: %v): %w", answer, err)
	}
	return found.String(), nil
}

type containerdEngine struct {
	*buildkit
	store Store
	at    Place
}

func (e *containerdEngine) place() Place { return e.at }

func (e *containerdEngine) ping(ctx context.Context) error {
	if err := e.buildkit.ping(ctx); err != nil {
		return e.at.away(err)
	}
	return nil
}

func newContainerdEngine(
	ctx context.Context, dial func(context.Context) (net.Conn, error), store Store, at Place,
) (*containerdEngine, error) {
	shared := &buildkit{keep: true, connect: func(ctx context.Context) (*bkclient.Client, error) {
		return bkclient.New(ctx, "", bkclient.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return dial(ctx)
		}))
	}}
	found, err := shared.workers(ctx)
	if err != nil {
		return nil, at.away(err)
	}
	if !slices.ContainsFunc(found, func(w *bkclient.WorkerInfo) bool {
		return w.Labels[label.ContainerdNamespace] == "k8s.io"
	}) {
		err := errors.New("the node's BuildKit does not work for the kubelet's containerd")
		return nil, errors.Join(err, shared.close())
	}
	return &containerdEngine{shared, store, at}, nil
}

func (e *containerdEngine) has(ctx context.Context, tag name.Tag) (bool, error) {
	missing, err := e.store.Missing(ctx, []name.Tag{tag})
	return len(missing) == 0, err
}

// Temporary returns the name that an image has until it gets its own: BuildKit gives a name at
// once, and containerd collects images without one. Docker needs it only to remove an image.
func Temporary(tag name.Tag) (name.Tag, error) {
	return name.NewTag("devloop.invalid/" + tag.RepositoryStr() + ":" + tag.TagStr())
}

// export stores the layers uncompressed, since they stay on the node, and unpacks them, so that the
// first pod need not wait for that.
func (e *containerdEngine) export(options *bkclient.SolveOpt, tag name.Tag) error {
	temporary, err := Temporary(tag)
	options.Exports = []bkclient.ExportEntry{{Type: bkclient.ExporterImage, Attrs: map[string]string{
		"name": temporary.String(), "unpack": "true", "compression": "uncompressed",
	}}}
	options.Internal = true // nobody looks at the history of a node's builds, and to record it takes time
	return err
}

// offer has nothing to do: a BuildKit that works for containerd looks into its image store.
func (*containerdEngine) offer(*bkclient.SolveOpt, name.Tag) error { return nil }

func (e *containerdEngine) name(ctx context.Context, answer map[string]string, tag name.Tag) (string, error) {
	id, err := manifestDigest(answer)
	if err != nil {
		return "", err
	}
	temporary, err := Temporary(tag)
	if err != nil {
		return "", err
	}
	return id, event.Transient(e.store.Rename(ctx, temporary, tag)) // another devloop may have built the same
}

func (e *containerdEngine) discard(ctx context.Context, _ map[string]string, tag name.Tag) error {
	temporary, err := Temporary(tag)
	if err != nil {
		return err
	}
	return e.store.Remove(ctx, temporary)
}

func (e *containerdEngine) remove(ctx context.Context, tag name.Tag) error {
	return e.store.Remove(ctx, tag)
}

type remoteEngine struct {
	*buildkit
	address  string // as in BUILDKIT_HOST
	registry Registry
}

func newRemoteEngine(address string, registry Registry) *remoteEngine {
	return &remoteEngine{&buildkit{connect: func(ctx context.Context) (*bkclient.Client, error) {
		return bkclient.New(ctx, address)
	}}, address, registry}
}

func (e *remoteEngine) place() Place {
	return Place{"BUILDKIT_HOST=" + e.address, "check BUILDKIT_HOST, and that a buildkitd runs there",
		"buildctl --addr " + e.address + " prune"}
}

func (e *remoteEngine) ping(ctx context.Context) error {
	if err := e.buildkit.ping(ctx); err != nil {
		return e.place().away(err)
	}
	return nil
}

func (e *remoteEngine) has(_ context.Context, tag name.Tag) (bool, error) {
	return e.registry.Has(tag), nil
}

// export has BuildKit send the registry the blobs that it is missing.
func (e *remoteEngine) export(options *bkclient.SolveOpt, _ name.Tag) error {
	options.Exports = []bkclient.ExportEntry{{
		Type: bkclient.ExporterOCI, Attrs: map[string]string{"tar": "false"}, OutputStore: e.registry.Content(),
	}}
	return nil
}

// ownStore is what builds call the registry's blobs.
const ownStore = "devloop"

// offer has BuildKit fetch the image from the registry's blobs, by way of the build's session.
func (e *remoteEngine) offer(options *bkclient.SolveOpt, tag name.Tag) error {
	ids := e.registry.IDs(tag)
	if ids == nil {
		return event.Transient(fmt.Errorf("image %s is no longer in devloop's registry", tag))
	}
	ref, err := reference.ParseNormalizedNamed(tag.String())
	if err != nil {
		return err
	}
	options.FrontendAttrs["context:"+reference.FamiliarString(ref)] = "oci-layout://" + ownStore + "@" + ids[0]
	options.OCIStores = map[string]content.Store{ownStore: e.registry.Content()}
	return nil
}

func (e *remoteEngine) name(_ context.Context, answer map[string]string, tag name.Tag) (string, error) {
	id, err := manifestDigest(answer)
	if err != nil {
		return "", err
	}
	return id, e.registry.Tag(id, tag)
}

// discard has nothing to do: the next Prune removes blobs that no image uses.
func (*remoteEngine) discard(context.Context, map[string]string, name.Tag) error { return nil }

func (e *remoteEngine) remove(_ context.Context, tag name.Tag) error { return e.registry.Prune(tag) }
