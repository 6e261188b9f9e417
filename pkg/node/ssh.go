// The way into a node: one ssh connection for as long as devloop runs, opened when first needed and opened again when it broke.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/devloop/devloop/pkg/event"
)

const (
	dialTimeout = 10 * time.Second
	// keepAlive finds a connection that is dead without saying so, as after the machine slept.
	keepAlive = 15 * time.Second
)

// Node is one node of a cluster. It is safe for concurrent use.
type Node struct {
	name    string
	locate  func(context.Context) (string, error) // the address of its sshd, which a restarted node may change
	daemon  func(context.Context) (string, error) // the same of its Docker daemon, of use where that is its runtime
	user    string
	key     string // file
	runtime runtime

	mu   sync.Mutex
	conn *ssh.Client
}

// connect returns the open connection or makes one.
func (n *Node) connect(ctx context.Context) (*ssh.Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		if err := probe(ctx, n.conn); err == nil {
			return n.conn, nil
		}
		_ = n.conn.Close() // broken already
		n.conn = nil
	}
	conn, err := n.dial(ctx)
	if err != nil {
		return nil, event.Transient(event.WithHint(fmt.Errorf("minikube node %s: ssh as %s: %w", n.name, n.user, err), "minikube status; minikube start"))
	}
	n.conn = conn
	return conn, nil
}

func (n *Node) dial(ctx context.Context) (*ssh.Client, error) {
	pem, err := os.ReadFile(n.key)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	address, err := n.locate(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	// The handshake knows no context: closing the connection ends it.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, channels, requests, err := ssh.NewClientConn(raw, address, &ssh.ClientConfig{
		User: n.user,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		// A node makes its host key when it is created and tells it to nobody; minikube itself does not check it either.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec
	})
	if err != nil {
		stop()
		return nil, errors.Join(err, raw.Close())
	}
	if !stop() {
		_ = conn.Close()
		return nil, ctx.Err()
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// probe asks the other side for a sign of life.
func probe(ctx context.Context, conn *ssh.Client) error {
	ctx, cancel := context.WithTimeout(ctx, keepAlive)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_, _, err := conn.SendRequest("keepalive@openssh.com", true, nil)
	return err
}

// run executes a command on the node and returns what it printed to standard output. A failed command's error holds what
// it printed to standard error.
func (n *Node) run(ctx context.Context, args ...string) (string, error) {
	conn, err := n.connect(ctx)
	if err != nil {
		return "", err
	}
	session, err := conn.NewSession()
	if err != nil {
		return "", event.Transient(fmt.Errorf("minikube node %s: ssh session: %w", n.name, err))
	}
	var stdout, stderr bytes.Buffer
	session.Stdout, session.Stderr = &stdout, &stderr
	ended := make(chan error, 1)
	go func() { ended <- session.Run(quote(args)) }()
	select {
	case err = <-ended:
		_ = session.Close() // it has ended already
	case <-ctx.Done():
		// sshd keeps the session open for as long as the command lives, which may not heed the signal: it is not waited for.
		_ = session.Signal(ssh.SIGTERM)
		_ = session.Close()
		err := context.Cause(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = event.Transient(event.WithHint(fmt.Errorf("minikube node %s: %s: no answer in time", n.name, strings.Join(args, " ")), "minikube status"))
		}
		return "", err
	}
	if err != nil {
		said := strings.TrimSpace(stderr.String())
		err = &commandError{node: n.name, command: strings.Join(args, " "), said: said, err: err}
		if exit := new(ssh.ExitError); !errors.As(err, &exit) || exit.Signal() != "" { // cut off, or killed
			err = event.Transient(err)
		}
		return stdout.String(), err
	}
	return stdout.String(), nil
}

// commandError is a command that failed on a node.
type commandError struct {
	node, command, said string
	err                 error
}

func (e *commandError) Error() string {
	said := e.said
	if lines := strings.Split(said, "\n"); len(lines) > 3 {
		said = strings.Join(lines[len(lines)-3:], "\n")
	}
	return fmt.Sprintf("node %s: %s: %v: %s", e.node, e.command, e.err, said)
}

func (e *commandError) Unwrap() error { return e.err }

// listen opens a port on the node's own loopback whose connections arrive here.
func (n *Node) listen(ctx context.Context) (net.Listener, error) {
	conn, err := n.connect(ctx)
	if err != nil {
		return nil, err
	}
	listener, err := conn.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, event.Transient(fmt.Errorf("minikube node %s: forward a port over ssh: %w", n.name, err))
	}
	return listener, nil
}

func (n *Node) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn == nil {
		return nil
	}
	err := n.conn.Close()
	n.conn = nil
	return err
}

// quote makes one shell command of args.
func quote(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
