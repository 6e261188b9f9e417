package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
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

// caller asks a registry as somebody on this machine.
type caller struct {
	address string
	change  func(*http.Request) // nil for none
}

// owner has the credentials.
func owner(t *testing.T, r *Registry) caller {
	t.Helper()
	address, err := r.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return caller{address, func(req *http.Request) { req.SetBasicAuth(username, r.password) }}
}

// ask returns the answer, whose status is 0 if there was none.
func (c caller) ask(t *testing.T, method, path string, body io.Reader) (status int, header http.Header, text []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+c.address+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if c.change != nil {
		c.change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, nil
	}
	defer func() { _ = resp.Body.Close() }()
	text, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, text
}

// begin begins an upload, and returns its place.
func (c caller) begin(t *testing.T) string {
	t.Helper()
	status, header, text := c.ask(t, http.MethodPost, "/v2/devloop/worker/blobs/uploads/", nil)
	if status != http.StatusAccepted {
		t.Fatalf("%d: %s", status, text)
	}
	return header.Get("Location")
}

// upload brings a blob by the steps that Docker takes: POST, PATCH in parts, PUT.
func (c caller) upload(t *testing.T, parts ...string) digest.Digest {
	t.Helper()
	place := c.begin(t)
	for _, part := range parts {
		if status, _, text := c.ask(t, http.MethodPatch, place, strings.NewReader(part)); status != http.StatusAccepted {
			t.Fatalf("%d: %s", status, text)
		}
	}
	digest := digest.FromString(strings.Join(parts, ""))
	if status, _, text := c.ask(t, http.MethodPut, place+"?digest="+digest.String(), nil); status != http.StatusCreated {
		t.Fatalf("%d: %s", status, text)
	}
	return digest
}

// TestNeighbour: whoever is on this machine and has no credentials can neither write nor read.
func TestNeighbour(t *testing.T) {
	dir := t.TempDir()
	r := openRegistry(t, dir)
	image := newImage(t, 1000, 1)
	tag := push(t, r, "team/worker:1", image)
	index, err := os.ReadFile(r.indexFile())
	if err != nil {
		t.Fatal(err)
	}
	before, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	layer := digestOf(t, layersOf(t, image)[0])
	c := owner(t, r)
	manifestPath, blobPath := "/v2/"+repository(tag)+"/manifests/1", "/v2/"+repository(tag)+"/blobs/"+layer.String()
	paths := map[string]string{
		"/v2/": http.MethodGet, manifestPath: http.MethodGet, blobPath: http.MethodGet,
		"/v2/" + repository(tag) + "/blobs/uploads/":  http.MethodPost,
		"/v2/" + repository(tag) + "/blobs/uploads/.": http.MethodPut,
		manifestPath + "2":                            http.MethodPut,
		"/v2/_catalog":                                http.MethodGet,
	}
	for says, test := range map[string]struct {
		change func(*http.Request)
		want   int
	}{
		"nobody":                 {func(*http.Request) {}, http.StatusUnauthorized},
		"a wrong password":       {func(req *http.Request) { req.SetBasicAuth(username, strings.ToLower(r.password)) }, http.StatusUnauthorized},
		"a wrong name":           {func(req *http.Request) { req.SetBasicAuth("root", r.password) }, http.StatusUnauthorized},
		"a page":                 {func(req *http.Request) { c.change(req); req.Header.Set("Origin", "http://"+c.address) }, http.StatusForbidden},
		"a page of no origin":    {func(req *http.Request) { c.change(req); req.Header.Set("Origin", "null") }, http.StatusForbidden},
		"a name that is rebound": {func(req *http.Request) { c.change(req); req.Host = "evil.example:" + strings.Split(c.address, ":")[1] }, http.StatusForbidden},
		"another port":           {func(req *http.Request) { c.change(req); req.Host = "127.0.0.1:1" }, http.StatusForbidden},
	} {
		for path, method := range paths {
			status, header, text := caller{c.address, test.change}.ask(t, method, path, strings.NewReader(string(before)))
			if status != test.want {
				t.Errorf("%s: %s %s: %d, %s", says, method, path, status, text)
			} else if status == http.StatusUnauthorized && !strings.HasPrefix(header.Get("WWW-Authenticate"), "Basic ") {
				t.Errorf("%s: %s %s: no challenge: %v", says, method, path, header)
			}
		}
	}
	if after, err := os.ReadFile(r.indexFile()); err != nil || !bytes.Equal(after, index) {
		t.Errorf("the tags are others: %s (%v)", after, err)
	}
	c.upload(t, "a push still works")
}

// TestPaths: nothing that is asked for becomes a path of another file, also from who has the
// credentials.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	r := openRegistry(t, dir)
	c := owner(t, r)
	c.upload(t, "first")
	manifest := `{"schemaVersion":2,"mediaType":"` + string(types.OCIImageIndex) + `","manifests":[]}`
	for path, method := range map[string]string{
		"/v2/devloop/x/blobs/uploads/.":                          http.MethodPut,
		"/v2/devloop/x/blobs/uploads/..":                         http.MethodPatch,
		"/v2/devloop/x/blobs/uploads/..%2f..%2faddress":          http.MethodPatch,
		"/v2/devloop/x/blobs/uploads/ingest":                     http.MethodDelete,
		"/v2/devloop/x/blobs/sha256:..":                          http.MethodGet,
		"/v2/devloop/x/blobs/sha256:../../address":               http.MethodGet,
		"/v2/devloop/x/blobs/..":                                 http.MethodHead,
		"/v2/devloop/x/blobs/sha512:" + strings.Repeat("0", 128): http.MethodGet,
		"/v2/devloop/x/manifests/..":                             http.MethodPut,
		"/v2/devloop/x/manifests/a%2fb":                          http.MethodPut,
		"/v2/devloop/x/manifests/sha256:..":                      http.MethodPut,
		"/v2/devloop/../x/manifests/1":                           http.MethodPut,
		"/v2/devloop/a/../../x/manifests/1":                      http.MethodPut,
		"/v2/devloop/%2e%2e/x/manifests/1":                       http.MethodPut,
		"/v2/devloop/A/manifests/1":                              http.MethodPut,
		"/v2/other/x/manifests/1":                                http.MethodPut,
		"/v2/manifests/1":                                        http.MethodPut,
		"/v2//manifests/1":                                       http.MethodPut,
		"/v2/devloop/x/tags/list":                                http.MethodGet,
		"/v2/_catalog":                                           http.MethodGet,
		"/":                                                      http.MethodGet,
	} {
		if status, _, text := c.ask(t, method, path, strings.NewReader(manifest)); status < 400 || status == http.StatusInternalServerError {
			t.Errorf("%s %s: %d, %s", method, path, status, text)
		}
	}
	for _, method := range []string{http.MethodDelete, http.MethodPost, "TRACE"} {
		if status, _, _ := c.ask(t, method, "/v2/devloop/x/manifests/1", nil); status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, status)
		}
	}
	c.upload(t, "second")
	if tags := savedTags(t, dir); len(tags) != 0 {
		t.Error(tags)
	}
	if n := blobs(t, dir); n != 2 {
		t.Errorf("%d blobs, not 2", n)
	}
}

// TestManifests: what is no manifest of blobs that are here is not kept.
func TestManifests(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	c := owner(t, r)
	config := c.upload(t, "{}")
	manifest := func(size int, annotation string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":%d},"layers":[],"annotations":{"a":"%s"}}`,
			types.OCIManifestSchema1, types.OCIConfigJSON, config, size, annotation)
	}
	list := func(image digest.Digest) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"%s","size":2}]}`,
			types.OCIImageIndex, types.OCIManifestSchema1, image)
	}
	const path = "/v2/devloop/x/manifests/"
	for says, test := range map[string]struct {
		reference, body string
		want            int
	}{
		"one of 5 MiB":         {"1", manifest(2, strings.Repeat("x", 5<<20)), http.StatusRequestEntityTooLarge},
		"no manifest":          {"1", `{"schemaVersion":2}`, http.StatusBadRequest},
		"no JSON":              {"1", "x", http.StatusBadRequest},
		"of another digest":    {"sha256:" + strings.Repeat("0", 64), manifest(2, ""), http.StatusBadRequest},
		"of a blob not here":   {"1", strings.ReplaceAll(manifest(2, ""), config.String(), digest.FromString("x").String()), http.StatusNotFound},
		"of a wrong size":      {"1", manifest(3, ""), http.StatusNotFound},
		"a list of none here":  {"1", list(digest.FromString("x")), http.StatusNotFound},
		"a list of no images":  {"1", list(config), http.StatusBadRequest},
		"one that can be kept": {"1", manifest(2, ""), http.StatusCreated},
	} {
		if status, _, text := c.ask(t, http.MethodPut, path+test.reference, strings.NewReader(test.body)); status != test.want {
			t.Errorf("%s: %d, not %d: %s", says, status, test.want, text)
		}
	}
	if status, _, _ := c.ask(t, http.MethodHead, "/v2/devloop/x/blobs/"+config.String(), nil); status != http.StatusOK {
		t.Errorf("a blob that is whole: %d, after somebody named a wrong size", status)
	}
	r.mu.Lock()
	for i := range maxTags - len(r.tags) {
		r.tags["devloop/y:"+fmt.Sprint(i)] = v1.Descriptor{}
	}
	r.mu.Unlock()
	if status, _, text := c.ask(t, http.MethodPut, path+"2", strings.NewReader(manifest(2, ""))); status != http.StatusInsufficientStorage {
		t.Errorf("one too many: %d, %s", status, text)
	}
	if status, _, text := c.ask(t, http.MethodPut, path+"1", strings.NewReader(manifest(2, "again"))); status != http.StatusCreated {
		t.Errorf("one that takes another's place: %d, %s", status, text)
	}
}

// TestRanges asks for parts of a blob, as containerd and Docker do when a pull broke off.
func TestRanges(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	c := owner(t, r)
	whole := strings.Repeat("0123456789", 100)
	digest := c.upload(t, whole)
	for _, test := range []struct {
		ask, want string
		code      int
	}{{"", whole, http.StatusOK}, {"bytes=100-", whole[100:], http.StatusPartialContent}, {"bytes=0-9", whole[:10], http.StatusPartialContent}} {
		part := caller{c.address, func(req *http.Request) {
			c.change(req)
			if test.ask != "" {
				req.Header.Set("Range", test.ask)
			}
		}}
		status, header, text := part.ask(t, http.MethodGet, "/v2/devloop/any/blobs/"+digest.String(), nil)
		if status != test.code || string(text) != test.want || header.Get("Docker-Content-Digest") != digest.String() {
			t.Errorf("range %q: %d, %d bytes, %v", test.ask, status, len(text), header)
		}
	}
	if status, header, _ := c.ask(t, http.MethodHead, "/v2/devloop/any/blobs/"+digest.String(), nil); status != http.StatusOK || header.Get("Content-Length") != "1000" {
		t.Errorf("HEAD: %d, %v", status, header)
	}
	if status, _, _ := c.ask(t, http.MethodGet, "/v2/devloop/any/blobs/sha256:"+strings.Repeat("0", 64), nil); status != http.StatusNotFound {
		t.Errorf("a blob that is not there: %d", status)
	}
}

// TestForNode: a node reads the image that it is to pull, as it was when the pull began, and
// nothing else.
func TestForNode(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	image := newImage(t, 1000, 2)
	secret := newImage(t, 1000, 1)
	tag, other := newTag(t, "worker:1"), push(t, r, "secret:1", secret)
	id, err := r.receive(t.Context(), built{tag: attested(t, image)}, tag)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	var sent atomic.Int64
	server := startServer(listener, &sent, r.forNode(address, tag, id))
	defer func() {
		if err := server.close(); err != nil {
			t.Error(err)
		}
	}()
	push(t, r, "worker:1", secret) // beside the pull

	ref, err := name.NewTag(at(address, tag))
	if err != nil {
		t.Fatal(err)
	}
	found, err := remote.Get(ref)
	if err != nil || found.Digest != id.digest {
		t.Fatalf("%v, not %s (%v)", found, id.digest, err)
	}
	pulled, err := found.Image()
	if err != nil {
		t.Fatal(err)
	}
	layers := layersOf(t, pulled)
	for _, layer := range layers {
		reader, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, reader); err != nil {
			t.Error(err)
		}
		_ = reader.Close()
	}
	if sent.Load() < 2000 {
		t.Errorf("%d bytes were sent", sent.Load())
	}

	secretDigest := digestOf(t, secret)
	secretLayer := digestOf(t, layersOf(t, secret)[0])
	anyone := caller{address: address}
	for path, want := range map[string]int{
		"/v2/": http.StatusOK,
		"/v2/" + repository(tag) + "/manifests/1":                          http.StatusOK,
		"/v2/" + repository(tag) + "/manifests/2":                          http.StatusNotFound,
		"/v2/" + repository(tag) + "/manifests/" + secretDigest.String():   http.StatusNotFound,
		"/v2/" + repository(other) + "/manifests/1":                        http.StatusNotFound,
		"/v2/" + repository(other) + "/manifests/" + secretDigest.String(): http.StatusNotFound,
		"/v2/" + repository(other) + "/blobs/" + secretLayer.String():      http.StatusNotFound,
		"/v2/" + repository(tag) + "/blobs/" + secretLayer.String():        http.StatusNotFound,
		"/v2/" + repository(tag) + "/blobs/uploads/":                       http.StatusNotFound,
		"/v2/_catalog": http.StatusNotFound,
	} {
		if status, _, _ := anyone.ask(t, http.MethodGet, path, nil); status != want {
			t.Errorf("%s: %d, not %d", path, status, want)
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		c := caller{address, func(req *http.Request) { req.SetBasicAuth(username, r.password) }}
		if status, _, _ := c.ask(t, method, "/v2/"+repository(tag)+"/manifests/1", strings.NewReader("{}")); status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, status)
		}
	}
	rebound := caller{address, func(req *http.Request) { req.Host = "evil.example" }}
	if status, _, _ := rebound.ask(t, http.MethodGet, "/v2/", nil); status != http.StatusForbidden {
		t.Errorf("another host: %d", status)
	}
}
