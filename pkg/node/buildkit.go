// The BuildKit inside of a node whose runtime is containerd, as minikube's bring it along: what is built there need not be moved.
package node

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// BuildKit returns a way to the node's own BuildKit, or an error that says why nothing can be built there by it. Whether one answers, and
// whether it works for the kubelet's containerd, is for the caller to see.
func (c *Cluster) BuildKit() (dial func(context.Context) (net.Conn, error), err error) {
	n, err := c.only()
	if err != nil {
		return nil, err
	}
	if _, ok := n.runtime.(containerdRuntime); !ok {
		return nil, fmt.Errorf("%w: %s", ErrOtherRuntime, n.runtime.name())
	}
	if _, ok := n.transport.(*execTransport); ok {
		return nil, errors.New("nodes of kind and k3d have no BuildKit")
	}
	return func(ctx context.Context) (net.Conn, error) { return n.transport.pipe(ctx, "buildctl", "dial-stdio") }, nil
}

// only is the cluster's node, where there is but one: what is built in one of several is not in the others.
func (c *Cluster) only() (*Node, error) {
	switch len(c.nodes) {
	case 0:
		return nil, errors.New("the nodes of this cluster are not known")
	case 1:
		return c.nodes[0], nil
	}
	return nil, fmt.Errorf("there are %d nodes, and each needs the image", len(c.nodes))
}
