package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// execTransport runs commands in a container.
type execTransport struct {
	node   string // name of the container
	docker *client.Client
}

func (w *execTransport) attach(ctx context.Context, stdin bool, args []string) (id string, conn client.HijackedResponse, err error) {
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

func (w *execTransport) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
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

func (w *execTransport) pipe(context.Context, ...string) (net.Conn, error) {
	return nil, errors.ErrUnsupported // no node of these clusters has anything to speak to
}

func (*execTransport) listen(context.Context) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}

func (*execTransport) close() error { return nil }
