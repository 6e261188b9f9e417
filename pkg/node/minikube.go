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
	"github.com/devloop/devloop/pkg/files"
)

// profile is the part of profiles/<name>/config.json that devloop needs.
type profile struct {
	Name             string
	Driver           string
	APIServerPort    int
	Network          string // of QEMU
	KubernetesConfig struct {
		ContainerRuntime string
		APIServerHAVIP   string // of several control planes
	}
	Nodes []struct {
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

// Find returns the cluster of a kube context, of minikube, kind or k3d, and its nodes; of other
// clusters the nodes are not known. server is the API server's URL in that context. Whether the
// context may be used at all is not decided here: Origin says who serves that address. hostKeys is
// the folder where the ssh host keys of nodes are remembered; it is made when it is needed.
func Find(ctx context.Context, kubeContext, server string, docker *client.Client, hostKeys string) (*Cluster, error) {
	home, err := minikubeHome()
	if err != nil {
		return nil, fmt.Errorf("find minikube's folder: %w", err)
	}
	p, serves, err := findProfile(ctx, home, kubeContext, server, docker)
	if errors.Is(err, fs.ErrNotExist) {
		if onThisMachine(server) {
			found, err := findContainers(ctx, kubeContext, server, docker)
			if err != nil {
				return nil, err
			}
			if found != nil {
				return found, nil
			}
		}
		return &Cluster{name: kubeContext}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("minikube profile %q: %w", kubeContext, err)
	}
	cluster := &Cluster{name: kubeContext, start: p.start(), certs: filepath.Join(home, "certs")}
	if serves {
		cluster.origin = Origin{"minikube", p.Name}
	}
	for _, n := range p.Nodes {
		name := p.machine(n.Name)
		found, err := locate(ctx, home, p, name, n.IP, docker, hostKeys)
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

// findProfile reads the profile that a kube context belongs to, and tells whether it serves the API
// server's address. If the profile of the context's name does not, another one may: contexts can be
// renamed. Otherwise it is the one of that name, and none is fs.ErrNotExist.
func findProfile(ctx context.Context, home, kubeContext, server string,
	docker *client.Client) (p profile, serves bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout) // for all profiles together
	defer cancel()
	p, err = readProfile(home, kubeContext)
	if err == nil && p.serves(ctx, server, docker) {
		return p, true, nil
	}
	names := []string{os.Getenv("MINIKUBE_PROFILE")}
	folders, _ := os.ReadDir(filepath.Join(home, "profiles")) // none: no profile either
	for _, folder := range folders {
		names = append(names, folder.Name())
	}
	for _, name := range names {
		if other, err := readProfile(home, name); err == nil && other.serves(ctx, server, docker) {
			return other, true, nil
		}
	}
	return p, false, err
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
func locate(ctx context.Context, home string, p profile, name, ip string,
	docker *client.Client, hostKeys string) (*Node, error) {
	n := &Node{name: name, shell: p.command("ssh") + " -n " + name + " -- sudo"}
	if p.Driver == "none" || p.Driver == "native" {
		n.transport, n.shell = localTransport{name}, "sudo"
		return n, nil
	}
	var m machine
	folder := filepath.Join(home, "machines", name)
	file := filepath.Join(folder, "config.json")
	problem := readJSON(file, &m)
	way := &sshTransport{node: name, start: p.start(), user: cmp.Or(m.Driver.SSHUser, "docker"),
		key:  cmp.Or(m.Driver.SSHKeyPath, filepath.Join(folder, "id_rsa")),
		free: make(chan struct{}, sessions), hostKeys: hostKeys}
	n.transport = way
	host := cmp.Or(m.Driver.IPAddress, ip)
	switch {
	case problem != nil:
	case p.Driver == "docker" || p.Driver == "podman":
		at := func(port string) addressFunc {
			return func(ctx context.Context) (string, error) { return containerPort(ctx, p, docker, name, ip, port) }
		}
		way.locate, n.docker = at(sshPort), at(dockerPort)
		_, err := way.locate(ctx) // a node that is stopped is told of at once
		return n, err
	case host != "":
		way.locate, n.docker = fixedAddress(host, sshPort), fixedAddress(host, dockerPort)
		if port := m.Driver.SSHPort; port != 0 {
			if p.Driver == "virtualbox" { // forwarded, as its own GetSSHHostname has it
				host = "127.0.0.1"
			}
			way.locate = fixedAddress(host, strconv.Itoa(port))
		}
		return n, nil
	default:
		problem = fmt.Errorf("%s names no address", file)
	}
	asked, err := askMinikube(ctx, p.Name, name)
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("node %s: %w; %w", name, problem, err), p.start())
	}
	way.key, way.locate, n.docker = asked.key, fixedAddress(asked.ip, sshPort), fixedAddress(asked.ip, dockerPort)
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
	found, err := bindings(ctx, docker, name, port)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", event.WithHint(fmt.Errorf("its container does not publish its port %s", port),
			"minikube delete; minikube start")
	}
	return net.JoinHostPort("127.0.0.1", found[0].HostPort), nil
}

// bindings asks where the port of a running container is published.
func bindings(ctx context.Context, docker *client.Client, name, port string) ([]network.PortBinding, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	inspected, err := docker.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil, errors.New("Docker has no container of that name")
	}
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("ask Docker for its port %s: %w", port, err),
			"start Docker, then: minikube start")
	}
	if state := inspected.Container.State; state == nil || !state.Running {
		return nil, errors.New("it is stopped")
	}
	if settings := inspected.Container.NetworkSettings; settings != nil {
		return settings.Ports[network.MustParsePort(port+"/tcp")], nil
	}
	return nil, nil
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

// maxJSON is the size of a file of minikube's, in bytes; they have a few thousand.
const maxJSON = 1 << 20

func readJSON(file string, into any) error {
	content, err := files.Read(file, maxJSON)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
