// The way into a node: one ssh connection for as long as devloop runs, opened when first needed and opened again when it broke.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

const (
	dialTimeout = 10 * time.Second
	// keepAlive is how often a connection is asked for a sign of life, and how long it has for one: it may be dead without saying so, as after
	// the machine slept.
	keepAlive = 10 * time.Second
)

// maxKeyFile is the size of a file with an ssh key, in bytes; they have a few thousand.
const maxKeyFile = 64 << 10

// sessions is how many commands run side by side on one connection: sshd allows ten (MaxSessions).
const sessions = 8

// sshTransport is the way into a node with an sshd.
type sshTransport struct {
	node     string
	locate   addressFunc // its sshd
	user     string
	key      string // file
	start    string // the command that brings a stopped node back
	free     chan struct{}
	hostKeys string // folder of what is known of nodes

	mu      sync.Mutex
	conn    *connection
	dialing *dialing // nil while nobody needs it
	closed  bool
	running sync.WaitGroup // what dials and watches
}

// connection is one that is open, until gone is closed.
type connection struct {
	*ssh.Client
	gone chan struct{}
}

// dialing is a connection that is being made, for all who wait for it.
type dialing struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when conn and err are set
	conn   *connection
	err    error
}

// connect returns the open connection or makes one. Others may wait for the same one: it is made
// under a context of its own, and ctx is for waiting alone.
func (w *sshTransport) connect(ctx context.Context) (*connection, error) {
	w.mu.Lock()
	if w.conn != nil && !w.conn.isGone() {
		defer w.mu.Unlock()
		return w.conn, nil
	}
	if w.closed {
		defer w.mu.Unlock()
		return nil, fmt.Errorf("node %s: its connection was closed", w.node)
	}
	d := w.dialing
	if d == nil {
		dialCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		d = &dialing{cancel: cancel, done: make(chan struct{})}
		w.dialing = d
		w.running.Go(func() { w.redial(dialCtx, d) })
	}
	w.mu.Unlock()
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, ended(ctx, w.node, []string{"ssh"})
	}
}

func (w *sshTransport) redial(ctx context.Context, d *dialing) {
	defer d.cancel()
	defer close(d.done)
	var client *ssh.Client
	err := event.Guard(func() (err error) {
		client, err = w.dial(ctx)
		return err
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialing, w.conn = nil, nil
	if err == nil && w.closed {
		err = errors.Join(fmt.Errorf("node %s: its connection was closed", w.node), client.Close())
	}
	if err != nil {
		d.err = err
		return
	}
	d.conn = &connection{client, make(chan struct{})}
	w.conn = d.conn
	conn := d.conn
	w.running.Go(func() {
		err := event.Guard(func() error {
			conn.watch()
			return nil
		})
		if err != nil {
			_ = conn.Close() // the next one is dialled anew
		}
	})
}

func (w *sshTransport) dial(ctx context.Context) (*ssh.Client, error) {
	pem, err := files.Read(w.key, maxKeyFile)
	if err != nil {
		return nil, w.refused(err)
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, w.refused(fmt.Errorf("%s: %w", w.key, err))
	}
	known, err := openHostKeys(w.hostKeys, w.node, w.start, w.key, signer.PublicKey())
	if err != nil {
		return nil, err
	}
	address, err := w.locate(ctx)
	if err != nil {
		return nil, w.refused(err)
	}
	client, err := handshake(ctx, address, &ssh.ClientConfig{
		User:              w.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: known.algorithms(),
		HostKeyCallback:   func(_ string, _ net.Addr, key ssh.PublicKey) error { return known.check(address, key) },
	})
	var timeout net.Error
	var otherKey *hostKeyError
	switch {
	case err == nil:
		if err := known.remember(); err != nil {
			return nil, errors.Join(err, client.Close())
		}
		return client, nil
	case errors.As(err, &otherKey):
		return nil, event.Transient(fmt.Errorf("node %s: ssh: %w", w.node, otherKey))
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout(),
		errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return nil, w.unanswered(address)
	}
	return nil, w.refused(err)
}

func (w *sshTransport) refused(err error) error {
	return event.Transient(event.WithHint(fmt.Errorf("node %s: ssh as %s: %w", w.node, w.user, err), w.start))
}

// unanswered is the error of a node that is out of reach, however that is noticed: as it goes on, it is told of once.
func (w *sshTransport) unanswered(address string) error {
	return event.Transient(event.WithHint(fmt.Errorf("node %s cannot be reached by ssh at %s", w.node, address), w.start))
}

func handshake(ctx context.Context, address string, config *ssh.ClientConfig) (*ssh.Client, error) {
	raw, err := (&net.Dialer{Timeout: dialTimeout / 2}).DialContext(ctx, "tcp", address) // the other half is the handshake's
	if err != nil {
		return nil, err
	}
	// The handshake knows no context: closing the connection ends it.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, channels, requests, err := ssh.NewClientConn(raw, address, config)
	if err != nil {
		stop()
		_ = raw.Close() // it may be already
		return nil, err
	}
	if !stop() {
		_ = conn.Close()
		return nil, ctx.Err()
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// watch closes a connection whose other side no longer answers, so that what waits for it need not wait for its own deadline.
func (c *connection) watch() {
	go func() {
		defer close(c.gone)
		_ = event.Guard(c.Wait) // however it ends
	}()
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	for {
		select {
		case <-c.gone:
			return
		case <-ticker.C:
			late := time.AfterFunc(keepAlive, func() { _ = c.Close() })
			_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
			late.Stop()
			if err != nil {
				_ = c.Close() // broken already
			}
		}
	}
}

func (c *connection) isGone() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// errGone is of what was under way when the connection broke.
var errGone = errors.New("the connection broke")

// within does something that waits for the other side and knows no context. It is waited for no longer than ctx or the connection lasts: the
// library may wait for an answer for ever if the connection breaks just before it asks. What comes of it later is undone.
func (c *connection) within(ctx context.Context, do func() error, undo func()) error {
	done, left := make(chan error), make(chan struct{})
	defer close(left)
	go func() {
		err := event.Guard(do)
		select {
		case done <- err:
		case <-left:
			if err == nil {
				_ = event.Guard(func() error { // nobody waits for it
					undo()
					return nil
				})
			}
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.gone:
		return errGone
	}
}

// session is a command's.
type session struct {
	*ssh.Session
	conn *connection
	done func() // lets go of its place; called once
}

// begin starts a command in a session that attach connects to what it reads and writes.
func (w *sshTransport) begin(ctx context.Context, args []string, attach func(*ssh.Session) error) (*session, error) {
	select {
	case w.free <- struct{}{}:
	case <-ctx.Done():
		return nil, ended(ctx, w.node, []string{"wait for an ssh session"})
	}
	s := &session{done: func() { <-w.free }}
	var err error
	if s.conn, err = w.connect(ctx); err != nil {
		s.done()
		return nil, err
	}
	err = s.conn.within(ctx, func() error {
		opened, err := s.conn.NewSession()
		if err != nil {
			return err
		}
		if err := errors.Join(attach(opened), opened.Start("sudo "+quote(args))); err != nil {
			return errors.Join(err, ignoreEOF(opened.Close()))
		}
		s.Session = opened
		return nil
	}, func() { _ = s.Close() })
	if err != nil {
		s.done()
		return nil, w.cut(ctx, s.conn, args, event.Transient(fmt.Errorf("node %s: ssh session: %w", w.node, err)))
	}
	return s, nil
}

// cut returns the error of what failed, unless that is since ctx or the connection ended.
func (w *sshTransport) cut(ctx context.Context, conn *connection, args []string, err error) error {
	switch {
	case ctx.Err() != nil:
		return ended(ctx, w.node, args)
	case errors.Is(err, errGone) || conn.isGone():
		return w.unanswered(conn.RemoteAddr().String())
	}
	return err
}

func (w *sshTransport) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	session, err := w.begin(ctx, args, func(s *ssh.Session) error {
		s.Stdin, s.Stdout, s.Stderr = stdin, &stdout, &stderr
		return nil
	})
	if err != nil {
		return "", err
	}
	result := make(chan error, 1)
	go func() {
		result <- event.Guard(session.Wait)
		session.done() // sshd may go on with a command that is not waited for
	}()
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
		select { // whether the connection broke shows a moment later
		case <-session.conn.gone:
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		err = w.cut(ctx, session.conn, args, event.Transient(err))
	}
	return stdout.String(), err
}

func (w *sshTransport) pipe(ctx context.Context, args ...string) (net.Conn, error) {
	var stdin io.WriteCloser
	var stdout io.Reader
	session, err := w.begin(ctx, args, func(s *ssh.Session) error {
		var inErr, outErr error
		stdin, inErr = s.StdinPipe()
		stdout, outErr = s.StdoutPipe()
		return errors.Join(inErr, outErr)
	})
	if err != nil {
		return nil, err
	}
	end := sync.OnceValue(func() error {
		defer session.done()
		return ignoreEOF(session.Close())
	})
	return &pipeConn{stdout, stdin, end}, nil
}

func (w *sshTransport) listen(ctx context.Context) (net.Listener, error) {
	conn, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	var listener net.Listener
	err = conn.within(ctx, func() (err error) {
		listener, err = conn.Listen("tcp", "127.0.0.1:0")
		return err
	}, func() { _ = listener.Close() })
	if err != nil {
		return nil, w.cut(ctx, conn, []string{"listen"}, event.Transient(fmt.Errorf("node %s: forward a port over ssh: %w", w.node, err)))
	}
	return listener, nil
}

func (w *sshTransport) close() error {
	defer w.running.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.dialing != nil {
		w.dialing.cancel()
	}
	if w.conn == nil || w.conn.isGone() {
		return nil
	}
	return w.conn.Close()
}

// quote makes one shell command of args.
func quote(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
