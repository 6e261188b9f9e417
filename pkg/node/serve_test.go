package node

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// pipes is a listener in memory, whose connections keep the time of a test.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// TestServerTimeouts: a client that stalls is cut off, whatever it stalls at, and one that is only
// slow is not.
func TestServerTimeouts(t *testing.T) {
	const blob = 1 << 20
	for says, test := range map[string]struct {
		client func(conn net.Conn) error // ends when the connection does
		after  time.Duration
	}{
		"it says nothing": {func(conn net.Conn) error {
			_, err := io.Copy(io.Discard, conn)
			return err
		}, headerTimeout},
		"it asks for nothing more": {func(conn net.Conn) error {
			_, err := io.WriteString(conn, "GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
			_, readErr := io.Copy(io.Discard, conn)
			return errors.Join(err, readErr)
		}, idleTimeout},
		"it does not read": {func(conn net.Conn) error {
			_, err := io.WriteString(conn, "GET /blob HTTP/1.1\r\nHost: x\r\n\r\n")
			<-time.After(stallTimeout)
			synctest.Wait()
			n, readErr := io.Copy(io.Discard, conn)
			if n > blob/2 {
				return errors.New("it was sent the whole blob")
			}
			return errors.Join(err, readErr)
		}, stallTimeout},
		"it does not go on": {func(conn net.Conn) error {
			_, err := io.WriteString(conn, "PUT /blob HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nsome")
			answer, readErr := http.ReadResponse(bufio.NewReader(conn), nil)
			if readErr == nil {
				readErr = answer.Body.Close()
			}
			return errors.Join(err, readErr)
		}, stallTimeout},
		"it is slow": {func(conn net.Conn) error {
			_, err := io.WriteString(conn, "GET /blob HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if err != nil {
				return err
			}
			buffer, n := make([]byte, 32<<10), 0
			for {
				read, err := io.ReadFull(conn, buffer)
				if n += read; err != nil {
					break
				}
				<-time.After(time.Minute)
			}
			if n < blob {
				return errors.New("it was not sent the whole blob")
			}
			return nil
		}, 32 * time.Minute},
	} {
		t.Run(says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
				s := startServer(listener, new(atomic.Int64), http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.Method == http.MethodPut {
						if _, err := io.ReadAll(timedBody{req.Body, http.NewResponseController(w)}); err != nil {
							w.WriteHeader(http.StatusBadRequest)
						}
						return
					}
					if req.URL.Path == "/small" {
						w.WriteHeader(http.StatusNoContent)
						return
					}
					http.ServeContent(w, req, "", time.Time{}, strings.NewReader(strings.Repeat("x", blob)))
				}))
				start := time.Now()
				conn := listener.dial()
				if err := test.client(conn); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took < test.after || took > test.after+2*time.Second {
					t.Errorf("it took %s, not %s", took, test.after)
				}
				_ = conn.Close()
				if err := s.close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// FuzzParse: any path leads to a tag or a manifest of a repository with a valid name, to a blob by
// its digest, or to nothing.
func FuzzParse(f *testing.F) {
	for _, path := range []string{"/v2/devloop/x/manifests/1", "/v2/devloop/a/../../x/manifests/..",
		"/v2/devloop/x/blobs/sha256:..", "/v2/devloop/x/blobs/uploads/.", "/v2/devloop/blobs/uploads/manifests/1",
		"/v2/devloop/x/blobs/sha256:" + strings.Repeat("0", 64), "/v2/devloop/x@sha256:0/manifests/1"} {
		f.Add(path)
	}
	r := &Registry{dir: "/registry"}
	f.Fuzz(func(t *testing.T, path string) {
		got, ok := parse(path)
		if !ok {
			return
		}
		isDigest := got.digest != v1.Hash{}
		if isDigest && filepath.Dir(r.blobFile(got.digest)) != "/registry/blobs/sha256" {
			t.Errorf("%q is %q", path, r.blobFile(got.digest))
		}
		separator := ":"
		if isDigest {
			separator = "@"
		}
		ref := "localhost/" + got.repository
		switch got.kind {
		case "manifests":
			ref += separator + got.reference
		case "blobs":
			if !isDigest {
				t.Errorf("%q is a blob without a digest", path)
			}
		case "blobs/uploads":
		default:
			t.Errorf("%q is of kind %q", path, got.kind)
		}
		if _, err := reference.Parse(ref); err != nil || !strings.HasPrefix(got.repository, ownRepositories) {
			t.Errorf("%q is %q: %v", path, ref, err)
		}
	})
}
