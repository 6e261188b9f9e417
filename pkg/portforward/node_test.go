package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// node stands in for an API server, its kubelet and containerd: it serves the real portforward
// subresource, with Kubernetes' own server side of the streams, and connects them to real servers
// on loopback.
type node struct {
	server *httptest.Server
	frozen sync.RWMutex // while it is held, nothing that was sent is read; connections stay open
	rest   *rest.Config
	old    bool // an API server before 1.31: bare SPDY only

	mu      sync.Mutex
	pods    map[string]string // name to address
	tunnels map[*tunnelEnd]struct{}
}

// tunnelEnd is a node's end of a tunnel.
type tunnelEnd struct {
	pod  string
	wire net.Conn // below everything
}

// wireKey is the key of a request's net.Conn in its context.
type wireKey struct{}

func newNode(t *testing.T, old bool) *node {
	n := &node{old: old, pods: map[string]string{}, tunnels: map[*tunnelEnd]struct{}{}}
	n.server = httptest.NewUnstartedServer(n)
	n.server.Listener = gate{n.server.Listener, &n.frozen}
	n.server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, wireKey{}, conn)
	}
	n.server.Start()
	n.rest = &rest.Config{Host: n.server.URL}
	t.Cleanup(func() {
		n.cut()
		n.server.Close()
	})
	return n
}

func (n *node) cluster(context.Context) (*rest.Config, error) { return n.rest, nil }

// gate makes connections that read nothing while frozen is held.
type gate struct {
	net.Listener
	frozen *sync.RWMutex
}

type gated struct {
	net.Conn
	frozen *sync.RWMutex
}

func (g gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	return gated{conn, g.frozen}, err
}

func (g gated) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.frozen.RLock()
	defer g.frozen.RUnlock()
	return n, err
}

// run says where a pod listens.
func (n *node) run(pod, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods[pod] = address
}

// cut breaks all tunnels, as the end of an API server does: without a word to their streams. A
// graceful close would race with the streams' own ends.
func (n *node) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for t := range n.tunnels {
		t.wire.Close()
	}
}

// open counts a pod's tunnels.
func (n *node) open(pod string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := 0
	for t := range n.tunnels {
		if t.pod == pod {
			open++
		}
	}
	return open
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	pod := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/ns/pods/"), "/portforward")
	n.mu.Lock()
	_, ok := n.pods[pod]
	n.mu.Unlock()
	if !ok {
		http.Error(w, fmt.Sprintf("pods %q not found", pod), http.StatusNotFound)
		return
	}
	streams := make(chan httpstream.Stream, 1)
	accept := func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	}
	var conn httpstream.Connection
	if gorilla.IsWebSocketUpgrade(r) {
		if n.old {
			http.Error(w, "websockets are not served", http.StatusBadRequest)
			return
		}
		upgrader := gorilla.Upgrader{Subprotocols: []string{"SPDY/3.1+" + portforward.PortForwardProtocolV1Name}}
		socket, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		conn, err = spdy.NewServerConnection(portforward.NewTunnelingConnection("node", socket), accept)
		if err != nil {
			return
		}
	} else {
		if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
			return
		}
		if conn = spdy.NewResponseUpgrader().UpgradeResponse(w, r, accept); conn == nil {
			return
		}
	}
	end := &tunnelEnd{pod: pod, wire: r.Context().Value(wireKey{}).(net.Conn)}
	n.mu.Lock()
	n.tunnels[end] = struct{}{}
	n.mu.Unlock()
	defer func() {
		conn.Close()
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.tunnels, end)
	}()

	pairs := map[string]map[string]httpstream.Stream{}
	for {
		select {
		case <-conn.CloseChan():
			return
		case s := <-streams:
			id, kind := s.Headers().Get(corev1.PortForwardRequestIDHeader), s.Headers().Get(corev1.StreamType)
			if pairs[id] == nil {
				pairs[id] = map[string]httpstream.Stream{}
			}
			pairs[id][kind] = s
			if pair := pairs[id]; len(pair) == 2 {
				delete(pairs, id)
				go n.forward(conn, pod, pair[corev1.StreamTypeData], pair[corev1.StreamTypeError])
			}
		}
	}
}

// forward does what the kubelet's streaming server and containerd do with one connection, and in
// that order.
func (n *node) forward(conn httpstream.Connection, pod string, data, errs httpstream.Stream) {
	defer conn.RemoveStreams(data, errs)
	defer errs.Close()
	defer data.Close()
	n.mu.Lock()
	address := n.pods[pod]
	n.mu.Unlock()
	err := func() error {
		defer data.Close()
		backend, err := net.Dial("tcp", address)
		if err != nil {
			return fmt.Errorf("failed to connect to localhost inside namespace %q, IPv4: %w", "sandbox", err)
		}
		defer backend.Close()
		ended := make(chan error, 2)
		go func() { _, err := io.Copy(data, backend); ended <- err }()
		go func() {
			_, err := io.Copy(backend, data)
			backend.(*net.TCPConn).CloseWrite()
			ended <- err
		}()
		err = <-ended
		select {
		case other := <-ended:
			return errors.Join(err, other)
		case <-time.After(time.Second):
			return err
		}
	}()
	if err != nil {
		port := data.Headers().Get(corev1.PortHeader)
		fmt.Fprintf(errs, "error forwarding port %s to pod %s, uid : %v", port, pod, err)
		data.Reset()
		errs.Reset()
	}
}
