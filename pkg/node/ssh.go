// The way into a node: one ssh connection for as long as devloop runs, opened when first needed and opened again when it broke.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// sessions is how many commands run side by side on one connection: sshd allows ten (MaxSessions).
const sessions = 8

// sshWay is the way into a node with an sshd.
type sshWay struct {
	node   string
	locate where // its sshd
	user   string
	key    string // file
	start  string // the command that brings a stopped node back
	free   chan struct{}

	mu       sync.Mutex
	conn     *ssh.Client
	watching sync.WaitGroup
}

// connect returns the open connection or makes one.
func (w *sshWay) connect(ctx context.Context) (*ssh.Client, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		if err := probe(ctx, w.conn); err == nil {
			return w.conn, nil
		}
		_ = w.conn.Close() // broken already
		w.conn = nil
	}
	conn, err := w.dial(ctx)
	if err != nil {
		return nil, event.Transient(event.WithHint(fmt.Errorf("node %s: ssh as %s: %w", w.node, w.user, err), w.start))
	}
	w.conn = conn
	w.watching.Go(func() { watch(conn) }) //nolint:contextcheck // as long as the connection, which outlives ctx
	return conn, nil
}

func (w *sshWay) dial(ctx context.Context) (*ssh.Client, error) {
	pem, err := os.ReadFile(w.key)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	address, err := w.locate(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{Timeout: dialTimeout / 2}).DialContext(ctx, "tcp", address) // the other half is the handshake's
	if err != nil {
		return nil, err
	}
	// The handshake knows no context: closing the connection ends it.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, channels, requests, err := ssh.NewClientConn(raw, address, &ssh.ClientConfig{
		User: w.user,
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

// watch closes a connection whose other side no longer answers, so that what waits for it need not wait for its own deadline.
func watch(conn *ssh.Client) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = conn.Wait() // however it ends
	}()
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return
		case <-ticker.C:
			if probe(context.Background(), conn) != nil {
				_ = conn.Close() // broken already
			}
		}
	}
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

// session starts a command's session. The caller calls done when it is over.
func (w *sshWay) session(ctx context.Context) (session *ssh.Session, done func(), err error) {
	select {
	case w.free <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ended(ctx, w.node, []string{"wait for an ssh session"})
	}
	done = func() { <-w.free }
	conn, err := w.connect(ctx)
	if err == nil {
		if session, err = conn.NewSession(); err != nil {
			err = event.Transient(fmt.Errorf("node %s: ssh session: %w", w.node, err))
		}
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return session, done, nil
}

func (w *sshWay) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	session, done, err := w.session(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	var stdout, stderr bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = stdin, &stdout, &stderr
	result := make(chan error, 1)
	go func() { result <- session.Run("sudo " + quote(args)) }()
	select {
	case err = <-result:
		_ = session.Close() // it has ended already
	case <-ctx.Done():
		// sshd keeps the session open for as long as the command lives, which may not heed the signal: it is not waited for.
		_ = session.Signal(ssh.SIGTERM)
		_ = session.Close()
		return "", ended(ctx, w.node, args)
	}
	if err == nil {
		return stdout.String(), nil
	}
	err = failed(w.node, args, &stderr, err)
	if exit := new(ssh.ExitError); !errors.As(err, &exit) || exit.Signal() != "" { // cut off, or killed
		err = event.Transient(err)
	}
	return stdout.String(), err
}

func (w *sshWay) pipe(ctx context.Context, args ...string) (net.Conn, error) {
	session, done, err := w.session(ctx)
	if err != nil {
		return nil, err
	}
	stdin, inErr := session.StdinPipe()
	stdout, outErr := session.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		done()
		return nil, errors.Join(err, session.Close())
	}
	if err := session.Start("sudo " + quote(args)); err != nil {
		done()
		return nil, event.Transient(errors.Join(fmt.Errorf("node %s: %w", w.node, err), ignoreEOF(session.Close())))
	}
	end := sync.OnceValue(func() error {
		defer done()
		return ignoreEOF(session.Close())
	})
	return &pipeConn{stdout, stdin, end}, nil
}

func (w *sshWay) listen(ctx context.Context) (net.Listener, error) {
	conn, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	listener, err := conn.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, event.Transient(fmt.Errorf("node %s: forward a port over ssh: %w", w.node, err))
	}
	return listener, nil
}

func (w *sshWay) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn == nil {
		return nil
	}
	err := w.conn.Close()
	w.watching.Wait()
	w.conn = nil
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
