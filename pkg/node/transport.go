package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/docker/cli/cli/connhelper/commandconn"

	"github.com/devloop/devloop/pkg/event"
)

// transport runs commands as root on a node. It is safe for concurrent use.
type transport interface {
	// run runs a command, with stdin unless that is nil, and returns its standard output. The
	// error of a failed command has its standard error.
	run(ctx context.Context, stdin io.Reader, args ...string) (string, error)
	// pipe starts a command and returns its standard input and output as a connection, whose Close
	// ends the command.
	pipe(ctx context.Context, args ...string) (net.Conn, error)
	// listen opens a port on the node's loopback whose connections arrive here. It is
	// errors.ErrUnsupported if the transport has no ports.
	listen(ctx context.Context) (net.Listener, error)
	close() error
}

// addressFunc returns the address of a service on a node, which a restart may change.
type addressFunc func(context.Context) (address string, err error)

func fixedAddress(host, port string) addressFunc {
	return func(context.Context) (string, error) { return net.JoinHostPort(host, port), nil }
}

// inOneLine is a command as an error names it, without the text of scripts.
func inOneLine(args []string) string {
	short := slices.Clone(args)
	for i, arg := range short {
		if strings.Contains(arg, "\n") {
			short[i] = "…"
		}
	}
	return strings.Join(short, " ")
}

// failed is the error of a failed command, with the last three lines of standard error.
func failed(node string, args []string, stderr *bytes.Buffer, err error) error {
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	lines = lines[max(len(lines)-3, 0):]
	return fmt.Errorf("node %s: %s: %w: %s", node, inOneLine(args), err, strings.Join(lines, "\n"))
}

// ended is the error of a command whose context has ended. look is where a user can see why there
// was no answer.
func ended(ctx context.Context, node string, args []string, look string) error {
	err := context.Cause(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = event.Transient(event.WithHint(
			fmt.Errorf("node %s: %s: no answer in time", node, inOneLine(args)), "see how it is: "+look))
	}
	return err
}

// localTransport is for minikube's driver "none": the node is this machine.
type localTransport struct{ node string }

// asRoot prepends sudo if it is needed. It never asks for a password.
func asRoot(args []string) []string {
	if os.Geteuid() != 0 {
		args = append([]string{"sudo", "-n"}, args...)
	}
	return args
}

func (t localTransport) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	command := asRoot(args)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // the runtimes' own commands
	cmd.WaitDelay = cleanupTimeout
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	switch {
	case err == nil:
		return stdout.String(), nil
	case ctx.Err() != nil:
		return "", ended(ctx, t.node, args, "uptime")
	}
	return stdout.String(), failed(t.node, args, &stderr, err)
}

func (t localTransport) pipe(ctx context.Context, args ...string) (net.Conn, error) {
	command := asRoot(args)
	conn, err := commandconn.New(ctx, command[0], command[1:]...) // which the end of ctx does not end
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", t.node, err)
	}
	return conn, nil
}

func (localTransport) listen(ctx context.Context) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
}

func (localTransport) close() error { return nil }
