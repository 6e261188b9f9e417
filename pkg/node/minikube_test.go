package node

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// home makes a minikube folder, like that of minikube v1.38, the current one.
func home(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("MINIKUBE_HOME", dir)
	t.Setenv("MINIKUBE_ACTIVE_DOCKERD", "")
	for path, content := range files {
		full := filepath.Join(dir, ".minikube", path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// docker is a daemon that has these containers, by name.
func docker(t *testing.T, containers map[string]string) *client.Client {
	t.Helper()
	// A socket's path is limited to 107 bytes, and t.TempDir contains the test's name.
	dir, err := os.MkdirTemp("", "docker") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "docker.sock")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Header().Set("Api-Version", "1.41")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if list, ok := containers["list"]; ok && strings.HasSuffix(r.URL.Path, "/containers/json") {
			_, _ = w.Write([]byte(list))
			return
		}
		for name, content := range containers {
			if strings.HasSuffix(r.URL.Path, "/containers/"+name+"/json") {
				_, _ = w.Write([]byte(content))
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message": "No such container"}`))
	}))
	_ = server.Listener.Close() // which was TCP
	if server.Listener, err = net.Listen("unix", socket); err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(server.Close)
	return clientOf(t, "unix://"+socket)
}

func clientOf(t *testing.T, host string) *client.Client {
	t.Helper()
	found, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = found.Close() })
	return found
}

const (
	vmProfile = `{"Name": "vm", "Driver": "kvm2", "KubernetesConfig": {"ContainerRuntime": "containerd"},
		"Nodes": [{"Name": "", "IP": "192.168.39.7", "Port": 8443, "ContainerRuntime": "containerd",
			"ControlPlane": true}]}`
	vmMachine = `{"Driver": {"IPAddress": "192.168.39.7", "SSHUser": "docker", "SSHPort": 22,
		"SSHKeyPath": "/keys/vm"}}`
	dockerProfile = `{"Name": "minikube", "Driver": "docker", "KubernetesConfig": {"ContainerRuntime": "docker"},
		"Nodes": [{"Name": "", "IP": "192.168.49.2", "Port": 8443}, ` + secondNode + `]}`
	secondNode    = `{"Name": "m02", "IP": "192.168.49.3", "Port": 8443}`
	dockerMachine = `{"Driver": {"IPAddress": "", "SSHUser": "", "SSHPort": 0, "SSHKeyPath": "/keys/minikube"}}`
)

func inspected(running bool, ports string) string {
	return fmt.Sprintf(`{"State": {"Running": %t}, "NetworkSettings": {"Ports": {%s}}}`, running, ports)
}

func TestFind(t *testing.T) {
	home(t, map[string]string{
		"profiles/vm/config.json":           vmProfile,
		"machines/vm/config.json":           vmMachine,
		"profiles/minikube/config.json":     dockerProfile,
		"machines/minikube/config.json":     dockerMachine,
		"machines/minikube-m02/config.json": dockerMachine,
	})
	running := docker(t, map[string]string{
		"minikube":     inspected(true, `"22/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32768"}]`),
		"minikube-m02": inspected(true, `"22/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32773"}]`),
	})
	const vm = "vm containerd ssh docker@192.168.39.7:22 /keys/vm: minikube ssh -p vm -n vm -- sudo"
	const two = "minikube docker ssh docker@127.0.0.1:32768 /keys/minikube: minikube ssh -n minikube -- sudo; " +
		"minikube-m02 docker ssh docker@127.0.0.1:32773 /keys/minikube: minikube ssh -n minikube-m02 -- sudo"
	for _, test := range []struct{ context, server, want string }{
		{"vm", "https://127.0.0.1:47101", vm}, // Origin tells that the server is another one
		{"vm", "https://192.168.39.7:8443", vm},
		{"renamed", "https://192.168.39.7:8443", vm},
		{"minikube", "https://127.0.0.1:32771", two},
	} {
		found, err := Find(t.Context(), test.context, test.server, running, t.TempDir())
		if err != nil {
			t.Errorf("%s: %v", test.context, err)
			continue
		}
		if got := describe(t, found); got != test.want {
			t.Errorf("%s: %s, not %s", test.context, got, test.want)
		}
	}
}

func TestFindRefuses(t *testing.T) {
	home(t, map[string]string{
		"profiles/vm/config.json":       vmProfile,
		"machines/vm/config.json":       vmMachine,
		"profiles/minikube/config.json": dockerProfile,
		"machines/minikube/config.json": dockerMachine,
		"profiles/torn/config.json":     `{"Name":`,
		"profiles/empty/config.json":    `{"Name": "empty"}`,
		"profiles/rkt/config.json":      strings.NewReplacer("containerd", "rkt", "39.7", "39.8").Replace(vmProfile),
		"machines/rkt/config.json":      vmMachine,
	})
	stopped := docker(t, map[string]string{"minikube": inspected(false, "")})
	for _, test := range []struct{ context, server, want string }{
		{"minikube", "https://127.0.0.1:32771", "node minikube: it is stopped"},
		{"torn", "https://127.0.0.1:1", "torn"},
		{"empty", "https://127.0.0.1:1", "has no nodes"},
		{"rkt", "https://192.168.39.8:8443", `container runtime "rkt" is not supported`},
	} {
		_, err := Find(t.Context(), test.context, test.server, stopped, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s at %s: %v", test.context, test.server, err)
		}
		if err != nil && test.context != "torn" && event.Hint(err) == "" {
			t.Errorf("%s: no hint: %v", test.context, err)
		}
	}
}

// The hint is about what was found, and names the profile: minikube delete alone deletes another
// one.
func TestContainerPortHints(t *testing.T) {
	running := docker(t, map[string]string{"dev": inspected(true, ""), "off": inspected(false, "")})
	gone := clientOf(t, "unix://"+filepath.Join(t.TempDir(), "none.sock"))
	for name, test := range map[string]struct {
		docker *client.Client
		hint   string
	}{
		"dev":  {running, "minikube delete -p dev; minikube start -p dev"},
		"off":  {running, "minikube start -p off"},
		"none": {running, "minikube start -p none"},
		"any":  {gone, "see whether Docker runs on this machine; then start the cluster"},
	} {
		p := profile{Name: name, Driver: "docker"}
		_, err := p.containerPort(t.Context(), test.docker, name, "", sshPort)
		if err == nil || event.Hint(err) != test.hint {
			t.Errorf("%s: %v → %s", name, err, event.Hint(err))
		}
	}
}

func TestClustersWithoutKnownNodes(t *testing.T) {
	home(t, map[string]string{"profiles/vm/config.json": vmProfile, "machines/vm/config.json": vmMachine})
	for context, server := range map[string]string{
		"kind-dev": "https://127.0.0.1:6443",
		"../vm":    "https://192.168.39.9:8443",
		"renamed":  "https://192.168.39.7:8444",
		"prod":     "https://192.0.2.1:6443",
	} {
		cluster, err := Find(t.Context(), context, server, nil, t.TempDir())
		if err != nil || cluster.Origin() != (Origin{}) {
			t.Errorf("%s: %v, %v", server, cluster, err)
			continue
		}
		if missing, err := cluster.Missing(t.Context(), nil); len(missing) > 0 || err != nil {
			t.Errorf("%s: no images: %v", server, err)
		}
		_, err = cluster.Missing(t.Context(), []name.Tag{newTag(t, "worker:1")})
		if err == nil || event.Hint(err) == "" {
			t.Errorf("%s: images for nodes that are not known: %v", server, err)
		}
	}
}

// describe tells how each node is reached.
func describe(t *testing.T, cluster *Cluster) string {
	t.Helper()
	var nodes []string
	for _, n := range cluster.nodes {
		how := ""
		switch transport := n.transport.(type) {
		case *sshTransport:
			_, _ = transport.locate(t.Context()) // the second time is after a broken connection
			address, err := transport.locate(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			how = "ssh " + transport.user + "@" + address + " " + transport.key
		case localTransport:
			how = "here"
		case *execTransport:
			how = "exec in " + transport.node
		}
		nodes = append(nodes, fmt.Sprintf("%s %s %s: %s", n.name, n.runtime.name(), how, n.shell))
	}
	return strings.Join(nodes, "; ")
}

func TestFindDrivers(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\n" + `[ "$2 $3 $4 $5" = "-p odd -n odd" ] &&
		case $1 in ip) echo 192.168.5.5 ;; ssh-key) echo /keys/odd ;; esac`
	if err := os.WriteFile(filepath.Join(dir, "minikube"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("XDG_RUNTIME_DIR", "")
	vm := func(driver, runtime string) string {
		return fmt.Sprintf(`{"Driver": %q, "APIServerPort": 8443, "KubernetesConfig": {"ContainerRuntime": %q},
			"Nodes": [{"IP": "127.0.0.1"}]}`, driver, runtime)
	}
	machine := func(ip string, port int, key string) string {
		return fmt.Sprintf(`{"Driver": {"IPAddress": %q, "SSHPort": %d, "SSHKeyPath": %q}}`, ip, port, key)
	}
	home(t, map[string]string{
		"profiles/none/config.json":   vm("none", "docker"),
		"profiles/box/config.json":    vm("virtualbox", "crio"),
		"machines/box/config.json":    machine("192.168.59.100", 40022, "/keys/box"),
		"profiles/qemu/config.json":   vm("qemu2", "containerd"),
		"machines/qemu/config.json":   machine("127.0.0.1", 40023, "/keys/qemu"),
		"profiles/podman/config.json": strings.ReplaceAll(vm("podman", "cri-o"), "127.0.0.1", "192.168.58.2"),
		"machines/podman/config.json": dockerMachine,
		"profiles/odd/config.json":    vm("new", "containerd"),
		"machines/odd/config.json":    `<machine/>`,
	})
	for context, want := range map[string]string{
		"none":   "none docker here: sudo",
		"box":    "box cri-o ssh docker@127.0.0.1:40022 /keys/box: minikube ssh -p box -n box -- sudo",
		"qemu":   "qemu containerd ssh docker@127.0.0.1:40023 /keys/qemu: minikube ssh -p qemu -n qemu -- sudo",
		"podman": "podman cri-o ssh docker@192.168.58.2:22 /keys/minikube: minikube ssh -p podman -n podman -- sudo",
		"odd":    "odd containerd ssh docker@192.168.5.5:22 /keys/odd: minikube ssh -p odd -n odd -- sudo",
	} {
		found, err := Find(t.Context(), context, "https://127.0.0.1:8443", docker(t, nil), t.TempDir())
		if err != nil {
			t.Errorf("%s: %v", context, err)
			continue
		}
		if got := describe(t, found); got != want {
			t.Errorf("%s: %s, not %s", context, got, want)
		}
	}
}

func TestFindRenamed(t *testing.T) {
	other := strings.NewReplacer("minikube", "other", ".49.", ".50.").Replace(dockerProfile)
	home(t, map[string]string{
		"profiles/vm/config.json":           vmProfile,
		"machines/vm/config.json":           vmMachine,
		"profiles/minikube/config.json":     dockerProfile,
		"machines/minikube/config.json":     dockerMachine,
		"machines/minikube-m02/config.json": dockerMachine,
		"profiles/other/config.json":        other,
		"machines/other/config.json":        dockerMachine,
		"machines/other-m02/config.json":    dockerMachine,
	})
	ports := func(ssh, api int) string {
		published := fmt.Sprintf(`"22/tcp": [{"HostPort": "%d"}], "8443/tcp": [{"HostPort": "%d"}]`, ssh, api)
		return inspected(true, published)
	}
	running := docker(t, map[string]string{"minikube": ports(1, 2), "minikube-m02": ports(3, 4),
		"other": ports(5, 6), "other-m02": ports(7, 8)})
	for server, want := range map[string]string{"https://127.0.0.1:2": "minikube",
		"https://127.0.0.1:6": "other", "https://192.168.39.7:8443": "vm"} {
		found, err := Find(t.Context(), "renamed", server, running, t.TempDir())
		if err != nil || len(found.nodes) == 0 || found.nodes[0].name != want {
			t.Errorf("%s: %v, %+v", server, err, found)
		}
	}
}

func TestFindContainers(t *testing.T) {
	home(t, nil)
	one := func(name, state, labels, ports string) string {
		return fmt.Sprintf(`{"Names": ["/%s"], "State": %q, "Labels": {%s}, "Ports": [%s]}`, name, state, labels, ports)
	}
	kind := func(cluster, role string) string {
		return fmt.Sprintf(`"io.x-k8s.kind.cluster": %q, "io.x-k8s.kind.role": %q`, cluster, role)
	}
	k3d := func(cluster, role string) string {
		return fmt.Sprintf(`"k3d.cluster": %q, "k3d.role": %q`, cluster, role)
	}
	list := "[" + strings.Join([]string{
		one("dev-worker", "running", kind("dev", "worker"), ""),
		one("dev-control-plane", "running", kind("dev", "control-plane"), `{"PrivatePort": 6443, "PublicPort": 40001}`),
		one("dev-external-load-balancer", "running", kind("dev", "external-load-balancer"), ""),
		one("old-control-plane", "exited", kind("old", "control-plane"), ""),
		one("k3d-team-serverlb", "running", k3d("team", "loadbalancer"), `{"PrivatePort": 6443, "PublicPort": 40002}`),
		one("k3d-team-server-0", "running", k3d("team", "server"), ""),
		one("k3d-team-agent-0", "running", k3d("team", "agent"), ""),
		one("k3d-registry", "running", `"k3d.role": "registry"`, `{"PrivatePort": 5000, "PublicPort": 40003}`),
	}, ",") + "]"
	daemon := docker(t, map[string]string{"list": list})
	exec := func(node string) string {
		return node + " containerd exec in " + node + ": docker exec " + node
	}
	for _, test := range []struct{ context, server, want string }{
		{"kind-dev", "https://127.0.0.1:40001", exec("dev-control-plane") + "; " + exec("dev-worker")},
		{"renamed", "https://127.0.0.1:40002", exec("k3d-team-agent-0") + "; " + exec("k3d-team-server-0")},
		{"docker-desktop", "https://127.0.0.1:6443", ""},
		{"docker-desktop", "https://127.0.0.1:40003", ""},
	} {
		found, err := Find(t.Context(), test.context, test.server, daemon, t.TempDir())
		if err != nil {
			t.Errorf("%s: %v", test.context, err)
			continue
		}
		if got := describe(t, found); got != test.want {
			t.Errorf("%s: %s, not %s", test.context, got, test.want)
		}
	}
	_, err := Find(t.Context(), "kind-old", "https://127.0.0.1:40004", daemon, t.TempDir())
	if event.Hint(err) != "docker start old-control-plane" {
		t.Errorf("stopped: %v", err)
	}

	// Docker lists no ports of a container that is stopped; a renamed context tells nothing else.
	stopped := docker(t, map[string]string{"list": list, "old-control-plane": `{"HostConfig": {"PortBindings":
		{"6443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "40004"}]}}}`})
	if _, err := Find(t.Context(), "renamed", "https://127.0.0.1:40004", stopped, t.TempDir()); event.Hint(err) !=
		"docker start old-control-plane" {
		t.Errorf("stopped and renamed: %v", err)
	}
	if found, err := Find(t.Context(), "renamed", "https://127.0.0.1:40005", stopped, t.TempDir()); err != nil ||
		describe(t, found) != "" {
		t.Errorf("another port: %v", err)
	}

	// What a context that the kubeconfig lacks can be of.
	gone := clientOf(t, "unix://"+filepath.Join(t.TempDir(), "docker.sock"))
	for name, want := range map[string]string{
		"kind-dev": "Docker has the kind cluster dev: kind export kubeconfig --name dev writes the context",
		"kind-old": "Docker has the kind cluster old: kind export kubeconfig --name old writes the context, after " +
			"docker start old-control-plane",
		"k3d-team": "Docker has the k3d cluster team: k3d kubeconfig merge --kubeconfig-merge-default team " +
			"writes the context",
		"kind-none": "", "staging": "", "../x": "",
	} {
		if got := HowToRestore(t.Context(), name, daemon); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	const starting = "if it is in the kind cluster dev: start Docker"
	if got := HowToRestore(t.Context(), "kind-dev", gone); !strings.HasPrefix(got, starting) {
		t.Errorf("without Docker: %q", got)
	}
	without, err := Find(t.Context(), "kind-dev", "https://127.0.0.1:40001", gone, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if seen := without.Machines(t.Context()); seen.State != "" || seen.Hint != "start Docker, then the cluster" ||
		seen.Reason != "Docker, which would run a kind cluster dev, does not answer, either" {
		t.Errorf("without Docker: %+v", seen)
	}
	home(t, map[string]string{"profiles/staging/config.json": "{}"})
	if got := HowToRestore(t.Context(), "staging", gone); got != "minikube has a profile of that name: "+
		"minikube start -p staging starts it, and writes the context" {
		t.Errorf("minikube's: %q", got)
	}
}

func TestMinikubeHome(t *testing.T) {
	for set, want := range map[string]string{"/a": "/a/.minikube", "/a/.minikube": "/a/.minikube"} {
		t.Setenv("MINIKUBE_HOME", set)
		if got, err := minikubeHome(); err != nil || got != want {
			t.Errorf("%s: %s, %v", set, got, err)
		}
	}
}

func TestQuote(t *testing.T) {
	if got := quote([]string{"a b", "it's", "{{.ID}}"}); got != `'a b' 'it'\''s' '{{.ID}}'` {
		t.Error(got)
	}
}
