package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/connrotation"

	"github.com/devloop/devloop/pkg/event"
)

// A restart of the cluster may change its API server's port, its certificates and the tokens in the
// kubeconfig. The connection follows the kubeconfig, but never to another cluster.

const (
	verifyTimeout = 2 * time.Second // for an API server that may have just started
	verifyPause   = time.Second     // after a failed verification
)

// ErrOtherCluster is why a kube context that now leads to another cluster is not used.
var ErrOtherCluster = event.WithHint(errors.New("another cluster answers there now, "+
	"to which nothing is deployed"), "start devloop again, for the cluster that is there now")

// connection reaches one cluster. As an http.RoundTripper it sends each request to the endpoint
// that the kubeconfig names at that time.
type connection struct {
	context string // name of the kube context

	reloading singleflight.Group // one request reloads a changed kubeconfig, the others wait

	mu       sync.Mutex
	uid      types.UID // of the cluster; the kubeconfig is not followed before it is known
	endpoint *endpoint
	err      error    // why the endpoint must not be used
	files    []string // that the kubeconfig consists of and refers to
	stamp    string   // of the files when they were read

	rejected   string // stamp of the last endpoint that failed verification
	rejectedAt time.Time

	trouble chan struct{} // holds a token after a request that got no answer
}

// endpoint is an API server as one version of the kubeconfig describes it.
type endpoint struct {
	config     *rest.Config // with the contents of the files that the kubeconfig names
	kubeconfig []byte       // the same, as a kubeconfig with this context alone
	files      []string     // the kubeconfig's, and those that it names
	proxy      string       // URL
	base       *url.URL
	transport  http.RoundTripper
	dialer     *connrotation.Dialer // of the transport
}

func newConnection(kubeContext string) (*connection, error) {
	e, err := readEndpoint(kubeContext)
	if err != nil {
		return nil, fmt.Errorf("kube context %q: %w", kubeContext, err)
	}
	c := &connection{context: kubeContext, endpoint: e, files: e.files, stamp: stamp(e.files),
		trouble: make(chan struct{}, 1)}
	return c, nil
}

// pin fixes which cluster it is. From now on the kubeconfig is followed.
func (c *connection) pin(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uid = uid
}

// readEndpoint reads the kubeconfig as it is now.
func readEndpoint(kubeContext string) (*endpoint, error) {
	loader, _, err := loadKubeconfig(kubeContext)
	if err != nil {
		return nil, err
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, err
	}
	e := &endpoint{config: config, files: append(slices.Clone(loader.ConfigAccess().GetLoadingPrecedence()),
		config.CAFile, config.CertFile, config.KeyFile)}
	if e.kubeconfig, err = minify(loader, kubeContext); err != nil {
		return nil, err
	}
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, err
	}
	// The files' contents count as they are now. client-go would reread them, every five minutes.
	config.CAFile, config.CertFile, config.KeyFile = "", "", ""
	config.WarningHandler = rest.NoWarnings{}

	if e.base, _, err = rest.DefaultServerUrlFor(config); err != nil {
		return nil, err
	}
	if e.base.Path == "" {
		e.base.Path = "/"
	}
	if config.Proxy != nil { // a func, which cannot be compared
		proxy, err := config.Proxy(&http.Request{URL: e.base})
		if err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		e.proxy = proxy.String()
	}
	e.dialer = connrotation.NewDialer((&net.Dialer{Timeout: AnswerTimeout, KeepAlive: 30 * time.Second}).DialContext)
	tracked := rest.CopyConfig(config)
	tracked.Dial = e.dialer.DialContext
	tracked.WrapTransport = newNetwork
	e.transport, err = rest.TransportFor(tracked)
	return e, err
}

// minify returns a kubeconfig with one context, and the contents of the files that it names.
func minify(loader clientcmd.ClientConfig, kubeContext string) ([]byte, error) {
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, err
	}
	config := raw.DeepCopy()
	config.CurrentContext = kubeContext
	if err := errors.Join(clientcmdapi.MinifyConfig(config), clientcmdapi.FlattenConfig(config)); err != nil {
		return nil, err
	}
	return clientcmd.Write(*config)
}

// equal reports whether both have the same address and credentials.
func (e *endpoint) equal(other *endpoint) bool {
	a, b := rest.CopyConfig(e.config), rest.CopyConfig(other.config)
	a.Proxy, b.Proxy = nil, nil
	return e.proxy == other.proxy && reflect.DeepEqual(a, b)
}

// stamp identifies a state of files without reading them.
func stamp(files []string) string {
	var s strings.Builder
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			fmt.Fprintf(&s, "%s: none\n", file)
			continue
		}
		fmt.Fprintf(&s, "%s: %d bytes of %s\n", file, info.Size(), info.ModTime())
	}
	return s.String()
}

// current returns the endpoint. If the kubeconfig has changed it is the new one, as soon as the
// cluster answers there. Until then it is the old one, unless that may lead to another cluster by
// now. No request is sent while a new endpoint is verified.
func (c *connection) current(ctx context.Context) (*endpoint, error) {
	c.mu.Lock()
	e, err, changed := c.endpoint, c.err, c.changed() != ""
	c.mu.Unlock()
	if !changed {
		return e, err
	}
	return shared(ctx, &c.reloading, "", verifyTimeout, func(ctx context.Context) (*endpoint, error) {
		c.reload(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.endpoint, c.err
	})
}

// shared calls work once for all that ask for the same key at a time. work has a context of its
// own, so that a caller that gives up fails no other.
func shared[T any](ctx context.Context, group *singleflight.Group, key string, timeout time.Duration,
	work func(context.Context) (T, error)) (value T, err error) {
	results := group.DoChan(key, func() (any, error) {
		late := event.Transient(fmt.Errorf("the API server has not answered after %s", timeout))
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), timeout, late)
		defer cancel()
		var value T
		err := event.Guard(func() (err error) {
			value, err = work(ctx)
			return err
		})
		return value, err
	})
	select {
	case result := <-results:
		return result.Val.(T), result.Err
	case <-ctx.Done():
		return value, context.Cause(ctx)
	}
}

// changed returns the stamp of the files if they have changed and should be read, else "". The
// caller holds mu.
func (c *connection) changed() string {
	found := stamp(c.files)
	if c.uid == "" || found == c.stamp || found == c.rejected && time.Since(c.rejectedAt) < verifyPause {
		return ""
	}
	return found
}

// reload takes the endpoint that the kubeconfig names now, if it leads to the same cluster.
func (c *connection) reload(ctx context.Context) {
	c.mu.Lock()
	found, old := c.changed(), c.endpoint
	c.mu.Unlock()
	if found == "" {
		return // another request has just done it
	}
	next, readErr := readEndpoint(c.context)
	same := readErr == nil && next.equal(old)
	var err error
	if readErr == nil && !same {
		err = c.verify(ctx, next)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if readErr != nil { // "minikube stop" removes the context, and a file may be half written
		c.stamp = found
		return
	}
	c.files = next.files
	if same { // another context was selected, or another cluster's entry changed
		c.stamp, c.err = found, nil
		return
	}
	moved := *next.base != *old.base
	if err == nil {
		if moved {
			old.dialer.CloseAll() // or watches would wait on the old address
		}
		c.endpoint, c.err, c.stamp = next, nil, found
		return
	}
	c.rejected, c.rejectedAt = found, time.Now()
	if other := errors.Is(err, ErrOtherCluster); other || !moved || errors.As(err, new(apierrors.APIStatus)) {
		c.err = fmt.Errorf("kube context %q: %w", c.context, err)
		if other {
			old.dialer.CloseAll()
		}
	}
}

// verify returns an error unless the same cluster answers at an endpoint.
func (c *connection) verify(ctx context.Context, e *endpoint) error {
	config := rest.CopyConfig(e.config)
	config.WrapTransport = newNetwork
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	system, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	switch {
	case err != nil:
		return err
	case system.UID != c.uid:
		return ErrOtherCluster
	}
	return nil
}

// host is an address to make clients with. RoundTrip replaces it.
func (c *connection) host() string {
	return (&url.URL{Scheme: c.endpoint.base.Scheme, Host: c.endpoint.base.Host}).String()
}

// RoundTrip sends a request to the current endpoint, unless it may not be sent now: see ReadOnly.
func (c *connection) RoundTrip(r *http.Request) (*http.Response, error) {
	e, err := c.current(r.Context())
	if err == nil && changes(r) {
		err = MayWrite(r.Context())
	}
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as a RoundTripper has to
		}
		return nil, err
	}
	to := e.base.JoinPath(r.URL.EscapedPath())
	to.RawQuery = r.URL.RawQuery
	r = r.Clone(r.Context())
	r.URL, r.Host = to, ""
	answer, err := e.transport.RoundTrip(r)
	if err != nil && r.Context().Err() == nil {
		select {
		case c.trouble <- struct{}{}:
		default: // one is there already
		}
	}
	return answer, err
}

// refuse keeps requests from an endpoint at which another cluster answers.
func (c *connection) refuse() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = fmt.Errorf("kube context %q: %w", c.context, ErrOtherCluster)
	c.endpoint.dialer.CloseAll()
}

// server is the URL of the API server that the last endpoint has.
func (c *connection) server() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endpoint.config.Host
}

// config is that of the last endpoint. The caller must not modify it.
func (c *connection) config() *rest.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endpoint.config
}
