package kube

// A restart of the cluster may change its API server's port, its certificates and the tokens in the kubeconfig. The connection
// follows the kubeconfig, so that whoever uses the cluster goes on by itself; it never follows it to another cluster.

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

const (
	verifyTimeout = 2 * time.Second // for one question to an API server that may have just started
	verifyPause   = time.Second     // after one that was not answered
)

var ErrOtherCluster = event.WithHint(errors.New("its kube context names another cluster now, to which nothing is deployed"), "start devloop again")

// connection is the way to one cluster. As a http.RoundTripper it sends each request the way that the kubeconfig names now.
type connection struct {
	context string // name of the kube context

	following singleflight.Group // one request finds that the kubeconfig changed, the others wait for what comes of it

	mu    sync.Mutex
	uid   types.UID // of the cluster, once it is known
	files []string  // that were read
	stamp string    // of the files, before they were read
	now   *way
	err   error     // why it cannot be used
	asked time.Time // when the next way was tried last, in vain
	tried string    // the stamp of that way
}

// way is what one state of the kubeconfig says.
type way struct {
	config    *rest.Config // with the contents of the files that the kubeconfig names
	alone     []byte       // a kubeconfig that leads there and nowhere else, likewise
	files     []string     // the kubeconfig's, and those
	proxy     string
	base      *url.URL
	transport http.RoundTripper
	open      *connrotation.Dialer // of transport's connections
}

func newConnection(kubeContext string) (*connection, error) {
	c := &connection{context: kubeContext}
	var err error
	if c.now, err = c.read(); err == nil {
		c.files = c.now.files
		c.stamp = stamp(c.files)
	}
	return c, err
}

// is fixes which cluster it is: from now on the kubeconfig is followed.
func (c *connection) is(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uid = uid
}

// read makes a way of the kubeconfig as it is now.
func (c *connection) read() (*way, error) {
	loader, _, err := loadKubeconfig(c.context)
	if err != nil {
		return nil, err
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kube context %q: %w", c.context, err)
	}
	alone, err := minified(loader, c.context)
	if err != nil {
		return nil, fmt.Errorf("kube context %q: %w", c.context, err)
	}
	w := &way{config: config, alone: alone, files: append(slices.Clone(loader.ConfigAccess().GetLoadingPrecedence()),
		config.CAFile, config.CertFile, config.KeyFile)}
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, fmt.Errorf("kube context %q: %w", c.context, err)
	}
	// What was read is what counts; client-go would look at the files again only every five minutes.
	config.CAFile, config.CertFile, config.KeyFile = "", "", ""
	config.WarningHandler = rest.NoWarnings{}

	if w.base, _, err = rest.DefaultServerUrlFor(config); err != nil {
		return nil, fmt.Errorf("kube context %q: %w", c.context, err)
	}
	if w.base.Path == "" {
		w.base.Path = "/"
	}
	if config.Proxy != nil { // a func, which cannot be compared
		proxy, err := config.Proxy(&http.Request{URL: w.base})
		if err != nil {
			return nil, fmt.Errorf("kube context %q: proxy: %w", c.context, err)
		}
		w.proxy = proxy.String()
	}
	w.open = connrotation.NewDialer((&net.Dialer{Timeout: AnswerTimeout, KeepAlive: 30 * time.Second}).DialContext)
	tracked := rest.CopyConfig(config)
	tracked.Dial = w.open.DialContext
	if w.transport, err = rest.TransportFor(tracked); err != nil {
		return nil, fmt.Errorf("kube context %q: %w", c.context, err)
	}
	return w, nil
}

// minified returns a kubeconfig with one context of those that loader has read, and the contents of
// the files that it names.
func minified(loader clientcmd.ClientConfig, kubeContext string) ([]byte, error) {
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

// same reports whether both lead to the same place with the same credentials.
func (w *way) same(other *way) bool {
	a, b := rest.CopyConfig(w.config), rest.CopyConfig(other.config)
	a.Proxy, b.Proxy = nil, nil
	return w.proxy == other.proxy && reflect.DeepEqual(a, b)
}

// stamp tells two states of files apart without reading them.
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

// current is the way to the cluster. If the kubeconfig has changed it is the new one, as soon as
// the cluster answers there. Until then the old way goes on, unless it may lead to another cluster
// by now. While the cluster is asked whether it is the same, no request leaves; who asked first may
// give up without a harm to the others.
func (c *connection) current(ctx context.Context) (*way, error) {
	c.mu.Lock()
	now, err, moved := c.now, c.err, c.moved() != ""
	c.mu.Unlock()
	if !moved {
		return now, err
	}
	followed := c.following.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verifyTimeout)
		defer cancel()
		return nil, event.Stage{}.Guard("kubeconfig", func() error { c.follow(ctx); return nil })
	})
	select {
	case result := <-followed:
		if result.Err != nil {
			return nil, result.Err
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, c.err
}

// moved returns the stamp of the files if they have changed and are to be looked at, else "". The
// caller holds mu.
func (c *connection) moved() string {
	found := stamp(c.files)
	if c.uid == "" || found == c.stamp || found == c.tried && time.Since(c.asked) < verifyPause {
		return ""
	}
	return found
}

// follow takes the way that the kubeconfig names now, if it leads to the same cluster.
func (c *connection) follow(ctx context.Context) {
	c.mu.Lock()
	found, before := c.moved(), c.now
	c.mu.Unlock()
	if found == "" {
		return // another request has just done it
	}
	w, err := c.read()
	if err != nil { // "minikube stop" takes the context away, and a file may be half written
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stamp = found
		return
	}
	if w.same(before) { // another context was selected, or another cluster's entry changed
		c.mu.Lock()
		defer c.mu.Unlock()
		c.files, c.stamp, c.err = w.files, found, nil
		return
	}
	err = c.verify(ctx, w)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files = w.files
	elsewhere := *w.base != *before.base
	if err == nil {
		if elsewhere {
			before.open.CloseAll() // watches would else wait on what is gone
		}
		c.now, c.err, c.stamp = w, nil, found
		return
	}
	c.tried, c.asked = found, time.Now()
	if other := errors.Is(err, ErrOtherCluster); other || !elsewhere || errors.As(err, new(apierrors.APIStatus)) {
		c.err = fmt.Errorf("kube context %q: %w", c.context, err)
		if other {
			before.open.CloseAll()
		}
	}
}

// verify asks whether the cluster that answers there is the same one.
func (c *connection) verify(ctx context.Context, w *way) error {
	config := rest.CopyConfig(w.config)
	config.Timeout = verifyTimeout
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

// host is an address for clients to be made with: where their requests are sent, they find out by themselves.
func (c *connection) host() string {
	return (&url.URL{Scheme: c.now.base.Scheme, Host: c.now.base.Host}).String()
}

// RoundTrip sends a request that was made for any address.
func (c *connection) RoundTrip(r *http.Request) (*http.Response, error) {
	w, err := c.current(r.Context())
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as a RoundTripper has to
		}
		return nil, err
	}
	to := w.base.JoinPath(r.URL.EscapedPath())
	to.RawQuery = r.URL.RawQuery
	r = r.Clone(r.Context())
	r.URL, r.Host = to, ""
	return w.transport.RoundTrip(r)
}
