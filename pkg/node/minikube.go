// Minikube as it is found on disk: which profile a kube context belongs to, its nodes, and how each is reached. The
// layout is minikube's own (pkg/minikube/config, pkg/minikube/localpath, pkg/libmachine); no minikube binary is needed.
package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// ErrNotLocal means that nothing proves the kube context to be a cluster on this machine.
var ErrNotLocal = errors.New("not proven to be a local cluster")

// profile is the part of profiles/<name>/config.json that devloop needs.
type profile struct {
	Name             string
	Driver           string
	KubernetesConfig struct{ ContainerRuntime string }
	Nodes            []struct {
		Name             string
		IP               string
		Port             int
		ContainerRuntime string
	}
}

// machine is the part of machines/<name>/config.json that devloop needs. With the docker driver only SSHKeyPath is filled.
type machine struct {
	Driver struct {
		IPAddress  string
		SSHUser    string
		SSHPort    int
		SSHKeyPath string
	}
}

// minikubeHome follows minikube's localpath.MiniPath: $MINIKUBE_HOME with ".minikube" below it unless it ends so already.
func minikubeHome() (string, error) {
	if home := os.Getenv("MINIKUBE_HOME"); home != "" {
		if filepath.Base(home) == ".minikube" {
			return home, nil
		}
		return filepath.Join(home, ".minikube"), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".minikube"), err
}

// Find returns the cluster of a kube context. server is the API server's URL in that context: it has to be on this machine (as those of
// kind, k3d and Docker Desktop are) or one of the minikube profile's own addresses, so that a context which only shares the name is not
// taken for local (ErrNotLocal), unless the user allowed the context by name. Nodes of other clusters than minikube's are not known.
func Find(ctx context.Context, kubeContext, server string, docker *client.Client, allowed bool) (*Cluster, error) {
	home, err := minikubeHome()
	if err != nil {
		return nil, fmt.Errorf("find minikube's folder: %w", err)
	}
	var p profile
	file := filepath.Join(home, "profiles", kubeContext, "config.json")
	if err := readJSON(file, &p); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			if !allowed && !onThisMachine(server) {
				return nil, event.WithHint(fmt.Errorf("kube context %q: %w: minikube has no profile of that name in %s, and its API server %s is not on this machine", kubeContext, ErrNotLocal, home, server),
					"select a local context (kubectl config use-context minikube), start one (minikube start), or name this one under allowContexts in devloop.yaml")
			}
			return &Cluster{name: kubeContext}, nil
		}
		return nil, fmt.Errorf("minikube profile %q: %w", kubeContext, err)
	}
	if err := p.owns(server); err != nil && !allowed {
		return nil, event.WithHint(fmt.Errorf("kube context %q: %w: %w", kubeContext, ErrNotLocal, err),
			"select another context, or name this one under allowContexts in devloop.yaml")
	}
	cluster := &Cluster{name: kubeContext, certs: filepath.Join(home, "certs")}
	for _, n := range p.Nodes {
		name := kubeContext
		if n.Name != "" {
			name += "-" + n.Name
		}
		runtime := n.ContainerRuntime
		if runtime == "" {
			runtime = p.KubernetesConfig.ContainerRuntime
		}
		found, err := locate(ctx, home, name, n.IP, p.Driver, docker)
		if err != nil {
			return nil, err
		}
		if found.runtime, err = runtimeOf(runtime); err != nil {
			return nil, fmt.Errorf("minikube node %s: %w", name, err)
		}
		cluster.nodes = append(cluster.nodes, found)
	}
	if len(cluster.nodes) == 0 {
		return nil, event.WithHint(fmt.Errorf("minikube profile %q has no nodes", kubeContext), "minikube start -p "+kubeContext)
	}
	return cluster, nil
}

// owns checks that the API server's address is this machine's or one of the profile's nodes.
func (p profile) owns(server string) error {
	parsed, err := url.Parse(server)
	if err != nil {
		return fmt.Errorf("API server %q: %w", server, err)
	}
	if onThisMachine(server) {
		return nil
	}
	host := parsed.Hostname()
	for _, n := range p.Nodes {
		if n.IP == host {
			return nil
		}
	}
	return fmt.Errorf("its API server %s is not a node of the minikube profile of that name", server)
}

// onThisMachine tells whether an API server's address is one of this machine's: of its loopback, or of another of its interfaces.
func onThisMachine(server string) bool {
	parsed, err := url.Parse(server)
	if err != nil {
		return false
	}
	host := parsed.Hostname()
	if host == "localhost" || host == "kubernetes.docker.internal" { // the latter is Docker Desktop's name for 127.0.0.1
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if ip = ip.Unmap(); ip.IsLoopback() || ip.IsUnspecified() { // k3d writes 0.0.0.0
		return true
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, address := range addresses {
		if own, ok := address.(*net.IPNet); ok && own.IP.Equal(ip.AsSlice()) {
			return true
		}
	}
	return false
}

// locate finds the way into one node: a VM driver writes it down, the docker driver publishes the container's ssh port.
func locate(ctx context.Context, home, name, ip, driver string, docker *client.Client) (*Node, error) {
	var m machine
	folder := filepath.Join(home, "machines", name)
	if err := readJSON(filepath.Join(folder, "config.json"), &m); err != nil {
		return nil, event.WithHint(fmt.Errorf("minikube node %s: %w", name, err), "minikube start")
	}
	n := &Node{name: name, user: m.Driver.SSHUser, key: m.Driver.SSHKeyPath}
	if n.user == "" {
		n.user = "docker" // the user of minikube's own images
	}
	if n.key == "" {
		n.key = filepath.Join(folder, "id_rsa")
	}
	if driver != "docker" {
		if ip == "" {
			ip = m.Driver.IPAddress
		}
		address := net.JoinHostPort(ip, strconv.Itoa(cmp.Or(m.Driver.SSHPort, 22)))
		n.locate = func(context.Context) (string, error) { return address, nil }
		n.daemon = func(context.Context) (string, error) { return net.JoinHostPort(ip, dockerPort), nil }
		return n, nil
	}
	n.locate = func(ctx context.Context) (string, error) { return publishedPort(ctx, docker, name, ip, sshPort) }
	n.daemon = func(ctx context.Context) (string, error) { return publishedPort(ctx, docker, name, ip, dockerPort) }
	_, err := n.locate(ctx) // a node that is stopped is told of at once
	return n, err
}

// Ports of a node's own.
const (
	sshPort    = "22"
	dockerPort = "2376" // of the daemon of a node with the docker runtime, with TLS
)

// publishedPort asks Docker where a port of a node's container is. It is another one after each start.
func publishedPort(ctx context.Context, docker *client.Client, name, ip, port string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	inspected, err := docker.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		if os.Getenv("MINIKUBE_ACTIVE_DOCKERD") != "" && ip != "" {
			// "minikube docker-env" points DOCKER_HOST into the node, whose daemon does not know the node's container.
			return net.JoinHostPort(ip, port), nil
		}
		return "", event.WithHint(fmt.Errorf("minikube node %s: Docker has no container of that name", name), "minikube start")
	}
	if err != nil {
		return "", event.WithHint(fmt.Errorf("minikube node %s: ask Docker for its port %s: %w", name, port, err), "start Docker, then: minikube start")
	}
	container := inspected.Container
	if container.State == nil || !container.State.Running {
		return "", event.WithHint(fmt.Errorf("minikube node %s is stopped", name), "minikube start")
	}
	if container.NetworkSettings != nil {
		if bindings := container.NetworkSettings.Ports[network.MustParsePort(port+"/tcp")]; len(bindings) > 0 {
			return net.JoinHostPort("127.0.0.1", bindings[0].HostPort), nil
		}
	}
	return "", event.WithHint(fmt.Errorf("minikube node %s: its container does not publish its port %s", name, port), "minikube delete; minikube start")
}

func readJSON(file string, into any) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
