package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// Why a cluster does not answer, as far as what runs its machines tells: minikube's files, Docker,
// the minikube command, and the node itself.

// lookTimeout bounds each of these looks.
const lookTimeout = 3 * time.Second

// Machines looks at the machines that run the cluster. The result has no State where nothing is
// wrong with them, or nothing is known.
func (c *Cluster) Machines(ctx context.Context) event.Cluster {
	if c.look == nil {
		return event.Cluster{}
	}
	seen := c.look(ctx, c.nodes)
	if c.origin == (Origin{}) && seen.State != "" { // it may be another cluster of that name
		seen = event.Cluster{Reason: "the one of that name on this machine: " + seen.Reason, Hint: seen.Hint}
	}
	return seen
}

// machines looks at those of the profile.
func (p profile) machines(home string, docker *client.Client) func(context.Context, []*node) event.Cluster {
	return func(ctx context.Context, nodes []*node) event.Cluster {
		if p.isDeleted(home) {
			return event.Cluster{State: event.ClusterDeleted,
				Reason: fmt.Sprintf("it is deleted: minikube has no profile %s any more", p.Name),
				Hint:   p.command("start") + " makes a new one"}
		}
		if p.Driver == "docker" || p.Driver == "podman" {
			if seen := p.container(ctx, docker); seen != (event.Cluster{}) {
				return seen
			}
		}
		seen, reached := apiServer(ctx, nodes, p.command("unpause"))
		if reached {
			switch {
			case seen == (event.Cluster{}) && p.hasTunnel():
				seen.Reason = "its API server runs; minikube reaches it through an ssh tunnel on this machine"
				seen.Hint = p.command("start") + " makes the tunnel anew"
			case seen.State == "" && seen.Reason != "":
				seen.Hint = fmt.Sprintf("%s; %s starts it again", p.command("logs"), p.command("start"))
			}
			return seen
		}
		if asked := p.askStatus(ctx); asked != (event.Cluster{}) {
			return asked
		}
		seen.Hint = fmt.Sprintf("%s; %s", p.command("status"), p.command("start"))
		return seen
	}
}

// isDeleted reports whether minikube has deleted the profile. If its folder of profiles is missing,
// too, a disk may just not be mounted.
func (p profile) isDeleted(home string) bool {
	_, err := readProfile(home, p.Name)
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err = os.Stat(filepath.Join(home, "profiles"))
	return err == nil
}

// container looks at the container of the first node, which runs the API server.
func (p profile) container(ctx context.Context, docker *client.Client) event.Cluster {
	if len(p.Nodes) == 0 {
		return event.Cluster{}
	}
	engines, closeAll := p.engines(docker)
	defer closeAll()
	missing := event.ClusterStopped // minikube start makes the container again, with the volume that it had
	if p.Driver == "podman" {
		missing = "" // its sockets may not be served
	}
	var seen event.Cluster
	for _, engine := range engines {
		now := containerState(ctx, engine, p.machine(p.Nodes[0].Name), missing)
		if now == (event.Cluster{}) {
			return now
		}
		seen = now
	}
	if seen.State == event.ClusterStopped {
		seen.Hint = p.command("start")
	}
	return seen
}

// containerState says how the container of a machine is, nothing if it runs. missing is the state
// of the cluster without it, "" if that says nothing.
func containerState(ctx context.Context, docker *client.Client, name string, missing event.ClusterState) event.Cluster {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	inspected, err := docker.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	state := inspected.Container.State
	switch {
	case err != nil && missing == "":
		return event.Cluster{}
	case errdefs.IsNotFound(err) && missing == event.ClusterDeleted:
		return event.Cluster{State: missing, Reason: fmt.Sprintf("it is deleted: Docker has no container %s any more", name)}
	case errdefs.IsNotFound(err):
		return event.Cluster{State: missing, Reason: fmt.Sprintf("it is stopped: Docker has no container %s", name)}
	case err != nil:
		return event.Cluster{Reason: fmt.Sprintf("Docker, which runs its machine %s, does not answer", name),
			Hint: "start Docker, then the cluster"}
	case state == nil:
		return event.Cluster{}
	case state.Paused:
		return event.Cluster{State: event.ClusterPaused, Hint: "docker unpause " + name,
			Reason: fmt.Sprintf("it is paused: its container %s is paused", name)}
	case !state.Running:
		return event.Cluster{State: event.ClusterStopped, Hint: "docker start " + name,
			Reason: fmt.Sprintf("it is stopped: its container %s does not run", name)}
	}
	return event.Cluster{}
}

// machines looks at the containers of kind and k3d.
func (t tool) machines(cluster string, docker *client.Client) func(context.Context, []*node) event.Cluster {
	return func(ctx context.Context, nodes []*node) event.Cluster {
		nodes = slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool { return !n.controlPlane })
		for _, n := range nodes {
			seen := containerState(ctx, docker, n.name, event.ClusterDeleted)
			switch {
			case seen.State == event.ClusterDeleted:
				seen.Hint = t.create + cluster + " makes a new one"
			case seen.State == event.ClusterStopped && t.name == "k3d":
				seen.Hint = "k3d cluster start " + cluster
			}
			if seen != (event.Cluster{}) {
				return seen
			}
		}
		if t.name == "k3d" { // its API server is a part of k3s
			return event.Cluster{}
		}
		seen, _ := apiServer(ctx, nodes, "")
		return seen
	}
}

// withoutDocker says that nothing is known of the cluster that a context is named after.
func (t tool) withoutDocker(cluster string) func(context.Context, []*node) event.Cluster {
	return func(context.Context, []*node) event.Cluster {
		return event.Cluster{Reason: fmt.Sprintf("Docker, which would run a %s cluster %s, does not answer, either",
			t.name, cluster), Hint: "start Docker, then the cluster"}
	}
}

// missing says that no container belongs to the cluster that a context is named after.
func (t tool) missing(cluster string) func(context.Context, []*node) event.Cluster {
	return func(context.Context, []*node) event.Cluster {
		return event.Cluster{Reason: fmt.Sprintf("Docker has no container of a %s cluster %s", t.name, cluster),
			Hint: fmt.Sprintf("%s, or see whether the cluster is in another Docker: DOCKER_HOST", t.list)}
	}
}

// findProcesses prints name, state and cgroup events of the API server's processes, and of the
// kubelet that starts it. POSIX only, since some nodes have just busybox.
const findProcesses = `
for p in /proc/[0-9]*; do
	name=
	{ read -r name < $p/comm; } 2> /dev/null
	case $name in kube-apiserver|kubelet) ;; *) continue ;; esac
	echo "process $name" $(grep '^State:' $p/status)
	while IFS=: read -r id controller path; do
		case $id:$controller in
			0:) cat "/sys/fs/cgroup$path/cgroup.events" ;;
			*:freezer) cat "/sys/fs/cgroup/freezer$path/freezer.state" ;;
		esac
	done < $p/cgroup
done 2> /dev/null
true`

// apiServer looks at the API server in the first node that can be reached. Otherwise it is not
// reached, and the reason says why.
func apiServer(ctx context.Context, nodes []*node, unpause string) (seen event.Cluster, reached bool) {
	if len(nodes) == 0 {
		return event.Cluster{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	first := nodes[0]
	out, err := first.run(ctx, "sh", "-c", findProcesses)
	if err != nil {
		return event.Cluster{Reason: "its machine cannot be reached, either: " + err.Error()}, false
	}
	return processes(out, first, unpause), true
}

// processes reads what findProcesses printed.
func processes(out string, n *node, unpause string) event.Cluster {
	there := map[string]bool{}
	name := ""
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 4 && fields[0] == "process": // process NAME State: S (sleeping)
			name = fields[1]
			there[name] = true
			if name == "kube-apiserver" && strings.EqualFold(fields[3], "T") {
				return event.Cluster{State: event.ClusterPaused,
					Reason: fmt.Sprintf("its API server is paused: the process %s is stopped by a signal on node %s", name, n.name),
					Hint:   fmt.Sprintf("%s pkill -CONT %s", n.shell, name)}
			}
		case name == "kube-apiserver" && (strings.TrimSpace(line) == "frozen 1" || strings.TrimSpace(line) == "FROZEN"):
			return event.Cluster{State: event.ClusterPaused, Reason: "its API server is paused on node " + n.name, Hint: unpause}
		}
	}
	switch {
	case there["kube-apiserver"]:
		return event.Cluster{}
	case there["kubelet"]:
		return event.Cluster{Reason: fmt.Sprintf("node %s runs, its API server does not", n.name)}
	}
	return event.Cluster{Reason: fmt.Sprintf("node %s runs, but neither its API server nor its kubelet do", n.name)}
}

// askStatus asks the minikube command, if there is one.
func (p profile) askStatus(ctx context.Context) event.Cluster {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "minikube", "status", "-p", p.Name, "--output=json") //nolint:gosec // its own name
	cmd.WaitDelay = lookTimeout
	out, _ := cmd.Output() // its exit code only says that something is not running
	var status struct{ Host, APIServer string }
	// There is one for each node, if there are several; the first is the control plane.
	text := strings.TrimPrefix(strings.TrimSpace(string(out)), "[")
	if json.NewDecoder(strings.NewReader(text)).Decode(&status) != nil {
		return event.Cluster{}
	}
	says := func(state event.ClusterState, what, hint string) event.Cluster {
		return event.Cluster{State: state, Hint: hint,
			Reason: fmt.Sprintf("it is %s: minikube says that its %s is %s", state, what, strings.ToLower(status.Host))}
	}
	switch {
	case status.Host == "Stopped":
		return says(event.ClusterStopped, "host", p.command("start"))
	case status.Host == "Paused" || status.Host == "Saved":
		return says(event.ClusterPaused, "host", p.command("start"))
	case status.Host == "Nonexistent":
		return event.Cluster{State: event.ClusterDeleted, Hint: p.command("start") + " makes a new one",
			Reason: fmt.Sprintf("it is deleted: minikube finds no machine of the profile %s", p.Name)}
	case status.APIServer == "Paused":
		return event.Cluster{State: event.ClusterPaused, Hint: p.command("unpause"),
			Reason: "it is paused: minikube says that its API server is paused"}
	}
	return event.Cluster{}
}
