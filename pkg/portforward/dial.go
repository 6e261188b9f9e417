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
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// dialer opens the connections that tunnels run on: SPDY inside a WebSocket, which every proxy lets
// pass, or plain SPDY for API servers before 1.31. It is built from the parts of client-go's own
// dialers, so that a dial ends with its context and the connection can be closed even while a write
// to it is stuck.
type dialer struct {
	cluster   Cluster
	namespace string
	plainSPDY atomic.Bool // is what worked last
}

// dial connects to a pod's port-forward endpoint. The caller closes the connection.
func (d *dialer) dial(ctx context.Context, pod string) (net.Conn, error) {
	now, err := d.cluster(ctx)
	if err != nil {
		return nil, err
	}
	config := rest.CopyConfig(now)
	config.GroupVersion, config.APIPath = &corev1.SchemeGroupVersion, "/api"
	config.Timeout = 0 // it bounds the whole exchange, and a tunnel has no end
	host, path, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("address of the API server: %w", err)
	}
	endpoint := host.JoinPath(path, "namespaces", d.namespace, "pods", pod, "portforward")

	plainFirst := d.plainSPDY.Load()
	first, second := dialWebSocket, dialSPDY
	if plainFirst {
		first, second = second, first
	}
	conn, err := first(ctx, config, endpoint)
	if err == nil || !httpstream.IsUpgradeFailure(err) && !httpstream.IsHTTPSProxyError(err) {
		return conn, err
	}
	// The server did not upgrade: it may not know this protocol, or the pod may be gone. If the pod
	// is gone, the other protocol fails as well.
	conn, secondErr := second(ctx, config, endpoint)
	if secondErr != nil {
		return nil, err
	}
	d.plainSPDY.Store(!plainFirst)
	return conn, nil
}

func dialWebSocket(ctx context.Context, config *rest.Config, endpoint *url.URL) (net.Conn, error) {
	transport, holder, err := websocket.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	// While the library waits for the answer it heeds a deadline, but not a cancelled context.
	stop := func() bool { return true }
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		stop = context.AfterFunc(ctx, func() { info.Conn.Close() })
	}})
	request, err := http.NewRequestWithContext(traced, http.MethodGet, endpoint.String(), nil)
	if err != nil {
		return nil, err
	}
	conn, err := websocket.Negotiate(transport, holder, request, "SPDY/3.1+"+portforward.PortForwardProtocolV1Name)
	stopped := stop()
	if err != nil {
		return nil, err
	}
	if !stopped { // ctx has ended and closed it
		_ = conn.Close()
		return nil, context.Cause(ctx)
	}
	return portforward.NewTunnelingConnectionWithLogger(klog.Logger{}, conn), nil
}

func dialSPDY(ctx context.Context, config *rest.Config, endpoint *url.URL) (net.Conn, error) {
	config = rest.CopyConfig(config)
	config.NextProtos = []string{"http/1.1"} // SPDY upgrades from it
	shared, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connections to the API server: %w", err)
	}
	client := *shared
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	defer client.CloseIdleConnections() // a failed upgrade leaves one
	var conn net.Conn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		conn = info.Conn
	}})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	request.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	request.Header.Set(httpstream.HeaderProtocolVersion, portforward.PortForwardProtocolV1Name)
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	body, upgraded := response.Body.(io.ReadWriteCloser)
	if response.StatusCode != http.StatusSwitchingProtocols || !upgraded || conn == nil {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1024))
		response.Body.Close()
		return nil, &httpstream.UpgradeFailureError{Cause: errors.New(response.Status + ": " + string(text))}
	}
	return upgradedConn{conn, body}, nil
}

// upgradedConn reads and writes through the response's body, which has the bytes that were read
// ahead.
type upgradedConn struct {
	net.Conn
	body io.ReadWriteCloser
}

func (c upgradedConn) Read(p []byte) (int, error)  { return c.body.Read(p) }
func (c upgradedConn) Write(p []byte) (int, error) { return c.body.Write(p) }
func (c upgradedConn) Close() error                { return c.body.Close() }
