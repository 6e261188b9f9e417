// Minikube as it is found on disk: which profile a kube context belongs to, its nodes, and how each is reached. The
// layout is minikube's own (pkg/minikube/config, pkg/minikube/localpath, pkg/libmachine); a minikube binary is only asked where it is not understood.
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
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

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
	APIServerPort    int
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

// Find returns the cluster of a kube context: of minikube, kind or k3d. server is the API server's URL in that context: it has to be on
// this machine (as those of kind, k3d and Docker Desktop are) or one of the minikube profile's own addresses, so that a context which only
// shares the name is not taken for local (ErrNotLocal), unless the user allowed the context by name. Of other clusters the nodes are not known.
func Find(ctx context.Context, kubeContext, server string, docker *client.Client, allowed bool) (*Cluster, error) {
	home, err := minikubeHome()
	if err != nil {
		return nil, fmt.Errorf("find minikube's folder: %w", err)
	}
	p, err := findProfile(ctx, home, kubeContext, server, docker)
	if errors.Is(err, fs.ErrNotExist) {
		local := onThisMachine(server)
		if !allowed && !local {
			return nil, event.WithHint(fmt.Errorf("kube context %q: %w: minikube has no profile of that name in %s, and its API server %s is not on this machine", kubeContext, ErrNotLocal, home, server),
				"select a local context (kubectl config use-context minikube), start one (minikube start), or name this one under allowContexts in devloop.yaml")
		}
		if local {
			if found, err := containers(ctx, kubeContext, portOf(server), docker); found != nil || err != nil {
				return found, err
			}
		}
		return &Cluster{name: kubeContext}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("minikube profile %q: %w", kubeContext, err)
	}
	if err := p.owns(server); err != nil && !allowed {
		return nil, event.WithHint(fmt.Errorf("kube context %q: %w: %w", kubeContext, ErrNotLocal, err),
			"select another context, or name this one under allowContexts in devloop.yaml")
	}
	cluster := &Cluster{name: kubeContext, start: p.start(), certs: filepath.Join(home, "certs")}
	for _, n := range p.Nodes {
		name := p.machine(n.Name)
		found, err := locate(ctx, home, p, name, n.IP, docker)
		if err != nil {
			return nil, err
		}
		if found.runtime, err = runtimeOf(cmp.Or(n.ContainerRuntime, p.KubernetesConfig.ContainerRuntime)); err != nil {
			return nil, fmt.Errorf("node %s: %w", name, err)
		}
		cluster.nodes = append(cluster.nodes, found)
	}
	if len(cluster.nodes) == 0 {
		return nil, event.WithHint(fmt.Errorf("minikube profile %q has no nodes", p.Name), p.start())
	}
	return cluster, nil
}

// findProfile reads the profile that a kube context belongs to. It has the context's name; where somebody renamed the context, it is the
// one that MINIKUBE_PROFILE names, or another, if the API server is its own. None is fs.ErrNotExist.
func findProfile(ctx context.Context, home, kubeContext, server string, docker *client.Client) (profile, error) {
	p, err := readProfile(home, kubeContext)
	if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	names := []string{os.Getenv("MINIKUBE_PROFILE")}
	folders, _ := os.ReadDir(filepath.Join(home, "profiles")) // none: no profile either
	for _, folder := range folders {
		names = append(names, folder.Name())
	}
	for _, name := range names {
		if other, err := readProfile(home, name); err == nil && other.serves(ctx, server, docker) {
			return other, nil
		}
	}
	return p, err
}

func readProfile(home, name string) (p profile, err error) {
	if name == "" || name != filepath.Base(name) {
		return p, fs.ErrNotExist
	}
	err = readJSON(filepath.Join(home, "profiles", name, "config.json"), &p)
	p.Name = name // whatever it says
	return p, err
}

// machine is the name of a node's machine, or container.
func (p profile) machine(node string) string {
	if node == "" {
		return p.Name
	}
	return p.Name + "-" + node
}

// start is the command that brings the cluster up.
func (p profile) start() string { return p.command("start") }

// command is one of minikube's for the profile, as a person types it.
func (p profile) command(verb string) string {
	if p.Name == "minikube" {
		return "minikube " + verb
	}
	return "minikube " + verb + " -p " + p.Name
}

// serves tells whether an API server's address, with its port, is surely one of the profile's nodes.
func (p profile) serves(ctx context.Context, server string, docker *client.Client) bool {
	parsed, err := url.Parse(server)
	if err != nil {
		return false
	}
	for _, n := range p.Nodes {
		port := strconv.Itoa(cmp.Or(n.Port, p.APIServerPort, 8443))
		if n.IP == parsed.Hostname() && port == parsed.Port() {
			return true
		}
		if p.Driver == "docker" && docker != nil && onThisMachine(server) {
			address, err := published(ctx, docker, p.machine(n.Name), port)
			if err == nil && portOf("https://"+address) == parsed.Port() {
				return true
			}
		}
	}
	return false
}

func portOf(address string) string {
	parsed, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return parsed.Port()
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

// Ports of a node's own.
const (
	sshPort    = "22"
	dockerPort = "2376" // of the daemon of a node with the docker runtime, with TLS
)

// locate finds the way into one node: a VM driver writes it down, a container's ssh port is published, and with the driver "none" the node
// is this machine.
func locate(ctx context.Context, home string, p profile, name, ip string, docker *client.Client) (*Node, error) {
	n := &Node{name: name, shell: p.command("ssh") + " -n " + name + " -- sudo"}
	if p.Driver == "none" || p.Driver == "native" {
		n.way, n.shell = local{name}, "sudo"
		return n, nil
	}
	var m machine
	folder := filepath.Join(home, "machines", name)
	file := filepath.Join(folder, "config.json")
	problem := readJSON(file, &m)
	way := &sshWay{node: name, start: p.start(), user: cmp.Or(m.Driver.SSHUser, "docker"), key: cmp.Or(m.Driver.SSHKeyPath, filepath.Join(folder, "id_rsa")), free: make(chan struct{}, sessions)}
	n.way = way
	host := cmp.Or(m.Driver.IPAddress, ip)
	switch {
	case problem != nil:
	case p.Driver == "docker" || p.Driver == "podman":
		at := func(port string) where {
			return func(ctx context.Context) (string, error) { return containerPort(ctx, p, docker, name, ip, port) }
		}
		way.locate, n.docker = at(sshPort), at(dockerPort)
		_, err := way.locate(ctx) // a node that is stopped is told of at once
		return n, err
	case host != "":
		way.locate, n.docker = fixed(host, sshPort), fixed(host, dockerPort)
		if port := m.Driver.SSHPort; port != 0 {
			if p.Driver == "virtualbox" { // forwarded, as its own GetSSHHostname has it
				host = "127.0.0.1"
			}
			way.locate = fixed(host, strconv.Itoa(port))
		}
		return n, nil
	default:
		problem = fmt.Errorf("%s names no address", file)
	}
	asked, err := askMinikube(ctx, p.Name, name)
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("node %s: %w; %w", name, problem, err), p.start())
	}
	way.key, way.locate, n.docker = asked.key, fixed(asked.ip, sshPort), fixed(asked.ip, dockerPort)
	return n, nil
}

// containerPort returns where a port of a node's container is. It is another one after each start.
func containerPort(ctx context.Context, p profile, docker *client.Client, name, ip, port string) (string, error) {
	engines := []*client.Client{docker}
	if p.Driver == "podman" {
		sockets, closeAll := podman()
		defer closeAll()
		engines = append(sockets, docker)
	}
	var errs []error
	for _, engine := range engines {
		if engine == nil {
			continue
		}
		address, err := published(ctx, engine, name, port)
		if err == nil {
			return address, nil
		}
		errs = append(errs, err)
	}
	if ip != "" && (p.Driver == "podman" || os.Getenv("MINIKUBE_ACTIVE_DOCKERD") != "") {
		// "minikube docker-env" points DOCKER_HOST into the node, whose daemon does not know the node's container. And podman may serve nobody.
		return net.JoinHostPort(ip, port), nil
	}
	return "", event.WithHint(fmt.Errorf("node %s: %w", name, errors.Join(errs...)), p.start())
}

// published asks Docker, or what speaks like it, for the address on this machine of a container's port.
func published(ctx context.Context, docker *client.Client, name, port string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	inspected, err := docker.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return "", errors.New("Docker has no container of that name")
	}
	if err != nil {
		return "", event.WithHint(fmt.Errorf("ask Docker for its port %s: %w", port, err), "start Docker, then: minikube start")
	}
	if state := inspected.Container.State; state == nil || !state.Running {
		return "", errors.New("it is stopped")
	}
	if settings := inspected.Container.NetworkSettings; settings != nil {
		if bindings := settings.Ports[network.MustParsePort(port+"/tcp")]; len(bindings) > 0 {
			return net.JoinHostPort("127.0.0.1", bindings[0].HostPort), nil
		}
	}
	return "", event.WithHint(fmt.Errorf("its container does not publish its port %s", port), "minikube delete; minikube start")
}

// podman returns clients of podman's sockets, which speak Docker's API: that of the user, that of root.
func podman() (engines []*client.Client, closeAll func()) {
	sockets := []string{"/run/podman/podman.sock"}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		sockets = append([]string{filepath.Join(dir, "podman", "podman.sock")}, sockets...)
	}
	for _, socket := range sockets {
		if engine, err := client.New(client.WithHost("unix://" + socket)); err == nil {
			engines = append(engines, engine)
		}
	}
	return engines, func() {
		for _, engine := range engines {
			_ = engine.Close() // nothing is lost with it
		}
	}
}

// answer is what minikube says of a node.
type answer struct{ ip, key string }

// askMinikube asks minikube itself, where its files are not understood.
func askMinikube(ctx context.Context, profile, node string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var said [2]string
	for i, question := range []string{"ip", "ssh-key"} {
		out, err := exec.CommandContext(ctx, "minikube", question, "-p", profile, "-n", node).Output() //nolint:gosec // names of minikube's own
		if err != nil {
			return answer{}, fmt.Errorf("minikube %s -p %s -n %s: %w", question, profile, node, err)
		}
		said[i] = strings.TrimSpace(string(out))
	}
	return answer{said[0], said[1]}, nil
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
