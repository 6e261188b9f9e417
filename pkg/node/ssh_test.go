package node

import (
	"context"
	"crypto/ed25519"
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
)

// sshServer is a node's sshd: it runs what it is told to, without sudo.
type sshServer struct {
	address     string
	key         string       // file of the one that may log in
	connections atomic.Int32 // accepted so far
	deaf        atomic.Bool  // it answers no request for a session
}

func newSSHServer(t *testing.T) *sshServer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	s := &sshServer{key: filepath.Join(t.TempDir(), "id")}
	if err := os.WriteFile(s.key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(allowed.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil //nolint:nilnil // no permission but the default ones
	}}
	config.AddHostKey(host)
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
	for channel := range channels {
		if s.deaf.Load() {
			continue
		}
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
				running.Go(func() { execute(session, line) })
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

func (s *sshServer) way() *sshWay {
	host, port, _ := net.SplitHostPort(s.address) // a listener's own address is well-formed
	return &sshWay{node: "n", user: "docker", key: s.key, locate: fixed(host, port), free: make(chan struct{}, sessions)}
}

// TestSSHCancel: commands whose context ends at any moment, even before they start, neither hang nor take the connection from the others.
func TestSSHCancel(t *testing.T) {
	server := newSSHServer(t)
	way := server.way()
	defer func() {
		if err := way.close(); err != nil {
			t.Error(err)
		}
	}()
	long, err := way.pipe(t.Context(), "cat")
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
			go func() { _, err := way.run(ctx, nil, "true"); ran <- err }()
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
		t.Errorf("a command that was there all the while: %v", err)
	}
	if err := long.Close(); err != nil {
		t.Error(err)
	}
	if n := server.connections.Load(); n != 1 {
		t.Errorf("%d connections were made", n)
	}
}

// TestSSHDeaf: a node that does not answer is waited for as long as the context lasts.
func TestSSHDeaf(t *testing.T) {
	server := newSSHServer(t)
	way := server.way()
	if out, err := way.run(t.Context(), nil, "echo", "it's here"); err != nil || out != "it's here\n" {
		t.Fatalf("%q, %v", out, err)
	}
	server.deaf.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := way.run(ctx, nil, "true"); err == nil || !strings.Contains(err.Error(), "node n: true: no answer in time") {
		t.Errorf("a command: %v", err)
	}
	if _, err := way.pipe(ctx, "cat"); err == nil || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("a pipe: %v", err)
	}
	if err := way.close(); err != nil {
		t.Error(err)
	}
}
