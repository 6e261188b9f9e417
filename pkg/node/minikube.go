package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// Minikube's files tell which profile a kube context belongs to, its nodes, and how to reach each.
// Their layout is minikube's own (pkg/minikube/config, pkg/minikube/localpath, pkg/libmachine). The
// minikube command is only run if they are not understood.

// profile is the part of profiles/<name>/config.json that devloop needs.
type profile struct {
	folder           string // profiles/<name>
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

// machine is the part of machines/<name>/config.json that devloop needs. With the docker driver,
// only SSHKeyPath is set.
type machine struct {
	Driver struct {
		IPAddress  string
		SSHUser    string
		SSHPort    int
		SSHKeyPath string
		EnginePort int // of Docker, where it is not the usual one: QEMU forwards it
	}
}

// minikubeHome follows minikube's localpath.MiniPath: $MINIKUBE_HOME, with ".minikube" below it
// unless it ends so already.
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

// Find returns the cluster of a kube context and its nodes, if it belongs to minikube, kind or k3d;
// the nodes of other clusters are not known. server is the API server's URL in that context.
// Origin tells who serves that address; whether the context may be used is up to the caller.
// docker is the daemon that runs nodes, nil for none; the cluster closes it. hostKeys is the folder
// for the nodes' ssh host keys, which is created when needed. The caller closes the cluster.
func Find(ctx context.Context, kubeContext, server string, docker *client.Client, hostKeys string) (*Cluster, error) {
	cluster, err := find(ctx, kubeContext, server, docker, hostKeys)
	if err == nil {
		cluster.machines, cluster.loading = docker, make(chan struct{}, loads)
	}
	return cluster, err
}

func find(ctx context.Context, kubeContext, server string, docker *client.Client, hostKeys string) (*Cluster, error) {
	home, err := minikubeHome()
	if err != nil {
		return nil, fmt.Errorf("find minikube's folder: %w", err)
	}
	p, serves, err := findProfile(ctx, home, kubeContext, server, docker)
	if errors.Is(err, fs.ErrNotExist) {
		if u, err := url.Parse(server); err == nil && onThisMachine(u.Hostname()) {
			if found, err := findContainers(ctx, kubeContext, server, docker); found != nil || err != nil {
				return found, err
			}
		}
		return &Cluster{name: kubeContext}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("minikube profile %q: %w", kubeContext, err)
	}
	cluster := &Cluster{name: kubeContext, certs: filepath.Join(home, "certs"), look: p.machines(home, docker)}
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
		return nil, event.WithHint(fmt.Errorf("minikube profile %q has no nodes", p.Name), p.command("start"))
	}
	return cluster, nil
}

// findProfile returns the profile that serves the API server's address: the one with the context's
// name, or else any other, since contexts can be renamed. If there is none, it returns the profile
// with the context's name; the error is fs.ErrNotExist without one.
func findProfile(ctx context.Context, home, kubeContext, server string,
	docker *client.Client) (p profile, serves bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout) // for all profiles together
	defer cancel()
	p, err = readProfile(home, kubeContext)
	if err == nil && p.serves(ctx, server, docker) {
		return p, true, nil
	}
	names := []string{os.Getenv("MINIKUBE_PROFILE")}
	folders, _ := os.ReadDir(filepath.Join(home, "profiles")) // without it, there is no profile
	for _, folder := range folders {
		names = append(names, folder.Name())
	}
	for _, name := range slices.DeleteFunc(names, func(name string) bool { return name == kubeContext }) {
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
	folder := filepath.Join(home, "profiles", name)
	err = readJSON(filepath.Join(folder, "config.json"), &p)
	p.folder, p.Name = folder, name // the folder's name counts
	return p, err
}

// machine returns the name of a node's machine or container.
func (p profile) machine(node string) string {
	if node == "" {
		return p.Name
	}
	return p.Name + "-" + node
}

// command returns a command of minikube's for the profile, as a user types it.
func (p profile) command(verb string) string {
	if p.Name == "minikube" {
		return "minikube " + verb
	}
	return "minikube " + verb + " -p " + p.Name
}

// hasTunnel reports whether minikube reaches the API server through an ssh tunnel on this machine's
// loopback (tunnelToAPIServer in its pkg/minikube/bootstrapper/kubeadm), since the machine has no
// address of its own.
func (p profile) hasTunnel() bool {
	return (p.Driver == "qemu2" || p.Driver == "qemu") && (p.Network == "builtin" || p.Network == "user")
}

const (
	sshPort    = "22"
	dockerPort = "2376" // of the Docker daemon on a node, with TLS
)

// locate finds out how to reach a node: the driver of a VM writes it down, a container publishes
// its ssh port, and with the driver "none" the node is this machine.
func locate(ctx context.Context, home string, p profile, name, ip string,
	docker *client.Client, hostKeys string) (*node, error) {
	if p.Driver == "none" || p.Driver == "native" {
		return &node{name: name, transport: localTransport{name}, shell: "sudo"}, nil
	}
	var m machine
	folder := filepath.Join(home, "machines", name)
	file := filepath.Join(folder, "config.json")
	problem := readJSON(file, &m)
	ssh := &sshTransport{node: name, start: p.command("start"), user: cmp.Or(m.Driver.SSHUser, "docker"),
		key:  cmp.Or(m.Driver.SSHKeyPath, filepath.Join(folder, "id_rsa")),
		free: make(chan struct{}, sessions), hostKeys: hostKeys}
	n := &node{name: name, transport: ssh, shell: p.command("ssh") + " -n " + name + " -- sudo"}
	host := cmp.Or(m.Driver.IPAddress, ip)
	switch {
	case problem != nil:
	case p.Driver == "docker" || p.Driver == "podman":
		at := func(port string) addressFunc {
			return func(ctx context.Context) (string, error) { return p.containerPort(ctx, docker, name, ip, port) }
		}
		ssh.locate, n.docker = at(sshPort), at(dockerPort)
		_, err := ssh.locate(ctx) // reports a stopped node at once
		return n, err
	case host != "":
		ssh.locate, n.docker = fixedAddress(host, sshPort), fixedAddress(host, dockerPort)
		if port := m.Driver.EnginePort; port != 0 {
			n.docker = fixedAddress(host, strconv.Itoa(port))
		}
		if port := m.Driver.SSHPort; port != 0 {
			if p.Driver == "virtualbox" { // forwards it (GetSSHHostname)
				host = "127.0.0.1"
			}
			ssh.locate = fixedAddress(host, strconv.Itoa(port))
		}
		return n, nil
	default:
		problem = fmt.Errorf("%s names no address", file)
	}
	ip, ipErr := askMinikube(ctx, p.Name, name, "ip")
	key, keyErr := askMinikube(ctx, p.Name, name, "ssh-key")
	if err := cmp.Or(ipErr, keyErr); err != nil {
		return nil, event.WithHint(fmt.Errorf("node %s: %w; %w", name, problem, err), p.command("start"))
	}
	ssh.key, ssh.locate, n.docker = key, fixedAddress(ip, sshPort), fixedAddress(ip, dockerPort)
	return n, nil
}

// engines returns clients of the daemons that may run the profile's nodes: for podman, the sockets
// of the user and of root, which speak Docker's API. The caller calls closeAll.
func (p profile) engines(docker *client.Client) (engines []*client.Client, closeAll func()) {
	if p.Driver == "podman" {
		sockets := []string{"/run/podman/podman.sock"}
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
			sockets = []string{filepath.Join(dir, "podman", "podman.sock"), sockets[0]}
		}
		for _, socket := range sockets {
			if engine, err := client.New(client.WithHost("unix://" + socket)); err == nil {
				engines = append(engines, engine)
			}
		}
	}
	opened := engines
	if docker != nil {
		engines = append(engines, docker)
	}
	return engines, func() {
		for _, engine := range opened {
			_ = engine.Close()
		}
	}
}

// containerPort returns the address of a port of a node's container. A restart changes it.
func (p profile) containerPort(ctx context.Context, docker *client.Client, name, ip, port string) (string, error) {
	engines, closeAll := p.engines(docker)
	defer closeAll()
	var errs []error
	for _, engine := range engines {
		found, err := bindings(ctx, engine, name, port)
		if err == nil && len(found) > 0 {
			return net.JoinHostPort("127.0.0.1", found[0].HostPort), nil
		}
		if err == nil {
			err = event.WithHint(fmt.Errorf("its container does not publish its port %s", port),
				p.command("delete")+"; "+p.command("start"))
		}
		errs = append(errs, err)
	}
	if ip != "" && (p.Driver == "podman" || os.Getenv("MINIKUBE_ACTIVE_DOCKERD") != "") {
		// "minikube docker-env" may hide the daemon that has the node's container, and podman's
		// sockets may not be served.
		return net.JoinHostPort(ip, port), nil
	}
	err := errors.Join(errs...)
	return "", event.WithHint(fmt.Errorf("node %s: %w", name, err), cmp.Or(event.Hint(err), p.command("start")))
}

// bindings returns the addresses at which a port of a running container is published.
func bindings(ctx context.Context, docker *client.Client, name, port string) ([]network.PortBinding, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	inspected, err := docker.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil, errors.New("Docker has no container of that name")
	}
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("ask Docker for its port %s: %w", port, err),
			"see whether Docker runs on this machine; then start the cluster")
	}
	if state := inspected.Container.State; state == nil || !state.Running {
		return nil, errors.New("it is stopped")
	}
	if settings := inspected.Container.NetworkSettings; settings != nil {
		return settings.Ports[network.MustParsePort(port+"/tcp")], nil
	}
	return nil, nil
}

// askMinikube asks minikube itself about a node.
func askMinikube(ctx context.Context, profile, node, question string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "minikube", question, "-p", profile, "-n", node) //nolint:gosec // its own names
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// maxJSON limits a file of minikube's, in bytes. They have a few thousand.
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
