// The way into a node that is a container, as those of kind and k3d are: docker exec.
package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// Labels that kind (pkg/cluster/constants) and k3d (pkg/types) give to a node's container: that of its cluster, and that of its role.
var labels = []struct{ tool, cluster, role string }{
	{"kind", "io.x-k8s.kind.cluster", "io.x-k8s.kind.role"},
	{"k3d", "k3d.cluster", "k3d.role"},
}

// containers finds the nodes of a cluster of kind or k3d, whose context is kind-NAME or k3d-NAME unless somebody renamed it: then it is
// known by the port of its API server. It returns nil where there is none, or no Docker to ask.
func containers(ctx context.Context, kubeContext, port string, docker *client.Client) (*Cluster, error) {
	if docker == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	listed, err := docker.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, nil //nolint:nilerr // a cluster on this machine that is not in Docker; who needs Docker will say what is wrong with it
	}
	for _, l := range labels {
		own := slices.DeleteFunc(slices.Clone(listed.Items), func(c container.Summary) bool { return c.Labels[l.cluster] == "" })
		i := slices.IndexFunc(own, func(c container.Summary) bool {
			return kubeContext == l.tool+"-"+c.Labels[l.cluster] || publishes(c, port)
		})
		if i < 0 {
			continue
		}
		name := own[i].Labels[l.cluster]
		found := &Cluster{name: kubeContext}
		for _, c := range own {
			role := c.Labels[l.role]
			if c.Labels[l.cluster] != name || !slices.Contains([]string{"control-plane", "worker", "server", "agent"}, role) {
				continue // a load balancer in front of them, or its registry
			}
			n := &Node{name: strings.TrimPrefix(c.Names[0], "/"), runtime: containerdRuntime{}}
			if c.State != container.StateRunning {
				return nil, event.WithHint(fmt.Errorf("node %s of the %s cluster %s is stopped", n.name, l.tool, name), "docker start "+n.name)
			}
			n.shell = "docker exec " + n.name
			n.way = &execWay{node: n.name, docker: docker}
			found.nodes = append(found.nodes, n)
		}
		slices.SortFunc(found.nodes, func(a, b *Node) int { return cmp.Compare(a.name, b.name) })
		return found, nil
	}
	return nil, nil
}

func publishes(c container.Summary, port string) bool {
	return slices.ContainsFunc(c.Ports, func(p container.PortSummary) bool {
		return p.PublicPort != 0 && strconv.Itoa(int(p.PublicPort)) == port
	})
}

// execWay runs commands in a container.
type execWay struct {
	node   string // name of the container
	docker *client.Client
}

func (w *execWay) attach(ctx context.Context, stdin bool, args []string) (id string, conn client.HijackedResponse, err error) {
	made, err := w.docker.ExecCreate(ctx, w.node, client.ExecCreateOptions{AttachStdin: stdin, AttachStdout: true, AttachStderr: true, Cmd: args})
	if err != nil {
		return "", conn, event.Transient(event.WithHint(fmt.Errorf("node %s: docker exec: %w", w.node, err), "docker start "+w.node))
	}
	attached, err := w.docker.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return "", conn, event.Transient(fmt.Errorf("node %s: docker exec: %w", w.node, err))
	}
	return made.ID, attached.HijackedResponse, nil
}

func (w *execWay) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	id, conn, err := w.attach(ctx, stdin != nil, args)
	if err != nil {
		return "", err
	}
	// Docker ends neither the exec nor the connection with the request.
	stop := context.AfterFunc(ctx, conn.Close)
	defer conn.Close()
	defer stop()
	fed := make(chan error, 1)
	go func() {
		if stdin == nil {
			fed <- nil
			return
		}
		err := event.Guard(func() error {
			_, err := io.Copy(conn.Conn, stdin)
			return err
		})
		fed <- errors.Join(err, conn.CloseWrite())
	}()
	var stdout, stderr bytes.Buffer
	_, err = stdcopy.StdCopy(&stdout, &stderr, conn.Reader)
	conn.Close() // a command that ended early reads no more
	feeding := <-fed
	if ctx.Err() != nil {
		return "", ended(ctx, w.node, args)
	}
	if err != nil {
		return "", event.Transient(failed(w.node, args, &stderr, err))
	}
	result, err := w.docker.ExecInspect(ctx, id, client.ExecInspectOptions{})
	switch {
	case err != nil:
		return "", event.Transient(failed(w.node, args, &stderr, err))
	case result.ExitCode != 0:
		return stdout.String(), failed(w.node, args, &stderr, fmt.Errorf("exit code %d", result.ExitCode))
	case feeding != nil:
		return "", event.Transient(failed(w.node, args, &stderr, feeding))
	}
	return stdout.String(), nil
}

func (w *execWay) pipe(context.Context, ...string) (net.Conn, error) {
	return nil, errors.ErrUnsupported // no node of these clusters has anything to speak to
}

func (*execWay) listen(context.Context) (net.Listener, error) { return nil, errors.ErrUnsupported }

func (*execWay) close() error { return nil }
