package node

import (
	"errors"
	"fmt"
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

// home writes a minikube folder as minikube v1.38 leaves it, and makes it the current one.
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

// docker answers questions for containers by name; others are not there.
func docker(t *testing.T, containers map[string]string) *client.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Header().Set("Api-Version", "1.41")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		for name, content := range containers {
			if strings.HasSuffix(r.URL.Path, "/containers/"+name+"/json") {
				_, _ = w.Write([]byte(content))
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message": "No such container"}`))
	}))
	t.Cleanup(server.Close)
	found, err := client.New(client.WithHost("tcp://" + server.Listener.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = found.Close() })
	return found
}

const (
	vmProfile = `{"Name": "vm", "Driver": "kvm2", "KubernetesConfig": {"ContainerRuntime": "containerd"},
		"Nodes": [{"Name": "", "IP": "192.168.39.7", "Port": 8443, "ContainerRuntime": "containerd", "ControlPlane": true}]}`
	vmMachine     = `{"Driver": {"IPAddress": "192.168.39.7", "SSHUser": "docker", "SSHPort": 22, "SSHKeyPath": "/keys/vm"}}`
	dockerProfile = `{"Name": "minikube", "Driver": "docker", "KubernetesConfig": {"ContainerRuntime": "docker"},
		"Nodes": [{"Name": "", "IP": "192.168.49.2", "Port": 8443}, {"Name": "m02", "IP": "192.168.49.3", "Port": 8443}]}`
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
	for _, test := range []struct{ context, server, want string }{
		{"vm", "https://192.168.39.7:8443", "vm docker@192.168.39.7:22 /keys/vm node.containerdRuntime"},
		{"renamed", "https://192.168.39.7:8443", "vm docker@192.168.39.7:22 /keys/vm node.containerdRuntime"},
		{"minikube", "https://127.0.0.1:32771", "minikube docker@127.0.0.1:32768 /keys/minikube node.dockerRuntime, minikube-m02 docker@127.0.0.1:32773 /keys/minikube node.dockerRuntime"},
	} {
		found, err := Find(t.Context(), test.context, test.server, running, false)
		if err != nil {
			t.Errorf("%s: %v", test.context, err)
			continue
		}
		var got []string
		for _, n := range found.nodes {
			way := n.way.(*sshWay)
			addresses, err := way.locate(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%s %s@%s %s %T", n.name, way.user, addresses[0], way.key, n.runtime))
		}
		if joined := strings.Join(got, ", "); joined != test.want {
			t.Errorf("%s: %s, not %s", test.context, joined, test.want)
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
	for _, test := range []struct {
		context, server, want string
		notLocal              bool
	}{
		{"production", "https://10.1.2.3:6443", "no profile of that name", true},
		{"vm", "https://10.1.2.3:6443", "is not a node of the minikube profile", true},
		{"vm", "https://vm.example.com:6443", "is not a node of the minikube profile", true},
		{"minikube", "https://127.0.0.1:32771", "node minikube: it is stopped", false},
		{"torn", "https://127.0.0.1:1", "torn", false},
		{"empty", "https://127.0.0.1:1", "has no nodes", false},
		{"rkt", "https://192.168.39.8:8443", `container runtime "rkt" is not supported`, false},
		{"../vm", "https://192.168.39.9:8443", "", true},
		{"renamed", "https://192.168.39.7:8444", "", true},
	} {
		_, err := Find(t.Context(), test.context, test.server, stopped, false)
		if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrNotLocal) != test.notLocal {
			t.Errorf("%s at %s: %v", test.context, test.server, err)
		}
		if err != nil && test.context != "torn" && event.Hint(err) == "" {
			t.Errorf("%s: no hint: %v", test.context, err)
		}
	}
	if _, err := Find(t.Context(), "vm", "https://10.1.2.3:6443", stopped, true); err != nil {
		t.Errorf("allowed by name: %v", err)
	}
}

func TestClustersWithoutKnownNodes(t *testing.T) {
	home(t, nil)
	for _, test := range []struct {
		server  string
		allowed bool
		local   bool
	}{
		{"https://127.0.0.1:6443", false, true},
		{"https://[::1]:6443", false, true},
		{"https://localhost:6443", false, true},
		{"https://0.0.0.0:41234", false, true},
		{"https://kubernetes.docker.internal:6443", false, true},
		{"https://192.0.2.1:6443", false, false},
		{"https://localhost.example.com:6443", false, false},
		{"https://127.0.0.1.example.com:6443", false, false},
		{"https://192.0.2.1:6443", true, true},
	} {
		cluster, err := Find(t.Context(), "kind-dev", test.server, nil, test.allowed)
		if (err == nil) != test.local || err != nil && !errors.Is(err, ErrNotLocal) {
			t.Errorf("%s, allowed %t: %v", test.server, test.allowed, err)
			continue
		}
		if err != nil {
			continue
		}
		if missing, err := cluster.Missing(t.Context(), nil); len(missing) > 0 || err != nil {
			t.Errorf("%s: no images: %v", test.server, err)
		}
		tag, err := name.NewTag("worker:1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.Missing(t.Context(), []name.Tag{tag}); err == nil || event.Hint(err) == "" {
			t.Errorf("%s: images for nodes that are not known: %v", test.server, err)
		}
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
