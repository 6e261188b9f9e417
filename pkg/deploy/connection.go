package deploy

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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"

	"github.com/devloop/devloop/pkg/event"
)

// verifyTimeout is for one question to an API server that may have just started.
const verifyTimeout = 5 * time.Second

var errOtherCluster = event.WithHint(errors.New("its kube context names another cluster now, to which nothing is deployed"), "start devloop again")

// connection is the way to one cluster. As a http.RoundTripper it sends each request the way that the kubeconfig names now.
type connection struct {
	context string    // name of the kube context
	uid     types.UID // of the cluster, once it has been asked

	renewing sync.Mutex // held by the one request that looks whether the way has changed; it guards these:
	files    []string   // that were read
	stamp    string     // of the files, before they were read

	mu  sync.Mutex
	now *way
	err error // why there is none
}

// way is what one state of the kubeconfig says.
type way struct {
	config    *rest.Config // with the contents of the files that the kubeconfig names
	base      *url.URL
	transport http.RoundTripper
	open      *connrotation.Dialer // of transport's connections
}

func newConnection(kubeContext string) (*connection, error) {
	c := &connection{context: kubeContext}
	var err error
	c.now, err = c.read()
	return c, err
}

// read makes a way of the kubeconfig as it is now, and keeps the names of its files.
func (c *connection) read() (*way, error) {
	loader, _, err := loadKubeconfig(c.context)
	if err != nil {
		return nil, err
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kube context %q: %w", c.context, err)
	}
	c.files = append(slices.Clone(loader.ConfigAccess().GetLoadingPrecedence()), config.CAFile, config.CertFile, config.KeyFile)
	w := &way{config: config}
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
	w.open = connrotation.NewDialer((&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext)
	tracked := rest.CopyConfig(config)
	tracked.Dial = w.open.DialContext
	if w.transport, err = rest.TransportFor(tracked); err != nil {
		return nil, fmt.Errorf("kube context %q: %w", c.context, err)
	}
	return w, nil
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

// current is the way to the cluster. If the kubeconfig has changed it is the new one, as soon as the cluster answers there.
func (c *connection) current(ctx context.Context) (*way, error) {
	if c.renewing.TryLock() { // whoever comes meanwhile goes the old way
		c.renew(ctx)
		c.renewing.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, c.err
}

func (c *connection) renew(ctx context.Context) {
	c.mu.Lock()
	old := c.now
	c.mu.Unlock()
	found := stamp(c.files)
	if found == c.stamp {
		return
	}
	w, err := c.read()
	if err != nil { // "minikube stop" takes the context away, and a file may be half written
		c.stamp = found
		return
	}
	if reflect.DeepEqual(w.config, old.config) { // another context was selected, or another cluster's entry changed
		w = old
	} else if err = c.verify(ctx, w); err != nil && !errors.Is(err, errOtherCluster) {
		return // it may be starting: asked again by the next request
	}
	c.stamp = found
	c.mu.Lock()
	if c.err = err; err == nil {
		c.now = w
	}
	c.mu.Unlock()
	if w != old {
		old.open.CloseAll() // watches would else wait on what is gone
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
		return fmt.Errorf("kube context %q: %w", c.context, errOtherCluster)
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
		return nil, err
	}
	to := w.base.JoinPath(r.URL.EscapedPath())
	to.RawQuery = r.URL.RawQuery
	r = r.Clone(r.Context())
	r.URL, r.Host = to, ""
	return w.transport.RoundTrip(r)
}
