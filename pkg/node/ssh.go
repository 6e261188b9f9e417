package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/singleflight"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

const (
	dialTimeout = 10 * time.Second
	// keepAlive is how often a connection is probed, and how long the answer may take: after the
	// machine slept, it may be dead without an error.
	keepAlive = 10 * time.Second
	// sessions is how many commands run in parallel: sshd allows ten per connection (MaxSessions).
	sessions = 8
	// sessionWait is how long a session is asked for again that sshd refuses. It refuses one too many,
	// and counts those whose command was given up and has not ended yet.
	sessionWait = 10 * time.Second
	// maxKeyFile limits a file with an ssh key, in bytes.
	maxKeyFile = 64 << 10
)

// sshTransport reaches a node with an sshd by one connection, which is opened when it is first
// needed, and again after it broke.
type sshTransport struct {
	node     string
	locate   addressFunc // its sshd
	user     string
	key      string        // file
	start    string        // the command that starts a stopped node
	free     chan struct{} // a slot for each session
	hostKeys string        // folder of the host keys of nodes

	dials singleflight.Group

	mu         sync.Mutex
	conn       *connection
	cancelDial context.CancelFunc // nil before the first dial
	closed     bool
	watching   sync.WaitGroup
}

// connection is an open connection, until gone is closed.
type connection struct {
	*ssh.Client
	gone chan struct{}
}

// connect returns the open connection, or makes one. Concurrent calls share a dial, which ctx does
// not cancel.
func (s *sshTransport) connect(ctx context.Context) (*connection, error) {
	dialCtx := context.WithoutCancel(ctx)
	dialed := s.dials.DoChan("", func() (conn any, err error) {
		err = event.Guard(func() (err error) {
			conn, err = s.open(dialCtx)
			return err
		})
		return conn, err
	})
	select {
	case result := <-dialed:
		conn, _ := result.Val.(*connection)
		return conn, result.Err
	case <-ctx.Done():
		return nil, ended(ctx, s.node, []string{"ssh"}, s.status())
	}
}

func (s *sshTransport) open(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	closed := fmt.Errorf("node %s: its connection was closed", s.node)
	s.mu.Lock()
	switch {
	case s.closed:
		defer s.mu.Unlock()
		return nil, closed
	case s.conn != nil && !s.conn.isGone():
		defer s.mu.Unlock()
		return s.conn, nil
	}
	s.cancelDial = cancel
	s.mu.Unlock()
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(closed, client.Close())
	}
	conn := &connection{client, make(chan struct{})}
	s.conn = conn
	s.watching.Go(func() {
		defer func() { _ = conn.Close() }()
		_ = event.Guard(func() error {
			conn.watch()
			return nil
		})
	})
	return conn, nil
}

func (s *sshTransport) dial(ctx context.Context) (*ssh.Client, error) {
	pem, err := files.Read(s.key, maxKeyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist): // until minikube makes the node again
		return nil, s.refused(err)
	case err != nil:
		return nil, event.WithHint(fmt.Errorf("node %s: its ssh key: %w", s.node, err),
			"you have to be able to read that file")
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("node %s: its ssh key %s: %w", s.node, s.key, err),
			"put the key there that the node was made with")
	}
	known, err := openHostKeys(s.hostKeys, s.node, s.start, s.key, signer.PublicKey())
	if err != nil {
		return nil, err
	}
	address, err := s.locate(ctx)
	if err != nil {
		return nil, s.refused(err)
	}
	client, err := handshake(ctx, address, &ssh.ClientConfig{
		User:              s.user,
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
		return nil, event.Transient(fmt.Errorf("node %s: ssh: %w", s.node, otherKey))
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout(),
		errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return nil, s.unreachable(address)
	}
	return nil, s.refused(err)
}

func (s *sshTransport) refused(err error) error {
	return event.Transient(event.WithHint(fmt.Errorf("node %s: ssh as %s: %w", s.node, s.user, err), s.look()))
}

// status is the command that tells how the node is.
func (s *sshTransport) status() string { return strings.Replace(s.start, " start", " status", 1) }

// look is the hint about a node that cannot be reached: it may be stopped, or only busy.
func (s *sshTransport) look() string { return s.status() + "; if it is stopped: " + s.start }

// unreachable has the same text for all symptoms, so that an outage is reported once.
func (s *sshTransport) unreachable(address string) error {
	err := fmt.Errorf("node %s cannot be reached by ssh at %s", s.node, address)
	return event.Transient(event.WithHint(err, s.look()))
}

func handshake(ctx context.Context, address string, config *ssh.ClientConfig) (*ssh.Client, error) {
	raw, err := (&net.Dialer{Timeout: dialTimeout / 2}).DialContext(ctx, "tcp", address) // leaves the other half
	if err != nil {
		return nil, err
	}
	// The handshake takes no context: closing the connection ends it.
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

// watch closes the connection if the other side no longer answers. It returns when the connection
// is gone.
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

// errGone is the error of what was under way when the connection broke.
var errGone = errors.New("the connection broke")

// within calls open, which takes no context, and waits until it returns, ctx ends or the connection
// breaks: if that happens just before a request, the library may wait forever. What is opened later
// is closed.
func within[T io.Closer](ctx context.Context, c *connection, open func() (T, error)) (T, error) {
	type result struct {
		opened T
		err    error
	}
	results, left := make(chan result), make(chan struct{})
	defer close(left)
	go func() {
		var r result
		r.err = event.Guard(func() (err error) {
			r.opened, err = open()
			return err
		})
		select {
		case results <- r:
		case <-left:
			if r.err == nil {
				_ = event.Guard(r.opened.Close)
			}
		}
	}()
	var none T
	select {
	case r := <-results:
		return r.opened, r.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	case <-c.gone:
		return none, errGone
	}
}

// session is an ssh session with a running command.
type session struct {
	*ssh.Session
	conn    *connection
	release func() // frees its slot; called once
}

// begin starts a command in a session whose input and output attach has set.
func (s *sshTransport) begin(ctx context.Context, args []string, attach func(*ssh.Session) error) (*session, error) {
	select {
	case s.free <- struct{}{}:
	case <-ctx.Done():
		return nil, ended(ctx, s.node, []string{"wait for an ssh session"}, s.status())
	}
	release := func() { <-s.free }
	conn, err := s.connect(ctx)
	if err != nil {
		release()
		return nil, err
	}
	open := func() (*ssh.Session, error) {
		opened, err := conn.NewSession()
		if err != nil {
			return nil, err
		}
		if err := errors.Join(attach(opened), opened.Start("sudo "+quote(args))); err != nil {
			return nil, errors.Join(err, ignoreEOF(opened.Close()))
		}
		return opened, nil
	}
	started, err := within(ctx, conn, open)
	for asked := time.Now(); tooMany(err) && time.Since(asked) < sessionWait; {
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
		started, err = within(ctx, conn, open)
	}
	if err != nil {
		release()
		err = event.Transient(fmt.Errorf("node %s: ssh session: %w", s.node, err))
		return nil, s.explain(ctx, conn, args, err)
	}
	return &session{started, conn, release}, nil
}

// tooMany tells whether sshd refused a session as it does one beyond MaxSessions.
func tooMany(err error) bool {
	refused := new(ssh.OpenChannelError)
	return errors.As(err, &refused) && refused.Reason == ssh.ConnectionFailed
}

// explain replaces err if it is due to the end of ctx or of the connection.
func (s *sshTransport) explain(ctx context.Context, conn *connection, args []string, err error) error {
	switch {
	case ctx.Err() != nil:
		return ended(ctx, s.node, args, s.status())
	case errors.Is(err, errGone) || conn.isGone():
		return s.unreachable(conn.RemoteAddr().String())
	}
	return err
}

func (s *sshTransport) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	session, err := s.begin(ctx, args, func(opened *ssh.Session) error {
		opened.Stdin, opened.Stdout, opened.Stderr = stdin, &stdout, &stderr
		return nil
	})
	if err != nil {
		return "", err
	}
	result := make(chan error, 1)
	go func() {
		result <- event.Guard(session.Wait)
		session.release() // only now: sshd may still run a command that was given up
	}()
	select {
	case err = <-result:
		_ = session.Close() // it has ended already
	case <-ctx.Done():
		// sshd keeps the session until the command ends, which may ignore the signal. Do not wait.
		_ = session.Signal(ssh.SIGTERM)
		_ = session.Close()
		return "", ended(ctx, s.node, args, s.status())
	}
	if err == nil {
		return stdout.String(), nil
	}
	err = failed(s.node, args, &stderr, err)
	if exit := new(ssh.ExitError); !errors.As(err, &exit) || exit.Signal() != "" { // cut off, or killed
		select { // a broken connection is noticed a moment later
		case <-session.conn.gone:
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		err = s.explain(ctx, session.conn, args, event.Transient(err))
	}
	return stdout.String(), err
}

func (s *sshTransport) pipe(ctx context.Context, args ...string) (net.Conn, error) {
	var stdin io.WriteCloser
	var stdout io.Reader
	session, err := s.begin(ctx, args, func(opened *ssh.Session) error {
		var inErr, outErr error
		stdin, inErr = opened.StdinPipe()
		stdout, outErr = opened.StdoutPipe()
		return errors.Join(inErr, outErr)
	})
	if err != nil {
		return nil, err
	}
	end := sync.OnceValue(func() error {
		defer session.release()
		return ignoreEOF(session.Close())
	})
	return &pipeConn{stdout, stdin, end}, nil
}

// pipeConn is a connection made of two streams. It has no deadlines.
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

func (s *sshTransport) listen(ctx context.Context) (net.Listener, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	listener, err := within(ctx, conn, func() (net.Listener, error) { return conn.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		err = event.Transient(fmt.Errorf("node %s: forward a port over ssh: %w", s.node, err))
		return nil, s.explain(ctx, conn, []string{"listen"}, err)
	}
	return listener, nil
}

func (s *sshTransport) close() error {
	defer s.watching.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.cancelDial != nil {
		s.cancelDial()
	}
	if s.conn == nil || s.conn.isGone() {
		return nil
	}
	return s.conn.Close()
}

// quote makes one shell command of args.
func quote(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
