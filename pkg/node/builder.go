package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/docker/go-connections/tlsconfig"
	"github.com/moby/moby/client"
)

// ErrOtherRuntime means that the node has another runtime.
var ErrOtherRuntime = errors.New("the node's runtime is another one")

// Docker returns a client of the node's own Docker daemon: what is built there need not be loaded.
// The error says why nothing can be built there. The daemon is not asked yet. The caller closes
// the client.
func (c *Cluster) Docker() (*client.Client, error) {
	n, err := c.builderNode()
	if err != nil {
		return nil, err
	}
	if n.runtime != dockerRuntime {
		return nil, fmt.Errorf("%w: %s", ErrOtherRuntime, n.runtime.name())
	}
	if _, ok := n.transport.(localTransport); ok {
		return client.New(client.WithHost("unix:///var/run/docker.sock"))
	}
	if _, err := loadTLS(c.certs); err != nil { // the first dial would notice only during a build
		return nil, err
	}
	// The client would dial its first address again for a session, so TLS is handled here.
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		config, err := loadTLS(c.certs) // minikube may have renewed them
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		address, err := n.docker(ctx)
		if err != nil {
			return nil, err
		}
		return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	}
	return client.New(client.WithHost("tcp://"+net.JoinHostPort(n.name, dockerPort)), client.WithDialContext(dial))
}

// loadTLS reads the certificates that "minikube docker-env" names.
func loadTLS(folder string) (*tls.Config, error) {
	config, err := tlsconfig.Client(tlsconfig.Options{ExclusiveRootPools: true, CAFile: filepath.Join(folder, "ca.pem"),
		CertFile: filepath.Join(folder, "cert.pem"), KeyFile: filepath.Join(folder, "key.pem")})
	if err != nil {
		return nil, fmt.Errorf("certificates for the node's Docker daemon: %w", err)
	}
	return config, nil
}

// BuildKit returns a function that dials the BuildKit of a node with containerd, as minikube's
// have: what is built there need not be loaded. The error says why nothing can be built there.
// The caller finds out whether BuildKit answers, and builds for the kubelet's containerd.
func (c *Cluster) BuildKit() (dial func(context.Context) (net.Conn, error), err error) {
	n, err := c.builderNode()
	if err != nil {
		return nil, err
	}
	if _, ok := n.runtime.(containerdRuntime); !ok {
		return nil, fmt.Errorf("%w: %s", ErrOtherRuntime, n.runtime.name())
	}
	if _, ok := n.transport.(*execTransport); ok {
		return nil, errors.New("nodes of kind and k3d have no BuildKit")
	}
	return func(ctx context.Context) (net.Conn, error) {
		return n.transport.pipe(ctx, "buildctl", "dial-stdio")
	}, nil
}

// BuilderNode returns the name of the node whose Docker or BuildKit builds, and what a user types
// to run a command on it.
func (c *Cluster) BuilderNode() (name, shell string) {
	n, err := c.builderNode()
	if err != nil {
		return "", ""
	}
	return n.name, n.shell
}

// builderNode returns the only node: with several, each would need what one of them built.
func (c *Cluster) builderNode() (*node, error) {
	switch len(c.nodes) {
	case 0:
		return nil, errors.New("the nodes of this cluster are not known")
	case 1:
		return c.nodes[0], nil
	}
	return nil, fmt.Errorf("there are %d nodes, and each needs the image", len(c.nodes))
}
