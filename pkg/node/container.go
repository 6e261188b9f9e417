// The way into a node that is a container, as those of kind and k3d are: docker exec.
package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// tool makes clusters of containers. Its labels (kind: pkg/cluster/constants, k3d: pkg/types) say
// which cluster a container belongs to, and what it is in it.
type tool struct{ name, cluster, role string }

var tools = []tool{
	{"kind", "io.x-k8s.kind.cluster", "io.x-k8s.kind.role"},
	{"k3d", "k3d.cluster", "k3d.role"},
}

// Roles of a container that is a node, and of one that serves the API server. The others are
// registries and helpers.
var (
	nodeRoles = []string{"control-plane", "worker", "server", "agent"}
	apiRoles  = []string{"control-plane", "external-load-balancer", "server", "loadbalancer"}
)

// containers finds the nodes of the cluster of kind or k3d that publishes the API server's address,
// or else of the one that has the context's name, kind-NAME or k3d-NAME. It returns nil where there
// is none, or no Docker to ask.
func containers(ctx context.Context, kubeContext, server string, docker *client.Client) (*Cluster, error) {
	if docker == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	listed, err := docker.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, nil //nolint:nilerr // a cluster on this machine that is not in Docker; who needs Docker will say what is wrong with it
	}
	host, port, exact := endpoint(server)
	for _, t := range tools {
		for _, c := range listed.Items {
			name := c.Labels[t.cluster]
			if name == "" || !slices.Contains(apiRoles, c.Labels[t.role]) || !exact || !publishesAPI(c, host, port) {
				continue
			}
			found := &Cluster{name: kubeContext}
			if isLocal(docker) {
				found.origin = Origin{t.name, name}
			}
			return found, found.addContainers(t, name, listed.Items, docker)
		}
	}
	for _, t := range tools {
		if name, ok := strings.CutPrefix(kubeContext, t.name+"-"); ok {
			found := &Cluster{name: kubeContext}
			if err := found.addContainers(t, name, listed.Items, docker); len(found.nodes) > 0 || err != nil {
				return found, err
			}
		}
	}
	return nil, nil
}

// addContainers adds the nodes of the tool's cluster of that name.
func (c *Cluster) addContainers(t tool, name string, all []container.Summary, docker *client.Client) error {
	for _, one := range all {
		if one.Labels[t.cluster] != name || !slices.Contains(nodeRoles, one.Labels[t.role]) {
			continue
		}
		n := &Node{name: strings.TrimPrefix(one.Names[0], "/"), runtime: containerdRuntime{}}
		if one.State != container.StateRunning {
			err := fmt.Errorf("node %s of the %s cluster %s is stopped", n.name, t.name, name)
			return event.WithHint(err, "docker start "+n.name)
		}
		n.shell = "docker exec " + n.name
		n.transport = &execTransport{node: n.name, docker: docker}
		c.nodes = append(c.nodes, n)
	}
	slices.SortFunc(c.nodes, func(a, b *Node) int { return cmp.Compare(a.name, b.name) })
	return nil
}
