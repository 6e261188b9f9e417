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

// tool creates clusters whose nodes are containers. Its labels (kind: pkg/cluster/constants, k3d:
// pkg/types) tell which cluster a container belongs to, and its role there.
type tool struct{ name, cluster, role, list, create string }

var tools = []tool{
	{"kind", "io.x-k8s.kind.cluster", "io.x-k8s.kind.role", "kind get clusters", "kind create cluster --name "},
	{"k3d", "k3d.cluster", "k3d.role", "k3d cluster list", "k3d cluster create "},
}

// Roles of containers that are nodes, and of those that publish the API server. The others are
// registries and helpers.
var (
	nodeRoles    = []string{"control-plane", "worker", "server", "agent"}
	controlPlane = []string{"control-plane", "server"}
	apiRoles     = []string{"control-plane", "external-load-balancer", "server", "loadbalancer"}
)

// findContainers finds the nodes of the kind or k3d cluster that publishes the API server's
// address, or else of the one that the context is named after, kind-NAME or k3d-NAME. It returns
// nil if there is none, or no Docker.
func findContainers(ctx context.Context, kubeContext, server string, docker *client.Client) (*Cluster, error) {
	if docker == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	listed, err := docker.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, nil //nolint:nilerr // the cluster is not in Docker; whatever needs Docker reports the error
	}
	host, port, ok := endpoint(server)
	for _, t := range tools {
		for _, c := range listed.Items {
			name := c.Labels[t.cluster]
			if !ok || name == "" || !slices.Contains(apiRoles, c.Labels[t.role]) || !publishesAPI(c, host, port) {
				continue
			}
			found := &Cluster{name: kubeContext, look: t.machines(name, docker)}
			if isLocal(docker) {
				found.origin = Origin{t.name, name}
			}
			return found, found.addContainers(t, name, listed.Items, docker)
		}
	}
	for _, t := range tools {
		if name, ok := strings.CutPrefix(kubeContext, t.name+"-"); ok {
			found := &Cluster{name: kubeContext, look: t.machines(name, docker)}
			if err := found.addContainers(t, name, listed.Items, docker); len(found.nodes) > 0 || err != nil {
				return found, err
			}
			return &Cluster{name: kubeContext, look: t.missing(name)}, nil
		}
	}
	return nil, nil
}

// addContainers adds the nodes of a tool's cluster.
func (c *Cluster) addContainers(t tool, name string, all []container.Summary, docker *client.Client) error {
	for _, one := range all {
		if one.Labels[t.cluster] != name || !slices.Contains(nodeRoles, one.Labels[t.role]) {
			continue
		}
		nodeName := strings.TrimPrefix(one.Names[0], "/")
		if one.State != container.StateRunning {
			err := fmt.Errorf("node %s of the %s cluster %s is stopped", nodeName, t.name, name)
			hint := "docker start " + nodeName
			if t.name == "k3d" {
				hint = "k3d cluster start " + name
			}
			return event.WithHint(err, hint)
		}
		c.nodes = append(c.nodes, &node{name: nodeName, runtime: containerdRuntime{}, shell: "docker exec " + nodeName,
			controlPlane: slices.Contains(controlPlane, one.Labels[t.role]),
			transport:    &execTransport{node: nodeName, docker: docker}})
	}
	slices.SortFunc(c.nodes, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	return nil
}
