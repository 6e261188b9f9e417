package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

const missingContainer = "-" // of a Docker that does not have it

// TestMachinesInContainers: what Docker says of the containers of minikube, kind and k3d.
func TestMachinesInContainers(t *testing.T) {
	home(t, map[string]string{
		"profiles/minikube/config.json": dockerProfile,
		"machines/minikube/config.json": dockerMachine,
		"machines/minikube/id_rsa":      "",
	})
	minikube := func(docker *client.Client) *Cluster {
		dir, _ := minikubeHome()
		p, err := readProfile(dir, "minikube")
		if err != nil {
			t.Fatal(err)
		}
		return &Cluster{origin: Origin{"minikube", "minikube"}, look: p.machines(dir, docker)}
	}
	of := func(name string) func(*client.Client) *Cluster {
		return func(docker *client.Client) *Cluster {
			container := map[string]string{"kind": "kind-control-plane", "k3d": "k3d-dev-server-0"}[name]
			for _, one := range tools {
				if one.name == name {
					return &Cluster{origin: Origin{name, "dev"}, look: one.machines("dev", docker),
						nodes: []*node{{name: container, controlPlane: true, transport: outputs{}}}}
				}
			}
			return nil
		}
	}
	state := func(fields string) string { return `{"State": {` + fields + `}}` }
	for _, test := range []struct {
		name      string
		container string
		find      func(*client.Client) *Cluster
		inspected string
		want      event.Cluster
	}{
		{"minikube stop", "minikube", minikube, state(`"Running": false`),
			event.Cluster{State: event.ClusterStopped, Reason: "it is stopped: its container minikube does not run",
				Hint: "minikube start"}},
		{"docker pause", "minikube", minikube, state(`"Running": true, "Paused": true`),
			event.Cluster{State: event.ClusterPaused, Reason: "it is paused: its container minikube is paused",
				Hint: "docker unpause minikube"}},
		{"docker rm", "minikube", minikube, missingContainer,
			event.Cluster{State: event.ClusterStopped, Reason: "it is stopped: Docker has no container minikube",
				Hint: "minikube start"}},
		{"docker stop", "kind-control-plane", of("kind"), state(`"Running": false`),
			event.Cluster{State: event.ClusterStopped, Reason: "it is stopped: its container kind-control-plane does not run",
				Hint: "docker start kind-control-plane"}},
		{"kind delete", "kind-control-plane", of("kind"), missingContainer,
			event.Cluster{State: event.ClusterDeleted, Hint: "kind create cluster --name dev makes a new one",
				Reason: "it is deleted: Docker has no container kind-control-plane any more"}},
		{"k3d cluster stop", "k3d-dev-server-0", of("k3d"), state(`"Running": false`),
			event.Cluster{State: event.ClusterStopped, Reason: "it is stopped: its container k3d-dev-server-0 does not run",
				Hint: "k3d cluster start dev"}},
		{"k3d runs", "k3d-dev-server-0", of("k3d"), state(`"Running": true`), event.Cluster{}},
	} {
		containers := map[string]string{test.container: test.inspected}
		if test.inspected == missingContainer {
			containers = nil
		}
		if got := test.find(docker(t, containers)).Machines(t.Context()); got != test.want {
			t.Errorf("%s: %+v", test.name, got)
		}
	}

	gone := clientOf(t, "unix://"+filepath.Join(t.TempDir(), "docker.sock"))
	if got := minikube(gone).Machines(t.Context()); got.State != "" || !strings.Contains(got.Reason, "Docker") ||
		!strings.Contains(got.Hint, "start Docker") {
		t.Errorf("without Docker: %+v", got)
	}

	named := minikube(docker(t, map[string]string{"minikube": state(`"Running": false`)}))
	named.origin = Origin{}
	if got := named.Machines(t.Context()); got.State != "" || !strings.HasPrefix(got.Reason, "the one of that name") {
		t.Errorf("it only has the same name: %+v", got)
	}

	deleted := minikube(docker(t, nil))
	dir, _ := minikubeHome()
	if err := os.RemoveAll(filepath.Join(dir, "profiles", "minikube")); err != nil {
		t.Fatal(err)
	}
	got := deleted.Machines(t.Context())
	if got.State != event.ClusterDeleted || got.Hint != "minikube start makes a new one" {
		t.Errorf("minikube delete: %+v", got)
	}
	if err := os.RemoveAll(filepath.Join(dir, "profiles")); err != nil {
		t.Fatal(err)
	}
	if got := deleted.Machines(t.Context()); got.State == event.ClusterDeleted {
		t.Errorf("a disk that is not mounted: %+v", got)
	}
}

// TestMachinesAskMinikube: a virtual machine that ssh does not reach.
func TestMachinesAskMinikube(t *testing.T) {
	home(t, map[string]string{"profiles/vm/config.json": vmProfile, "machines/vm/config.json": vmMachine})
	found, err := Find(t.Context(), "vm", "https://192.168.39.7:8443", docker(t, nil), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	says := func(text string) {
		t.Helper()
		program := "#!/bin/sh\n[ \"$*\" = 'status -p vm --output=json' ] && echo '" + text + "'\nexit 7\n"
		if err := os.WriteFile(filepath.Join(bin, "minikube"), []byte(program), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]event.Cluster{
		`{"Name":"vm","Host":"Stopped","Kubelet":"Stopped","APIServer":"Stopped"}`: {State: event.ClusterStopped,
			Reason: "it is stopped: minikube says that its host is stopped", Hint: "minikube start -p vm"},
		`[{"Host":"Running","APIServer":"Paused"}, {"Host":"Running"}]`: {State: event.ClusterPaused,
			Reason: "it is paused: minikube says that its API server is paused", Hint: "minikube unpause -p vm"},
		`{"Host":"Nonexistent"}`: {State: event.ClusterDeleted,
			Reason: "it is deleted: minikube finds no machine of the profile vm", Hint: "minikube start -p vm makes a new one"},
	} {
		says(text)
		if got := found.Machines(t.Context()); got != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
	says("no JSON")
	got := found.Machines(t.Context())
	if got.State != "" || !strings.HasPrefix(got.Reason, "its machine cannot be reached, either: node vm") ||
		got.Hint != "minikube status -p vm; minikube start -p vm" {
		t.Errorf("%+v", got)
	}
}

func TestProcesses(t *testing.T) {
	n := &node{name: "n", shell: "minikube ssh -- sudo"}
	for out, want := range map[string]event.Cluster{
		"process kubelet State: S (sleeping)\npopulated 1\nfrozen 0\nprocess kube-apiserver State: S (sleeping)\n" +
			"populated 1\nfrozen 0\n": {},
		"process kubelet State: S (sleeping)\nfrozen 1\nprocess kube-apiserver State: S (sleeping)\nfrozen 0\n": {},
		"process kube-apiserver State: S (sleeping)\npopulated 1\nfrozen 1\n": {State: event.ClusterPaused,
			Reason: "its API server is paused on node n", Hint: "minikube unpause"},
		"process kube-apiserver State: D (disk sleep)\nFROZEN\n": {State: event.ClusterPaused,
			Reason: "its API server is paused on node n", Hint: "minikube unpause"},
		"process kube-apiserver State: T (stopped)\nfrozen 0\n": {State: event.ClusterPaused,
			Reason: "its API server is paused: the process kube-apiserver is stopped by a signal on node n",
			Hint:   "minikube ssh -- sudo pkill -CONT kube-apiserver"},
		"process kubelet State: S (sleeping)\n": {Reason: "node n runs, its API server does not"},
		"":                                      {Reason: "node n runs, but neither its API server nor its kubelet do"},
	} {
		if got := processes(out, n, "minikube unpause"); got != want {
			t.Errorf("%q: %+v", out, got)
		}
	}
	// Of this machine: whatever it runs, the script itself does not fail.
	if _, err := (localTransport{"here"}).run(t.Context(), nil, "sh", "-c", findProcesses); err != nil &&
		os.Geteuid() == 0 {
		t.Error(err)
	}
}
