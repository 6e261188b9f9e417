// Clusters beyond this machine: images go into a registry that their nodes reach, and are named by what they are.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/devloop/devloop/pkg/event"
)

// Push is the way to images by registries that the nodes pull from. It is safe for concurrent use.
type Push struct {
	plain bool // http beyond loopback is allowed

	mu      sync.Mutex
	digests map[name.Tag]seen    // what is there
	layers  map[v1.Hash]name.Tag // an image that brought this layer there
}

// pushJobs is how many layers of an image are sent side by side.
const pushJobs = 4

// NewPush returns a way to registries. Credentials are those that Docker's client keeps. plain allows http beyond loopback.
func NewPush(plain bool) *Push {
	return &Push{plain: plain, digests: map[name.Tag]seen{}, layers: map[v1.Hash]name.Tag{}}
}

// options are for one exchange with a registry, sent counts the bytes that go there.
func (p *Push) options(ctx context.Context, sent *atomic.Int64) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithJobs(pushJobs),
		remote.WithTransport(outward{p.plain, sent})}
}

// ref is tag for go-containerregistry, which has to be told where plain http may be tried.
func (p *Push) ref(tag name.Tag) (name.Tag, error) {
	if p.plain {
		return name.NewTag(tag.String(), name.Insecure)
	}
	return tag, nil
}

// outward counts what is sent, and refuses plain http beyond loopback: go-containerregistry tries it with private addresses by itself.
type outward struct {
	plain bool
	sent  *atomic.Int64
}

func (o outward) RoundTrip(req *http.Request) (*http.Response, error) {
	if !o.plain && req.URL.Scheme == "http" && !onLoopback(req.URL.Hostname()) {
		return nil, errPlain
	}
	if req.Body != nil {
		req = req.Clone(req.Context()) // it is the caller's
		req.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(req.Body, counter{o.sent}), req.Body}
	}
	return remote.DefaultTransport.RoundTrip(req)
}

var errPlain = errors.New("it does not speak https, and plain http is only taken on this machine")

func onLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Digest returns what is known to be in the registry under tag, "" before Missing or Give has seen it there.
func (p *Push) Digest(tag name.Tag) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.digests[tag].digest
}

// seen is what a registry had under a tag. That is made from the content, so that it stays what it is; but it may be removed.
type seen struct {
	digest string
	at     time.Time
}

func (p *Push) note(tag name.Tag, digest v1.Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.digests[tag] = seen{digest.String(), time.Now()}
}

func (p *Push) fresh(tag name.Tag) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.digests[tag].digest != "" && time.Since(p.digests[tag].at) <= knownFor
}

func (p *Push) forget(tag name.Tag) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.digests, tag)
}

// Missing returns those of tags that the registry lacks.
func (p *Push) Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	lacks := make([]bool, len(tags))
	group, ctx := event.NewGroup(ctx)
	for i, tag := range tags {
		if p.fresh(tag) {
			continue
		}
		group.Go(func() error {
			ref, err := p.ref(tag)
			if err != nil {
				return err
			}
			found, err := remote.Head(ref, p.options(ctx, new(atomic.Int64))...)
			var answered *ggcr.Error
			switch {
			case err == nil:
				p.note(tag, found.Digest)
			case errors.As(err, &answered) && answered.StatusCode == http.StatusNotFound:
				lacks[i] = true
				p.forget(tag)
			default:
				return p.explain(tag, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var missing []name.Tag
	for i, tag := range tags {
		if lacks[i] {
			missing = append(missing, tag)
		}
	}
	return missing, nil
}

// Give brings the images, which source has, from devloop's own registry into this one: only the blobs that it lacks.
func (p *Push) Give(ctx context.Context, sink event.Sink, source Source, registry *Registry, tags []name.Tag) error {
	// One after the other: what two images share is sent with the first and mounted for the second.
	return loadEach(ctx, sink, tags, 1, pushTimeout, func(ctx context.Context, tag name.Tag, sent *atomic.Int64) ([]any, error) {
		start := time.Now()
		stored, err := registry.receive(ctx, source, tag)
		if err != nil {
			return nil, err
		}
		pushed := time.Since(start)
		image, err := registry.reader(stored)
		if err != nil {
			return nil, fmt.Errorf("image registry: %w", err)
		}
		digest, digestErr := image.Digest()
		layers, layersErr := image.Layers()
		ref, refErr := p.ref(tag)
		if err := errors.Join(digestErr, layersErr, refErr); err != nil {
			return nil, fmt.Errorf("image registry: %s: %w", tag, err)
		}
		if err := remote.Write(ref, mountable{image, p.mounts(layers, ref)}, p.options(ctx, sent)...); err != nil {
			return nil, p.explain(tag, err)
		}
		p.note(tag, digest)
		p.noteLayers(ref, layers)
		return []any{"bytes", sent.Load(), "push", pushed.Round(time.Millisecond), "registry", tag.RegistryStr()}, nil
	})
}

// mountable is an image some of whose layers may be mounted from others.
type mountable struct {
	v1.Image
	layers []v1.Layer
}

func (m mountable) Layers() ([]v1.Layer, error) { return m.layers, nil }

// mounts tells of each layer where in the registry of ref it is already.
func (p *Push) mounts(layers []v1.Layer, ref name.Tag) []v1.Layer {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.Clone(layers)
	for i, layer := range list {
		digest, err := layer.Digest()
		if from, ok := p.layers[digest]; ok && err == nil && from.Registry == ref.Registry {
			list[i] = &remote.MountableLayer{Layer: layer, Reference: from}
		}
	}
	return list
}

func (p *Push) noteLayers(ref name.Tag, layers []v1.Layer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, layer := range layers {
		if digest, err := layer.Digest(); err == nil {
			p.layers[digest] = ref
		}
	}
}

// explain says what can be done about a registry's refusal.
func (p *Push) explain(tag name.Tag, err error) error {
	failure := fmt.Errorf("registry %s: image %s: %w", tag.RegistryStr(), tag.RepositoryStr()+":"+tag.TagStr(), err)
	var answered *ggcr.Error
	var dial net.Error
	switch {
	case errors.As(err, new(*tls.CertificateVerificationError)): // of private addresses http was tried, too
		return event.WithHint(failure, "have this machine trust the registry's certificate")
	case errors.Is(err, errPlain), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"): // net/http's words
		return event.WithHint(failure, "give it a certificate, or allow plain http: push: http://"+tag.RegistryStr()+"/…")
	case errors.As(err, &answered) && (answered.StatusCode == http.StatusUnauthorized || answered.StatusCode == http.StatusForbidden):
		return event.WithHint(failure, "docker login "+tag.RegistryStr())
	case errors.As(err, &answered) && !answered.Temporary():
		return failure
	case errors.As(err, &dial), answered != nil, strings.Contains(err.Error(), "connection re"):
		return event.Transient(event.WithHint(failure, "check the registry and the network"))
	}
	return failure
}
