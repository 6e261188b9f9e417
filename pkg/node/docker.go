// The Docker daemon inside of a node whose runtime it is: what is built there need not be moved.
package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/moby/moby/client"
)

// Docker returns a client of the node's own daemon, through the TLS endpoint that minikube docker-env names too, or an error that says
// why images cannot be built there. Nothing is asked of it yet. The caller closes it.
func (c *Cluster) Docker() (*client.Client, error) {
	switch {
	case len(c.nodes) == 0:
		return nil, errors.New("the nodes of this cluster are not known")
	case len(c.nodes) > 1:
		return nil, fmt.Errorf("there are %d nodes, and each needs the image", len(c.nodes))
	}
	n := c.nodes[0]
	if _, ok := n.runtime.(dockerRuntime); !ok {
		return nil, fmt.Errorf("its runtime is %s", n.runtime.name())
	}
	authority, err := os.ReadFile(filepath.Join(c.certs, "ca.pem"))
	if err != nil {
		return nil, err
	}
	known := x509.NewCertPool()
	if !known.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(c.certs, "ca.pem"))
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(c.certs, "cert.pem"), filepath.Join(c.certs, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("certificate for the node's Docker daemon: %w", err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		address, err := n.daemon(ctx) // a restarted node has another one
		if err != nil {
			return nil, err
		}
		// TLS is spoken here and not by the client, which would dial the address that it was made with when it opens a session.
		return (&tls.Dialer{Config: &tls.Config{RootCAs: known, Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", address)
	}
	return client.New(client.WithHost("tcp://"+net.JoinHostPort(n.name, dockerPort)), client.WithDialContext(dial))
}
