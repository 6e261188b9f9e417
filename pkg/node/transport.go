// Ways into a node: ssh (ssh.go), a container's exec (container.go), or none at all where this machine is the node.
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
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// transport is how commands get into one node, where they run as root. It is safe for concurrent use.
type transport interface {
	// run executes a command, with stdin unless that is nil, and returns what it printed to standard output. What it printed to standard
	// error is in the error of one that failed.
	run(ctx context.Context, stdin io.Reader, args ...string) (string, error)
	// pipe starts a command and returns its standard input and output as a connection, whose Close ends the command.
	pipe(ctx context.Context, args ...string) (net.Conn, error)
	// listen opens a port on the node's own loopback whose connections arrive here. It is errors.ErrUnsupported where that cannot be.
	listen(ctx context.Context) (net.Listener, error)
	close() error
}

// addressFunc tells the address of something in a node, which a restarted one may change.
type addressFunc func(context.Context) (address string, err error)

// fixedAddress is what does not change.
func fixedAddress(host, port string) addressFunc {
	return func(context.Context) (string, error) { return net.JoinHostPort(host, port), nil }
}

// commandError is a command that failed on a node.
type commandError struct {
	node, command, said string
	err                 error
}

func failed(node string, args []string, stderr *bytes.Buffer, err error) error {
	return &commandError{node: node, command: strings.Join(args, " "), said: strings.TrimSpace(stderr.String()), err: err}
}

func (e *commandError) Error() string {
	said := e.said
	if lines := strings.Split(said, "\n"); len(lines) > 3 {
		said = strings.Join(lines[len(lines)-3:], "\n")
	}
	return fmt.Sprintf("node %s: %s: %v: %s", e.node, e.command, e.err, said)
}

func (e *commandError) Unwrap() error { return e.err }

// ended is the error of a command that was not waited for, since ctx is done.
func ended(ctx context.Context, node string, args []string) error {
	err := context.Cause(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = event.Transient(event.WithHint(fmt.Errorf("node %s: %s: no answer in time", node, strings.Join(args, " ")), "minikube status"))
	}
	return err
}

// pipeConn makes a connection of two streams. It knows no deadlines: who has one closes it.
type pipeConn struct {
	io.Reader
	io.WriteCloser
	end func() error
}

func (c *pipeConn) Close() error                   { return errors.Join(ignoreEOF(c.WriteCloser.Close()), c.end()) }
func (*pipeConn) LocalAddr() net.Addr              { return pipeAddr{} }
func (*pipeConn) RemoteAddr() net.Addr             { return pipeAddr{} }
func (*pipeConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (*pipeConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (*pipeConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// ignoreEOF drops the error of closing what the other side has closed.
func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// localTransport is the way of minikube's driver "none": the node is this machine.
type localTransport struct{ node string }

func (l localTransport) command(ctx context.Context, args []string) *exec.Cmd {
	if os.Geteuid() != 0 {
		args = append([]string{"sudo", "-n"}, args...) // -n: nobody is there to be asked for a password
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // the runtimes' own commands
	cmd.WaitDelay = cleanupTimeout
	return cmd
}

func (l localTransport) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := l.command(ctx, args)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	switch {
	case err == nil:
		return stdout.String(), nil
	case ctx.Err() != nil:
		return "", ended(ctx, l.node, args)
	}
	return stdout.String(), failed(l.node, args, &stderr, err)
}

func (l localTransport) pipe(_ context.Context, args ...string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := l.command(ctx, args) //nolint:contextcheck // as long as the connection
	stdin, inErr := cmd.StdinPipe()
	stdout, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		cancel()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("node %s: %w", l.node, err)
	}
	return &pipeConn{stdout, stdin, func() error {
		cancel()
		_ = cmd.Wait() // it was ended, and says so
		return nil
	}}, nil
}

func (localTransport) listen(ctx context.Context) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
}

func (localTransport) close() error { return nil }
