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

// pipes is a listener in memory, for tests with a fake clock.
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

// TestServerTimeouts: the server disconnects a client that stalls at any point, but not a slow one.
func TestServerTimeouts(t *testing.T) {
	const blob = 1 << 20
	for name, test := range map[string]struct {
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
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
				handler := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
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
				})
				stop := serve(listener, new(atomic.Int64), handler)
				start := time.Now()
				conn := listener.dial()
				if err := test.client(conn); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took < test.after || took > test.after+2*time.Second {
					t.Errorf("it took %s, not %s", took, test.after)
				}
				_ = conn.Close()
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// FuzzParse: any path leads to a tag or a manifest with a valid name, to a blob by its digest, or
// to nothing.
func FuzzParse(f *testing.F) {
	for _, path := range []string{imagesPath + "manifests/1", "/v2/devloop/a/../../images/manifests/..",
		imagesPath + "blobs/sha256:..", imagesPath + "blobs/uploads/.", "/v2/devloop/blobs/uploads/manifests/1",
		imagesPath + "blobs/sha256:" + strings.Repeat("0", 64), "/v2/devloop/images@sha256:0/manifests/1"} {
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
		ref := "localhost/" + repository
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
		if _, err := reference.Parse(ref); err != nil {
			t.Errorf("%q is %q: %v", path, ref, err)
		}
	})
}

// registryClient sends requests to a registry on this machine.
type registryClient struct {
	address string
	change  func(*http.Request) // nil for none
}

// owner returns a client that has the credentials.
func owner(t *testing.T, r *Registry) registryClient {
	t.Helper()
	address, err := r.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return registryClient{address, func(req *http.Request) { req.SetBasicAuth(username, r.password) }}
}

// also returns a client whose requests are changed further.
func (c registryClient) also(change func(*http.Request)) registryClient {
	return registryClient{c.address, func(req *http.Request) { c.change(req); change(req) }}
}

// do returns the response, whose status is 0 if there was none.
func (c registryClient) do(t *testing.T, method, path string, body io.Reader) (status int, header http.Header,
	text string) {
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
		return 0, nil, ""
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(raw)
}

// expect sends a request whose response must have a status. It returns the rest of the response.
func (c registryClient) expect(t *testing.T, want int, method, path, body string) (header http.Header, text string) {
	t.Helper()
	status, header, text := c.do(t, method, path, strings.NewReader(body))
	if status != want {
		t.Errorf("%s %s: %d, not %d: %s", method, path, status, want, text)
	}
	return header, text
}

// imagesPath is what the paths of the registry begin with.
const (
	imagesPath  = "/v2/devloop/images/"
	uploadsPath = imagesPath + "blobs/uploads/"
)

// begin begins an upload, and returns its path.
func (c registryClient) begin(t *testing.T) string {
	t.Helper()
	header, _ := c.expect(t, http.StatusAccepted, http.MethodPost, uploadsPath, "")
	return header.Get("Location")
}

// upload uploads a blob in Docker's steps: POST, PATCH for each part, PUT.
func (c registryClient) upload(t *testing.T, parts ...string) digest.Digest {
	t.Helper()
	path := c.begin(t)
	for _, part := range parts {
		c.expect(t, http.StatusAccepted, http.MethodPatch, path, part)
	}
	digest := digest.FromString(strings.Join(parts, ""))
	c.expect(t, http.StatusCreated, http.MethodPut, path+"?digest="+digest.String(), "")
	return digest
}

// TestCredentials: without this process's credentials, another process on this machine can neither
// write nor read; with them, a web page cannot.
func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	r := openRegistry(t, dir)
	image := newImage(t, 1000, 1)
	tag := push(t, r, "team/worker:1", image)
	before, err := os.ReadFile(r.indexFile())
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	c := owner(t, r)
	_, port, _ := strings.Cut(c.address, ":")
	paths := map[string]string{
		"/v2/":                                  http.MethodGet,
		"/v2/_catalog":                          http.MethodGet,
		imagesPath + "manifests/" + ownTag(tag): http.MethodGet,
		imagesPath + "manifests/12":             http.MethodPut,
		uploadsPath:                             http.MethodPost,
		uploadsPath + ".":                       http.MethodPut,
		imagesPath + "blobs/" + digestOf(t, layersOf(t, image)[0]).String(): http.MethodGet,
	}
	for name, test := range map[string]struct {
		client registryClient
		want   int
	}{
		"no credentials": {registryClient{address: c.address}, http.StatusUnauthorized},
		"wrong password": {c.also(func(req *http.Request) { req.SetBasicAuth(username, strings.ToLower(r.password)) }),
			http.StatusUnauthorized},
		"wrong user": {c.also(func(req *http.Request) { req.SetBasicAuth("root", r.password) }),
			http.StatusUnauthorized},
		"web page": {c.also(func(req *http.Request) { req.Header.Set("Origin", "http://"+c.address) }),
			http.StatusForbidden},
		"web page without an origin": {c.also(func(req *http.Request) { req.Header.Set("Origin", "null") }),
			http.StatusForbidden},
		"DNS rebinding": {c.also(func(req *http.Request) { req.Host = "evil.example:" + port }), http.StatusForbidden},
		"another port":  {c.also(func(req *http.Request) { req.Host = "127.0.0.1:1" }), http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			for path, method := range paths {
				header, _ := test.client.expect(t, test.want, method, path, string(manifest))
				challenge := header.Get("WWW-Authenticate")
				if test.want == http.StatusUnauthorized && !strings.HasPrefix(challenge, "Basic ") {
					t.Errorf("%s %s: the challenge is %q", method, path, challenge)
				}
			}
		})
	}
	if after, err := os.ReadFile(r.indexFile()); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the tags have changed: %s (%v)", after, err)
	}
	c.upload(t, "a push still works")
}

// TestPaths: no request leads to another file, not even with the credentials.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	r := openRegistry(t, dir)
	c := owner(t, r)
	c.upload(t, "first")
	manifest := `{"schemaVersion":2,"mediaType":"` + string(types.OCIImageIndex) + `","manifests":[]}`
	for path, method := range map[string]string{
		uploadsPath + ".":                                       http.MethodPut,
		uploadsPath + "..":                                      http.MethodPatch,
		uploadsPath + "..%2f..%2faddress":                       http.MethodPatch,
		uploadsPath + "ingest":                                  http.MethodDelete,
		imagesPath + "blobs/sha256:..":                          http.MethodGet,
		imagesPath + "blobs/sha256:../../address":               http.MethodGet,
		imagesPath + "blobs/..":                                 http.MethodHead,
		imagesPath + "blobs/sha512:" + strings.Repeat("0", 128): http.MethodGet,
		imagesPath + "manifests/..":                             http.MethodPut,
		imagesPath + "manifests/a%2fb":                          http.MethodPut,
		imagesPath + "manifests/sha256:..":                      http.MethodPut,
		"/v2/devloop/../images/manifests/1":                     http.MethodPut,
		"/v2/devloop/a/../images/manifests/1":                   http.MethodPut,
		"/v2/devloop/%2e%2e/images/manifests/1":                 http.MethodPut,
		"/v2/devloop/x/manifests/1":                             http.MethodPut,
		"/v2/other/x/manifests/1":                               http.MethodPut,
		"/v2/manifests/1":                                       http.MethodPut,
		"/v2//manifests/1":                                      http.MethodPut,
		imagesPath + "tags/list":                                http.MethodGet,
		"/v2/_catalog":                                          http.MethodGet,
		"/":                                                     http.MethodGet,
	} {
		status, _, text := c.do(t, method, path, strings.NewReader(manifest))
		if status < 400 || status == http.StatusInternalServerError {
			t.Errorf("%s %s: %d, %s", method, path, status, text)
		}
	}
	for _, method := range []string{http.MethodDelete, http.MethodPost, "TRACE"} {
		c.expect(t, http.StatusMethodNotAllowed, method, imagesPath+"manifests/1", "")
	}
	c.upload(t, "second")
	if tags := savedTags(t, dir); len(tags) != 0 {
		t.Error(tags)
	}
	if n := blobs(t, dir); n != 2 {
		t.Errorf("%d blobs, not 2", n)
	}
}

// TestManifests: only manifests whose parts are here are stored.
func TestManifests(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	c := owner(t, r)
	config := c.upload(t, "{}")
	manifest := func(config digest.Digest, size int, annotation string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":%d},`+
			`"layers":[],"annotations":{"a":"%s"}}`,
			types.OCIManifestSchema1, types.OCIConfigJSON, config, size, annotation)
	}
	list := func(image digest.Digest) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","manifests":`+
			`[{"mediaType":"%s","digest":"%s","size":2}]}`, types.OCIImageIndex, types.OCIManifestSchema1, image)
	}
	missing := digest.FromString("x")
	const path = imagesPath + "manifests/"
	for name, test := range map[string]struct {
		reference, body string
		want            int
	}{
		"5 MiB":            {"1", manifest(config, 2, strings.Repeat("x", 5<<20)), http.StatusRequestEntityTooLarge},
		"no manifest":      {"1", `{"schemaVersion":2}`, http.StatusBadRequest},
		"no JSON":          {"1", "x", http.StatusBadRequest},
		"another digest":   {"sha256:" + strings.Repeat("0", 64), manifest(config, 2, ""), http.StatusBadRequest},
		"missing blob":     {"1", manifest(missing, 2, ""), http.StatusNotFound},
		"wrong size":       {"1", manifest(config, 3, ""), http.StatusNotFound},
		"missing image":    {"1", list(missing), http.StatusNotFound},
		"list of no image": {"1", list(config), http.StatusBadRequest},
		"valid":            {"1", manifest(config, 2, ""), http.StatusCreated},
	} {
		t.Run(name, func(t *testing.T) { c.expect(t, test.want, http.MethodPut, path+test.reference, test.body) })
	}
	// The wrong size did not remove the blob.
	c.expect(t, http.StatusOK, http.MethodHead, imagesPath+"blobs/"+config.String(), "")
	r.mu.Lock()
	for i := range maxTags - len(r.tags) {
		r.tags["y"+fmt.Sprint(i)] = v1.Descriptor{}
	}
	r.mu.Unlock()
	c.expect(t, http.StatusInsufficientStorage, http.MethodPut, path+"2", manifest(config, 2, "one too many"))
	c.expect(t, http.StatusCreated, http.MethodPut, path+"1", manifest(config, 2, "replaces another"))
}

// TestRanges asks for parts of a blob, as containerd and Docker do after an interrupted pull.
func TestRanges(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	c := owner(t, r)
	content := strings.Repeat("0123456789", 100)
	digest := c.upload(t, content)
	path := imagesPath + "blobs/" + digest.String()
	for _, test := range []struct {
		ask, want string
		status    int
	}{
		{"", content, http.StatusOK},
		{"bytes=100-", content[100:], http.StatusPartialContent},
		{"bytes=0-9", content[:10], http.StatusPartialContent},
	} {
		part := c.also(func(req *http.Request) {
			if test.ask != "" {
				req.Header.Set("Range", test.ask)
			}
		})
		header, text := part.expect(t, test.status, http.MethodGet, path, "")
		if text != test.want || header.Get("Docker-Content-Digest") != digest.String() {
			t.Errorf("range %q: %d bytes, %v", test.ask, len(text), header)
		}
	}
	if header, _ := c.expect(t, http.StatusOK, http.MethodHead, path, ""); header.Get("Content-Length") != "1000" {
		t.Errorf("HEAD: %v", header)
	}
	missing := imagesPath + "blobs/sha256:" + strings.Repeat("0", 64)
	c.expect(t, http.StatusNotFound, http.MethodGet, missing, "")
}

// TestForNode: a node can read the image that it pulls, as it was when the pull began, and nothing
// else.
func TestForNode(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	secret := newImage(t, 1000, 1)
	tag, other := newTag(t, "worker:1"), push(t, r, "secret:1", secret)
	stored, err := r.receive(t.Context(), built{tag: attested(t, newImage(t, 1000, 2))}, tag)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	var sent atomic.Int64
	stop := serve(listener, &sent, r.forNode(address, tag, stored))
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	push(t, r, "worker:1", secret) // during the pull

	ref, err := name.NewTag(at(address, tag))
	if err != nil {
		t.Fatal(err)
	}
	found, err := remote.Get(ref)
	if err != nil || found.Digest != stored.digest {
		t.Fatalf("%v, not %s (%v)", found, stored.digest, err)
	}
	pulled, err := found.Image()
	if err != nil {
		t.Fatal(err)
	}
	if err := readLayers(pulled); err != nil || sent.Load() < 2000 {
		t.Errorf("%d bytes were sent (%v)", sent.Load(), err)
	}

	secretDigest, secretLayer := digestOf(t, secret).String(), digestOf(t, layersOf(t, secret)[0]).String()
	c := registryClient{address: address}
	for path, want := range map[string]int{
		"/v2/":                                  http.StatusOK,
		imagesPath + "manifests/" + ownTag(tag): http.StatusOK,
		imagesPath + "manifests/" + ownTag(other): http.StatusNotFound,
		imagesPath + "manifests/" + secretDigest:  http.StatusNotFound,
		imagesPath + "blobs/" + secretLayer:       http.StatusNotFound,
		uploadsPath:                               http.StatusNotFound,
		"/v2/_catalog":                            http.StatusNotFound,
	} {
		c.expect(t, want, http.MethodGet, path, "")
	}
	c.change = func(req *http.Request) { req.SetBasicAuth(username, r.password) }
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		c.expect(t, http.StatusMethodNotAllowed, method, imagesPath+"manifests/"+ownTag(tag), "{}")
	}
	c.change = func(req *http.Request) { req.Host = "evil.example" }
	c.expect(t, http.StatusForbidden, http.MethodGet, "/v2/", "")
}
