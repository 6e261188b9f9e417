package node

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/devloop/devloop/pkg/event"
)

// sshServer is a node's sshd. It runs commands without sudo.
type sshServer struct {
	address     string
	host        ssh.PublicKey // the one that the library prefers
	otherHost   ssh.PublicKey
	key         string       // file of the key that may log in
	known       string       // folder of known host keys
	connections atomic.Int32 // accepted so far
	hangs       atomic.Bool  // it does not answer requests for a session
	maxSessions atomic.Int32 // 0: no limit. A session counts until its command has ended.
}

func newSSHServer(t *testing.T) *sshServer {
	t.Helper()
	key := filepath.Join(t.TempDir(), "id")
	newKey(t, key)
	return newSSHServerFor(t, key, t.TempDir())
}

// newKey writes a key of a client.
func newKey(t *testing.T, file string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newSSHServerFor returns an sshd with its own host keys. The key that the file has at the time may
// log in.
func newSSHServerFor(t *testing.T, key, known string) *sshServer {
	t.Helper()
	s := &sshServer{key: key, known: known}
	check := func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		content, err := os.ReadFile(s.key)
		if err != nil {
			return nil, err
		}
		allowed, err := ssh.ParsePrivateKey(content)
		if err != nil {
			return nil, err
		}
		if string(key.Marshal()) != string(allowed.PublicKey().Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil //nolint:nilnil // the default permissions
	}
	config := &ssh.ServerConfig{PublicKeyCallback: check}
	_, edPrivate, edErr := ed25519.GenerateKey(nil)
	ecPrivate, ecErr := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err := errors.Join(edErr, ecErr); err != nil {
		t.Fatal(err)
	}
	for _, private := range []crypto.Signer{edPrivate, ecPrivate} { // like a real sshd
		host, err := ssh.NewSignerFromSigner(private)
		if err != nil {
			t.Fatal(err)
		}
		config.AddHostKey(host)
		s.host, s.otherHost = host.PublicKey(), s.host
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.serve(raw, config) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait() // the client has closed its connection
	})
	return s
}

func (s *sshServer) serve(raw net.Conn, config *ssh.ServerConfig) {
	defer func() { _ = raw.Close() }()
	conn, channels, requests, err := ssh.NewServerConn(raw, config)
	if err != nil {
		return // a client that gave up
	}
	s.connections.Add(1)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { ssh.DiscardRequests(requests) })
	var sessions atomic.Int32
	for channel := range channels {
		if s.hangs.Load() {
			continue
		}
		if limit := s.maxSessions.Load(); limit > 0 && sessions.Load() >= limit {
			_ = channel.Reject(ssh.ConnectionFailed, "open failed") // as OpenSSH does
			continue
		}
		sessions.Add(1)
		running.Go(func() {
			session, asked, err := channel.Accept()
			if err != nil {
				return
			}
			for request := range asked {
				if request.Type != "exec" {
					continue
				}
				_ = request.Reply(true, nil)
				line := strings.TrimPrefix(string(request.Payload[4:]), "sudo ")
				running.Go(func() {
					defer sessions.Add(-1)
					execute(session, line)
				})
			}
		})
	}
	_ = conn.Close()
}

func execute(session ssh.Channel, line string) {
	command := exec.Command("sh", "-c", line)
	command.Stdin, command.Stdout, command.Stderr = session, session, session.Stderr()
	status := byte(0)
	if command.Run() != nil {
		status = 1
	}
	_, _ = session.SendRequest("exit-status", false, []byte{0, 0, 0, status})
	_ = session.Close()
}

func (s *sshServer) transport() *sshTransport {
	host, port, _ := net.SplitHostPort(s.address) // a listener's address is valid
	return &sshTransport{node: "n", user: "docker", key: s.key, locate: fixedAddress(host, port),
		free: make(chan struct{}, sessions), start: "minikube start", hostKeys: s.known}
}

// TestSSHTooManySessions: sshd counts commands that were given up until they end. What is asked of
// the node meanwhile waits.
func TestSSHTooManySessions(t *testing.T) {
	server := newSSHServer(t)
	server.maxSessions.Store(10) // OpenSSH's default
	transport := server.transport()
	defer func() {
		if err := transport.close(); err != nil {
			t.Error(err)
		}
	}()
	end := filepath.Join(t.TempDir(), "end")
	for range 10 {
		given, err := transport.pipe(t.Context(), "sh", "-c", "until [ -e "+end+" ]; do sleep 0.02; done")
		if err != nil {
			t.Fatal(err)
		}
		if err := given.Close(); err != nil {
			t.Fatal(err)
		}
	}
	refused := make(chan error, 1)
	go func() {
		_, err := transport.run(t.Context(), nil, "true")
		refused <- err
	}()
	select {
	case err := <-refused:
		t.Fatalf("before any has ended: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-refused; err != nil {
		t.Error(err)
	}
}

// TestSSHCancel: cancelling a command at any moment, even before it starts, neither hangs nor
// closes the connection that others use.
func TestSSHCancel(t *testing.T) {
	server := newSSHServer(t)
	transport := server.transport()
	defer func() {
		if err := transport.close(); err != nil {
			t.Error(err)
		}
	}()
	long, err := transport.pipe(t.Context(), "cat")
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	enough := errors.New("enough")
	for range 300 {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Duration(random.Int64N(int64(3*time.Millisecond))), func() { cancel(enough) })
		for range 2 { // the second one's context has ended, mostly
			ran := make(chan error, 1)
			go func() { _, err := transport.run(ctx, nil, "true"); ran <- err }()
			select {
			case err := <-ran:
				if err != nil && !errors.Is(err, enough) {
					t.Fatal(err)
				}
			case <-time.After(time.Minute):
				t.Fatal("it hangs")
			}
		}
		cancel(nil)
	}
	if _, err := io.WriteString(long, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(long, make([]byte, 1)); err != nil {
		t.Errorf("a command that was not cancelled: %v", err)
	}
	if err := long.Close(); err != nil {
		t.Error(err)
	}
	if n := server.connections.Load(); n != 1 {
		t.Errorf("%d connections were made", n)
	}
}

// TestSSHHangs: the end of the context ends the wait for a node that does not answer.
func TestSSHHangs(t *testing.T) {
	server := newSSHServer(t)
	transport := server.transport()
	if out, err := transport.run(t.Context(), nil, "echo", "it's here"); err != nil || out != "it's here\n" {
		t.Fatalf("%q, %v", out, err)
	}
	server.hangs.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := transport.run(ctx, nil, "true")
	if err == nil || !strings.Contains(err.Error(), "node n: true: no answer in time") {
		t.Errorf("a command: %v", err)
	}
	_, err = transport.pipe(ctx, "cat")
	if err == nil || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("a pipe: %v", err)
	}
	if err := transport.close(); err != nil {
		t.Error(err)
	}
}

// TestHostKey: another host key than before is accepted only if minikube started the machine, or
// created it anew, in between.
func TestHostKey(t *testing.T) {
	machine := t.TempDir()
	key, config := filepath.Join(machine, "id_rsa"), filepath.Join(machine, "config.json")
	known := filepath.Join(t.TempDir(), "state", "hostkeys")
	node, other := newSSHServerFor(t, key, known), newSSHServerFor(t, key, known)
	newKey(t, key)
	started := time.Now()
	start := func() {
		t.Helper()
		started = started.Add(time.Minute)
		err := os.WriteFile(config, []byte("{}"), 0o600)
		if err := errors.Join(err, os.Chtimes(config, started, started)); err != nil {
			t.Fatal(err)
		}
	}
	start()
	login := func(server *sshServer) error {
		t.Helper()
		transport := server.transport()
		_, err := transport.run(t.Context(), nil, "true")
		if closing := transport.close(); closing != nil {
			t.Error(closing)
		}
		return err
	}
	accepted := func(what string, server *sshServer) {
		t.Helper()
		if err := login(server); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused := func(what string, server, before *sshServer) {
		t.Helper()
		connections := server.connections.Load()
		err := login(server)
		hint := event.Hint(err)
		if !event.IsTransient(err) || !strings.Contains(hint, "minikube start") || !strings.Contains(hint, known) {
			t.Fatalf("%s: %v (%s)", what, err, hint)
		}
		keys := []string{ssh.FingerprintSHA256(server.host), ssh.FingerprintSHA256(before.host)}
		for _, part := range append(keys, "node n") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not name %s", what, err, part)
			}
		}
		if server.connections.Load() != connections {
			t.Errorf("%s: the login succeeded", what)
		}
	}
	accepted("the first key", node)
	accepted("the same key", node)
	refused("another key", other, node)
	accepted("the same key again", node)

	start()
	accepted("the same key after a start", node)
	refused("another key, with a start before the last login", other, node)

	start()
	accepted("another key after a start", other)
	refused("the previous key", node, other)

	newKey(t, key)
	accepted("the key of a new machine", node)
	refused("another key than the new machine's", other, node)

	files, err := filepath.Glob(filepath.Join(known, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	for file, want := range map[string]os.FileMode{files[0]: 0o600, known: 0o700 | os.ModeDir} {
		if info, err := os.Stat(file); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, not %v (%v)", file, info.Mode(), want, err)
		}
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := login(node); err == nil || event.Hint(err) != "remove "+files[0] {
		t.Errorf("a truncated file: %v", err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	accepted("a key that the user allows", other)
}

// TestHostKeyAlgorithm: of a machine's several host keys, the remembered one is requested,
// whichever the library prefers.
func TestHostKeyAlgorithm(t *testing.T) {
	server := newSSHServer(t)
	content, err := os.ReadFile(server.key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.ParsePrivateKey(content)
	if err != nil {
		t.Fatal(err)
	}
	known, err := openHostKeys(server.known, "n", "", server.key, client.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(known.check("", server.otherHost), known.remember()); err != nil {
		t.Fatal(err)
	}
	transport := server.transport()
	if _, err := transport.run(t.Context(), nil, "true"); err != nil {
		t.Error(err)
	}
	if err := transport.close(); err != nil {
		t.Error(err)
	}
}

// TestSSHDial: concurrent commands share a dial, which the end of one of them does not cancel.
func TestSSHDial(t *testing.T) {
	server := newSSHServer(t)
	transport := server.transport()
	located, address := make(chan struct{}), transport.locate
	asked := make(chan context.Context, 2)
	transport.locate = func(ctx context.Context) (string, error) {
		asked <- ctx
		select {
		case <-located:
			return address(ctx)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	run := func(ctx context.Context) chan error {
		ran := make(chan error, 1)
		go func() { _, err := transport.run(ctx, nil, "true"); ran <- err }()
		return ran
	}
	first := run(ctx)
	dial := <-asked
	second := run(t.Context())
	cancel(enough)
	if err := <-first; !errors.Is(err, enough) {
		t.Errorf("the first command: %v", err)
	}
	if dial.Err() != nil {
		t.Errorf("the dial was cancelled: %v", dial.Err())
	}
	close(located)
	if err := <-second; err != nil {
		t.Errorf("the second command: %v", err)
	}
	if n := server.connections.Load(); n != 1 || len(asked) > 0 {
		t.Errorf("%d connections were made, and %d tried", n, 1+len(asked))
	}
	if err := transport.close(); err != nil {
		t.Error(err)
	}
	if err := <-run(t.Context()); err == nil {
		t.Error("it connected again after close")
	}
}

// TestSSHCloseWhileDialing: close does not wait for a node that does not answer.
func TestSSHCloseWhileDialing(t *testing.T) {
	transport := newSSHServer(t).transport()
	asked := make(chan struct{})
	transport.locate = func(ctx context.Context) (string, error) {
		close(asked)
		<-ctx.Done()
		return "", ctx.Err()
	}
	ran := make(chan error, 1)
	go func() { _, err := transport.run(t.Context(), nil, "true"); ran <- err }()
	<-asked
	start := time.Now()
	if err := transport.close(); err != nil {
		t.Error(err)
	}
	if err := <-ran; err == nil || time.Since(start) > dialTimeout/2 {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}
