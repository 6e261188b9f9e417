package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/devloop/devloop/pkg/event"
)

// RemoteRegistry brings images into registries that the nodes pull from, for clusters beyond this
// machine. It is safe for concurrent use.
type RemoteRegistry struct {
	plain   bool          // http is allowed beyond loopback
	loading chan struct{} // has one slot: shared layers are sent with one image, and mounted for the others

	mu     sync.Mutex
	images map[name.Tag]remoteImage
	layers map[v1.Hash]name.Tag // an image through which a layer came into the registry
}

// remoteImage is what a registry had under a tag. Tags are made from the content, so it does not
// change; but it may be deleted.
type remoteImage struct {
	digest string // "" if it was not there
	asked  time.Time
}

// pushJobs is how many layers of an image are sent in parallel.
const pushJobs = 4

// NewRemoteRegistry returns a RemoteRegistry, with the credentials of Docker's client. plain allows
// http beyond loopback.
func NewRemoteRegistry(plain bool) *RemoteRegistry {
	return &RemoteRegistry{plain: plain, loading: make(chan struct{}, 1), images: map[name.Tag]remoteImage{},
		layers: map[v1.Hash]name.Tag{}}
}

// options are for one exchange with a registry. sent counts the bytes that go there.
func (r *RemoteRegistry) options(ctx context.Context, sent *atomic.Int64) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithJobs(pushJobs), remote.WithTransport(outward{r.plain, sent})}
}

// ref is tag for go-containerregistry, which has to be told where it may try plain http.
func (r *RemoteRegistry) ref(tag name.Tag) (name.Tag, error) {
	if r.plain {
		return name.NewTag(tag.String(), name.Insecure)
	}
	return tag, nil
}

// outward counts what is sent, and refuses plain http beyond loopback: for private addresses,
// go-containerregistry tries it on its own.
type outward struct {
	plain bool
	sent  *atomic.Int64
}

func (o outward) RoundTrip(req *http.Request) (*http.Response, error) {
	if !o.plain && req.URL.Scheme == "http" && !onLoopback(req.URL.Hostname()) {
		return nil, errPlain
	}
	if req.Body != nil {
		req = req.Clone(req.Context()) // a RoundTripper must not change the caller's
		req.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(req.Body, counter{o.sent}), req.Body}
	}
	return remote.DefaultTransport.RoundTrip(req)
}

var errPlain = errors.New("it does not speak https, and plain http is only allowed on this machine")

func onLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Digest returns what the registry has under tag, "" before Missing or Load found or put it there.
func (r *RemoteRegistry) Digest(tag name.Tag) string { return r.image(tag).digest }

func (r *RemoteRegistry) image(tag name.Tag) remoteImage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.images[tag]
}

func (r *RemoteRegistry) setDigest(tag name.Tag, digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[tag] = remoteImage{digest, time.Now()}
}

// Missing returns those of tags that the registry does not have.
func (r *RemoteRegistry) Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var mu sync.Mutex
	missing := map[name.Tag]bool{}
	group, ctx := event.NewGroup(ctx)
	for _, tag := range tags {
		if image := r.image(tag); image.digest != "" && time.Since(image.asked) <= knownFor {
			continue
		}
		group.Go(func() error {
			ref, err := r.ref(tag)
			if err != nil {
				return err
			}
			found, err := remote.Head(ref, r.options(ctx, new(atomic.Int64))...)
			var answered *ggcr.Error
			switch {
			case err == nil:
				r.setDigest(tag, found.Digest.String())
			case errors.As(err, &answered) && answered.StatusCode == http.StatusNotFound:
				r.setDigest(tag, "")
				mu.Lock()
				defer mu.Unlock()
				missing[tag] = true
			default:
				return r.explain(tag, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return only(tags, missing), nil
}

// Load brings the images of source from devloop's own registry into the remote one: only the blobs
// that it does not have.
func (r *RemoteRegistry) Load(ctx context.Context, sink event.Sink, source Source, registry *Registry,
	images []Wanted) error {
	load := func(ctx context.Context, tag name.Tag, sent *atomic.Int64) ([]any, error) {
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
		if err := r.write(ctx, tag, image, sent); err != nil {
			return nil, err
		}
		return []any{"push", pushed.Round(time.Millisecond), "registry", tag.RegistryStr()}, nil
	}
	return loadEach(ctx, sink, images, r.loading, pushTimeout, load)
}

func (r *RemoteRegistry) write(ctx context.Context, tag name.Tag, image v1.Image, sent *atomic.Int64) error {
	digest, digestErr := image.Digest()
	layers, layersErr := image.Layers()
	ref, refErr := r.ref(tag)
	if err := errors.Join(digestErr, layersErr, refErr); err != nil {
		return fmt.Errorf("image registry: %s: %w", tag, err)
	}
	r.mu.Lock()
	for i, layer := range layers {
		digest, err := layer.Digest()
		if from, ok := r.layers[digest]; ok && err == nil && from.Registry == ref.Registry {
			layers[i] = &remote.MountableLayer{Layer: layer, Reference: from}
		}
	}
	r.mu.Unlock()
	if err := remote.Write(ref, imageOf{image, layers}, r.options(ctx, sent)...); err != nil {
		return r.explain(tag, err)
	}
	r.setDigest(tag, digest.String())
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, layer := range layers {
		if digest, err := layer.Digest(); err == nil {
			r.layers[digest] = ref
		}
	}
	return nil
}

// imageOf is an image whose layers come from elsewhere.
type imageOf struct {
	v1.Image
	layers []v1.Layer
}

func (i imageOf) Layers() ([]v1.Layer, error) { return i.layers, nil }

// isOfNetwork tells whether the error of a request is one of the connection. The request may also
// fail because what it sends cannot be read.
func isOfNetwork(err error) bool {
	var timeout interface{ Timeout() bool }
	return !errors.As(err, new(*fs.PathError)) &&
		(errors.As(err, new(*net.OpError)) || errors.As(err, new(*net.DNSError)) ||
			errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
			errors.As(err, &timeout) && timeout.Timeout() || strings.Contains(err.Error(), "connection re")) // refused, reset
}

// explain adds what the user can do about a registry's error.
func (r *RemoteRegistry) explain(tag name.Tag, err error) error {
	failure := fmt.Errorf("registry %s: image %s: %w", tag.RegistryStr(), tag.RepositoryStr()+":"+tag.TagStr(), err)
	var answered *ggcr.Error
	status := 0
	if errors.As(err, &answered) {
		status = answered.StatusCode
	}
	switch {
	case errors.As(err, new(*tls.CertificateVerificationError)): // for private addresses, http was tried, too
		return event.WithHint(failure, "have this machine trust the registry's certificate")
	case errors.Is(err, errPlain),
		strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"): // net/http's text
		hint := "give it a certificate, or allow plain http: push: http://" + tag.RegistryStr() + "/…"
		return event.WithHint(failure, hint)
	case strings.Contains(err.Error(), "error getting credentials"): // the text of docker-credential-helpers
		return event.WithHint(failure, "install the program that "+
			filepath.Join(dockerconfig.Dir(), dockerconfig.ConfigFileName)+
			" names (credsStore, credHelpers), or remove it there and docker login "+tag.RegistryStr())
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return event.WithHint(failure, "docker login "+tag.RegistryStr())
	case answered != nil && !answered.Temporary():
		return failure
	case answered != nil, isOfNetwork(err):
		return event.Transient(event.WithHint(failure, "check the registry and the network"))
	}
	return failure
}
