package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// tool creates clusters whose nodes are containers. Its labels (kind: pkg/cluster/constants, k3d:
// pkg/types) tell which cluster a container belongs to, and its role there.
type tool struct{ name, cluster, role, list, create, kubeconfig string }

var tools = []tool{
	{"kind", "io.x-k8s.kind.cluster", "io.x-k8s.kind.role", "kind get clusters", "kind create cluster --name ",
		"kind export kubeconfig --name "},
	{"k3d", "k3d.cluster", "k3d.role", "k3d cluster list", "k3d cluster create ",
		"k3d kubeconfig merge --kubeconfig-merge-default "},
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
// nil if there is none.
func findContainers(ctx context.Context, kubeContext, server string, docker *client.Client) (*Cluster, error) {
	if docker == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	listed, err := docker.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil { // whatever needs Docker reports the error
		if t, name := toolOf(kubeContext); name != "" {
			return &Cluster{name: kubeContext, look: t.withoutDocker(name)}, nil
		}
		return nil, nil
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
	t, name := toolOf(kubeContext)
	if name == "" {
		if t, name = stoppedAt(ctx, docker, listed.Items, host, port); name == "" {
			return nil, nil
		}
	}
	found := &Cluster{name: kubeContext, look: t.machines(name, docker)}
	if err := found.addContainers(t, name, listed.Items, docker); len(found.nodes) > 0 || err != nil {
		return found, err
	}
	return &Cluster{name: kubeContext, look: t.missing(name)}, nil
}

// toolOf returns the tool whose cluster a context is named after, and the cluster's name, "" for
// none.
func toolOf(kubeContext string) (of tool, cluster string) {
	for _, t := range tools {
		if name, ok := strings.CutPrefix(kubeContext, t.name+"-"); ok {
			return t, name
		}
	}
	return tool{}, ""
}

// stoppedAt returns the cluster that would publish an API server's address if it ran, for a context
// with another name. Docker lists no ports of a container that is stopped.
func stoppedAt(ctx context.Context, docker *client.Client, all []container.Summary, host, port string) (
	of tool, cluster string) {
	for _, t := range tools {
		for _, c := range all {
			name := c.Labels[t.cluster]
			if name == "" || c.State == container.StateRunning || !slices.Contains(apiRoles, c.Labels[t.role]) {
				continue
			}
			inspected, err := docker.ContainerInspect(ctx, strings.TrimPrefix(c.Names[0], "/"),
				client.ContainerInspectOptions{})
			if err != nil || inspected.Container.HostConfig == nil {
				continue
			}
			api := network.MustParsePort(strconv.Itoa(containerAPIPort) + "/tcp")
			for _, bound := range inspected.Container.HostConfig.PortBindings[api] {
				if bound.HostPort == port && reaches(host, bound.HostIP) {
					return t, name
				}
			}
		}
	}
	return tool{}, ""
}

// HowToRestore says how a cluster on this machine gets the kube context of a name back, which the
// kubeconfig does not have: minikube removes that of a profile that it stops. It is "" where no
// cluster is found that writes such a context.
func HowToRestore(ctx context.Context, kubeContext string, docker *client.Client) string {
	if home, err := minikubeHome(); err == nil {
		if p, err := readProfile(home, kubeContext); err == nil {
			return fmt.Sprintf("minikube has a profile of that name: %s starts it, and writes the context", p.command("start"))
		}
	}
	t, name := toolOf(kubeContext)
	if name == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	listed, err := docker.ContainerList(ctx, client.ContainerListOptions{All: true})
	switch {
	case err != nil:
		return fmt.Sprintf("if it is in the %s cluster %s: start Docker, which does not answer, then %s", t.name, name,
			t.kubeconfig+name)
	case !slices.ContainsFunc(listed.Items, func(c container.Summary) bool { return c.Labels[t.cluster] == name }):
		return ""
	}
	hint := fmt.Sprintf("Docker has the %s cluster %s: %s writes the context", t.name, name, t.kubeconfig+name)
	if err := (&Cluster{}).addContainers(t, name, listed.Items, docker); err != nil {
		hint += ", after " + event.Hint(err)
	}
	return hint
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
