package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// execTransport runs commands in a node that is a container, by docker exec.
type execTransport struct {
	node   string // name of the container
	docker *client.Client
}

func (t *execTransport) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	created, err := t.docker.ExecCreate(ctx, t.node,
		client.ExecCreateOptions{AttachStdin: stdin != nil, AttachStdout: true, AttachStderr: true, Cmd: args})
	if err != nil {
		return "", t.notStarted(err)
	}
	conn, err := t.docker.ExecAttach(ctx, created.ID, client.ExecAttachOptions{})
	if err != nil {
		return "", event.Transient(fmt.Errorf("node %s: docker exec: %w", t.node, err))
	}
	defer conn.Close()
	// The end of the request ends neither the command nor the connection.
	stop := context.AfterFunc(ctx, conn.Close)
	defer stop()
	fed := make(chan error, 1)
	if stdin == nil {
		fed <- nil
	} else {
		go func() {
			err := event.Guard(func() error {
				_, err := io.Copy(conn.Conn, stdin)
				return err
			})
			fed <- errors.Join(err, conn.CloseWrite())
		}()
	}
	var stdout, stderr bytes.Buffer
	_, err = stdcopy.StdCopy(&stdout, &stderr, conn.Reader)
	conn.Close() // a command that has ended reads no more
	feedErr := <-fed
	if ctx.Err() != nil {
		return "", ended(ctx, t.node, args, "docker stats --no-stream "+t.node)
	}
	var result client.ExecInspectResult
	if err == nil {
		result, err = t.docker.ExecInspect(ctx, created.ID, client.ExecInspectOptions{})
	}
	switch {
	case err != nil:
		return "", event.Transient(failed(t.node, args, &stderr, err))
	case result.ExitCode != 0:
		return stdout.String(), failed(t.node, args, &stderr, fmt.Errorf("exit code %d", result.ExitCode))
	case feedErr != nil:
		return "", event.Transient(failed(t.node, args, &stderr, feedErr))
	}
	return stdout.String(), nil
}

// notStarted is the error of a command that Docker could not start in the container.
func (t *execTransport) notStarted(err error) error {
	failure := fmt.Errorf("node %s: docker exec: %w", t.node, err)
	switch {
	case errdefs.IsConflict(err): // Docker's answer about a container that does not run
		return event.Transient(event.WithHint(failure, "docker start "+t.node))
	case errdefs.IsNotFound(err):
		return event.WithHint(failure, "its container is gone: make the cluster again, "+
			"or choose another one by --kube-context")
	case client.IsErrConnectionFailed(err):
		return event.Transient(event.WithHint(failure, "Docker on this machine does not answer: start it"))
	}
	return event.Transient(failure)
}

// pipe is unsupported, since no such node runs anything to connect to.
func (*execTransport) pipe(context.Context, ...string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

func (*execTransport) listen(context.Context) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}

func (*execTransport) close() error { return nil }
