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

// ErrOtherRuntime means that a node's runtime is another one.
var ErrOtherRuntime = errors.New("the node's runtime is another one")

// Docker returns a client of the node's own daemon, or an error that says why images cannot be built there. Nothing is asked of it yet. The
// caller closes it.
func (c *Cluster) Docker() (*client.Client, error) {
	n, err := c.only()
	if err != nil {
		return nil, err
	}
	if n.runtime != dockerRuntime {
		return nil, fmt.Errorf("%w: %s", ErrOtherRuntime, n.runtime.name())
	}
	if _, ok := n.transport.(localTransport); ok {
		return client.New(client.WithHost("unix:///var/run/docker.sock"))
	}
	// The first dial would tell, too, but only with a build.
	if _, err := loadTLS(c.certs); err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		config, err := loadTLS(c.certs) // minikube may have made new ones
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		address, err := n.docker(ctx)
		if err != nil {
			return nil, err
		}
		// TLS is spoken here and not by the client, which would dial the address that it was made with when it opens a session.
		return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	}
	return client.New(client.WithHost("tcp://"+net.JoinHostPort(n.name, dockerPort)), client.WithDialContext(dial))
}

// loadTLS reads minikube's certificates for the Docker daemons in its nodes, those that minikube docker-env names too.
func loadTLS(certs string) (*tls.Config, error) {
	authority, err := os.ReadFile(filepath.Join(certs, "ca.pem"))
	if err != nil {
		return nil, err
	}
	known := x509.NewCertPool()
	if !known.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(certs, "ca.pem"))
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(certs, "cert.pem"), filepath.Join(certs, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("certificate for the node's Docker daemon: %w", err)
	}
	return &tls.Config{RootCAs: known, Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}, nil
}
