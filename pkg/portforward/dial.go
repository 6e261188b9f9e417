package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// dialer opens the wires that tunnels run on: SPDY inside a WebSocket, which every proxy lets pass, or bare SPDY for
// API servers before 1.31. It is what client-go's own dialers are made of, put together so that a dial ends
// with its context and that the wire can be cut even while a write to it is stuck.
type dialer struct {
	cluster   Cluster
	namespace string

	mu     sync.Mutex
	server *apiServer // the last one
}

// apiServer is the API server as it was reached at some time.
type apiServer struct {
	from   *rest.Config // as the cluster said
	config *rest.Config
	client *http.Client // speaks HTTP/1.1, as SPDY's upgrade needs
	base   *url.URL     // of the pods of the namespace
	bare   atomic.Bool  // what worked last: bare SPDY
}

func newServer(from *rest.Config, namespace string) (*apiServer, error) {
	config := rest.CopyConfig(from)
	config.GroupVersion, config.APIPath = &corev1.SchemeGroupVersion, "/api"
	config.Timeout = 0 // of the whole exchange; a tunnel has no end
	host, path, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("address of the API server: %w", err)
	}
	plain := rest.CopyConfig(config)
	plain.NextProtos = []string{"http/1.1"}
	client, err := rest.HTTPClientFor(plain)
	if err != nil {
		return nil, fmt.Errorf("connections to the API server: %w", err)
	}
	direct := *client // it may be one that others use, too
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &apiServer{from: from, config: config, client: &direct,
		base: host.JoinPath(path, "namespaces", namespace, "pods")}, nil
}

// current is the API server as it is reached now.
func (d *dialer) current(ctx context.Context) (*apiServer, error) {
	config, err := d.cluster(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.server == nil || d.server.from != config {
		s, err := newServer(config, d.namespace)
		if err != nil {
			return nil, err
		}
		if d.server != nil {
			d.server.client.CloseIdleConnections()
		}
		d.server = s
	}
	return d.server, nil
}

// close lets go of connections that served failed upgrades. Tunnels are not touched.
func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.server != nil {
		d.server.client.CloseIdleConnections()
	}
}

// dial opens a wire to a pod; the caller closes it.
func (d *dialer) dial(ctx context.Context, pod string) (net.Conn, error) {
	s, err := d.current(ctx)
	if err != nil {
		return nil, err
	}
	return s.dial(ctx, pod)
}

func (s *apiServer) dial(ctx context.Context, pod string) (net.Conn, error) {
	ways := []func(context.Context, *url.URL) (net.Conn, error){s.websocket, s.spdy}
	first := 0
	if s.bare.Load() {
		first = 1
	}
	at := s.base.JoinPath(pod, "portforward")
	wire, err := ways[first](ctx, at)
	if err == nil || !(httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)) {
		return wire, err
	}
	// The server answered, but not with an upgrade: it may not know this way, or the pod may be gone. The other way
	// gives the same answer in the second case.
	wire, otherErr := ways[1-first](ctx, at)
	if otherErr != nil {
		return nil, err
	}
	s.bare.Store(first == 0)
	return wire, nil
}

func (s *apiServer) websocket(ctx context.Context, at *url.URL) (net.Conn, error) {
	transport, holder, err := websocket.RoundTripperFor(s.config)
	if err != nil {
		return nil, err
	}
	// The WebSocket library heeds a deadline while it waits for the answer, but not a cancelled context.
	keep := func() bool { return true }
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		keep = context.AfterFunc(ctx, func() { info.Conn.Close() })
	}})
	request, err := http.NewRequestWithContext(traced, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	conn, err := websocket.Negotiate(transport, holder, request, "SPDY/3.1+"+portforward.PortForwardProtocolV1Name)
	kept := keep()
	if err != nil {
		return nil, err
	}
	if !kept {
		_ = conn.Close()
		return nil, context.Cause(ctx)
	}
	return portforward.NewTunnelingConnectionWithLogger(klog.Logger{}, conn), nil
}

func (s *apiServer) spdy(ctx context.Context, at *url.URL) (net.Conn, error) {
	var raw net.Conn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		raw = info.Conn
	}})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	request.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	request.Header.Set(httpstream.HeaderProtocolVersion, portforward.PortForwardProtocolV1Name)
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	body, upgraded := response.Body.(io.ReadWriteCloser)
	if response.StatusCode != http.StatusSwitchingProtocols || !upgraded || raw == nil {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1024))
		response.Body.Close()
		return nil, &httpstream.UpgradeFailureError{Cause: errors.New(response.Status + ": " + string(text))}
	}
	return upgradedConn{raw, body}, nil
}

// upgradedConn is a connection whose first bytes after the upgrade may have been read ahead: the body has them.
type upgradedConn struct {
	net.Conn
	body io.ReadWriteCloser
}

func (c upgradedConn) Read(p []byte) (int, error)  { return c.body.Read(p) }
func (c upgradedConn) Write(p []byte) (int, error) { return c.body.Write(p) }
func (c upgradedConn) Close() error                { return c.body.Close() }
