package node

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/net/netutil"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// maxConnections limits a server's connections. Docker's containerd store sends all layers of
	// an image in parallel.
	maxConnections = 256
	headerTimeout  = 10 * time.Second
	idleTimeout    = 30 * time.Second
	// stallTimeout is how long one read or write may take. A whole blob takes as long as it needs.
	stallTimeout = 2 * time.Minute
)

// The registry's HTTP side is the part of the OCI distribution specification that Docker,
// containerd, podman and go-containerregistry use. On this machine's loopback, it takes pushes
// with the credentials of this process. On a node's loopback, it serves one image, without
// credentials: the node's runtime has none, and other processes there can reach the port.

// serve serves until stop is called, which closes the listener, too. sent counts the bytes of all
// responses.
func serve(listener net.Listener, sent *atomic.Int64, handler http.Handler) (stop func() error) {
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			handler.ServeHTTP(timedWriter{w, sent}, req)
		}),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // mistakes of clients
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = event.Guard(func() error { return server.Serve(netutil.LimitListener(listener, maxConnections)) })
	}()
	return func() error {
		err := server.Close()
		<-served
		return err
	}
}

// timedWriter gives each write its own deadline, and counts the bytes. (Connections through ssh
// have no deadlines: they end with the pull.)
type timedWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (w timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w timedWriter) extend() {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(stallTimeout))
}

func (w timedWriter) WriteHeader(code int) {
	w.extend()
	w.ResponseWriter.WriteHeader(code)
}

func (w timedWriter) Write(p []byte) (int, error) {
	w.extend()
	n, err := w.ResponseWriter.Write(p)
	w.sent.Add(int64(n))
	return n, err
}

// timedBody gives each read of a request's body its own deadline.
type timedBody struct {
	io.Reader
	control *http.ResponseController
}

func (b timedBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(stallTimeout))
	return b.Reader.Read(p)
}

// refuse responds with an error in the specification's format ("Error Codes").
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
}

// checkOrigin refuses requests from web pages: browsers send Origin with all but simple GETs of a
// page's own server, and after DNS rebinding Host is not this address.
func checkOrigin(address string, next http.Handler) http.Handler {
	_, port, err := net.SplitHostPort(address)
	hosts := []string{address, "localhost:" + port}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err != nil || !slices.Contains(hosts, req.Host) || len(req.Header.Values("Origin")) > 0 {
			w.Header().Set("Connection", "close")
			refuse(w, http.StatusForbidden, "DENIED", "this registry is devloop's own")
			return
		}
		w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
		next.ServeHTTP(w, req)
	})
}

// guard requires the credentials of this process.
func (r *Registry) guard(address string, next http.Handler) http.Handler {
	return checkOrigin(address, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, password, _ := req.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(username+":"+r.password)) != 1 {
			w.Header().Set("Connection", "close")
			w.Header().Set("WWW-Authenticate", `Basic realm="devloop"`)
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "this registry is devloop's own")
			return
		}
		next.ServeHTTP(w, req)
	}))
}

// target is what a request is about.
type target struct {
	kind      string  // "manifests", "blobs" or "blobs/uploads"
	reference string  // a tag, a digest or the ID of an upload
	digest    v1.Hash // the reference, if it is one
}

var requestPath = regexp.MustCompile(`^/v2/` + repository + `/(manifests|blobs|blobs/uploads)/([^/]*)$`)

var validTag = regexp.MustCompile("^" + reference.TagRegexp.String() + "$")

// parse reads the path of a request.
func parse(path string) (t target, ok bool) {
	parts := requestPath.FindStringSubmatch(path)
	if parts == nil {
		return t, false
	}
	t = target{kind: parts[1], reference: parts[2]}
	var notDigest error
	t.digest, notDigest = v1.NewHash(t.reference)
	switch t.kind {
	case "blobs":
		return t, notDigest == nil
	case "manifests":
		return t, notDigest == nil || validTag.MatchString(t.reference)
	}
	return t, true
}

func isRead(req *http.Request) bool {
	return req.Method == http.MethodGet || req.Method == http.MethodHead
}

// isBase recognizes a request that only asks whether this is a registry.
func isBase(req *http.Request) bool {
	return isRead(req) && (req.URL.Path == "/v2/" || req.URL.Path == "/v2")
}

// forPushes is the registry as Docker on this machine sees it.
func (r *Registry) forPushes() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if isBase(req) {
			w.WriteHeader(http.StatusOK)
			return
		}
		t, ok := parse(req.URL.Path)
		switch {
		case !ok:
			refuse(w, http.StatusNotFound, "NAME_INVALID", "there is nothing of that name")
		case t.kind == "blobs/uploads":
			r.uploads.serve(w, req, t)
		case t.kind == "manifests" && req.Method == http.MethodPut:
			r.receiveManifest(w, req, t)
		case !isRead(req):
			refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry does not support that")
		case t.kind == "manifests":
			r.serveManifest(w, req, t)
		default:
			r.serveBlob(w, req, t.digest)
		}
	})
}

func (r *Registry) receiveManifest(w http.ResponseWriter, req *http.Request, t target) {
	body := timedBody{http.MaxBytesReader(w, req.Body, maxManifest), http.NewResponseController(w)}
	raw, err := io.ReadAll(body)
	if err != nil {
		status := http.StatusBadRequest
		if errors.As(err, new(*http.MaxBytesError)) {
			status = http.StatusRequestEntityTooLarge
		}
		refuse(w, status, "MANIFEST_INVALID", err.Error())
		return
	}
	_ = body.control.SetReadDeadline(time.Time{})
	digest, _, err := v1.SHA256(bytes.NewReader(raw))
	tag := t.reference
	if t.digest != (v1.Hash{}) {
		tag = ""
		if err == nil && t.digest != digest {
			err = fmt.Errorf("the manifest is %s, not %s", digest, t.digest)
		}
	}
	if err == nil {
		err = r.put(tag, digest, raw)
	}
	switch {
	case err == nil:
		w.Header().Set("Location", "/v2/"+repository+"/manifests/"+digest.String())
		w.Header().Set("Docker-Content-Digest", digest.String())
		w.WriteHeader(http.StatusCreated)
	case errors.Is(err, errFull):
		refuse(w, http.StatusInsufficientStorage, "TOOMANYREQUESTS", err.Error())
	case errdefs.IsNotFound(err), errors.Is(err, fs.ErrNotExist):
		refuse(w, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", err.Error())
	default:
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
	}
}

// serveManifest serves manifests of complete images only: to the pusher it means that nothing is
// left to push.
func (r *Registry) serveManifest(w http.ResponseWriter, req *http.Request, t target) {
	digest, err := t.digest, error(nil)
	if digest == (v1.Hash{}) {
		digest, err = r.resolve(t.reference)
	}
	var image *storedImage
	if err == nil {
		image, err = r.image(digest)
	}
	if err != nil {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", err.Error())
		return
	}
	writeManifest(w, req, digest, image.manifests[digest])
}

func writeManifest(w http.ResponseWriter, req *http.Request, digest v1.Hash, m manifest) {
	w.Header().Set("Content-Type", string(m.MediaType))
	w.Header().Set("Docker-Content-Digest", digest.String())
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(m.raw))
}

// serveBlob serves a blob, or a range of it. The store verified it when it arrived.
func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, digest v1.Hash) {
	blob, err := os.Open(r.blobFile(digest))
	if err != nil {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "there is no blob "+digest.String())
		return
	}
	defer func() { _ = blob.Close() }() // only read
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest.String())
	http.ServeContent(w, req, "", time.Time{}, blob)
}

// forNode is the registry as a node sees it at address while it pulls an image: the parts of that
// image are readable, and nothing else.
func (r *Registry) forNode(address string, tag name.Tag, image *storedImage) http.Handler {
	return checkOrigin(address, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		t, ok := parse(req.URL.Path)
		if ok && t.kind == "manifests" && t.reference == ownTag(tag) {
			t.digest = image.digest // whatever the tag means by now
		}
		m, isManifest := image.manifests[t.digest]
		switch {
		case !isRead(req):
			refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read only")
		case isBase(req):
			w.WriteHeader(http.StatusOK)
		case ok && t.kind == "manifests" && isManifest:
			writeManifest(w, req, t.digest, m)
		case ok && t.kind == "blobs" && image.blobs[t.digest]:
			r.serveBlob(w, req, t.digest)
		default:
			refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "it does not belong to the image that this node pulls")
		}
	}))
}
