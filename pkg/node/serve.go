package node

// The registry's HTTP side, of the OCI distribution specification what Docker, containerd, podman
// and go-containerregistry use. On this machine's loopback it takes pushes, from who has this
// process's credentials. On a node's loopback it gives one image away, to whoever asks: the node's
// runtime has no credentials, and others on the node can reach the port, too.

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
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/net/netutil"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// maxConnections is how many a server has at once. Docker's containerd store sends all layers
	// of an image side by side.
	maxConnections = 256
	headerTimeout  = 10 * time.Second
	idleTimeout    = 30 * time.Second
	// stallTimeout is how long the other side may take to read or write some bytes. How long a
	// whole blob takes is up to its size.
	stallTimeout = 2 * time.Minute
)

// server is an http.Server that has been started.
type server struct {
	*http.Server
	served chan struct{}
}

// startServer serves until close, which closes the listener, too.
func startServer(listener net.Listener, handler http.Handler) *server {
	s := &server{served: make(chan struct{}), Server: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			handler.ServeHTTP(timedWriter{w}, req)
		}),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // what others do wrong is not the user's concern
	}}
	go func() {
		defer close(s.served)
		_ = event.Guard(func() error { // ends with close
			return s.Serve(netutil.LimitListener(listener, maxConnections))
		})
	}()
	return s
}

func (s *server) close() error {
	err := s.Close()
	<-s.served
	return err
}

// timedWriter gives each write its own deadline. (A connection through ssh knows none: it lasts no
// longer than the pull.)
type timedWriter struct{ http.ResponseWriter }

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
	return w.ResponseWriter.Write(p)
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

// refuse answers with an error as the specification has it ("Error Codes").
func refuse(w http.ResponseWriter, status int, code, message string) {
	text, err := json.Marshal(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
	if err != nil { // of strings
		text = nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // the other side may be gone
}

// checkOrigin refuses what comes from a web page: a page sends Origin with whatever is not a
// plain GET of its own, and a name that was made to point here is not the address.
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

// guard lets in only who has the credentials.
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
	kind       string // what is between slashes in the path: "manifests", "blobs" or "blobs/uploads"
	repository string
	reference  string // a tag or digest, a digest, or an upload's ID
}

// parse reads a path: "/v2/<repository>/<kind>/<reference>".
func parse(path string) (t target, ok bool) {
	path, ok = strings.CutPrefix(path, "/v2/")
	if !ok {
		return t, false
	}
	if repository, found := strings.CutSuffix(strings.TrimSuffix(path, "/"), "/blobs/uploads"); found {
		return target{"blobs/uploads", repository, ""}, manifestKey{repository, "any"}.check() == nil
	}
	for _, kind := range []string{"blobs/uploads", "blobs", "manifests"} {
		at := strings.LastIndex(path, "/"+kind+"/")
		if at < 0 {
			continue
		}
		t = target{kind, path[:at], path[at+len(kind)+2:]}
		key := manifestKey{t.repository, t.reference}
		if kind == "blobs/uploads" { // an ID is only looked up
			key.reference = "any"
		}
		if kind == "blobs" {
			if _, err := v1.NewHash(t.reference); err != nil { // it has no tag
				return t, false
			}
		}
		return t, key.check() == nil
	}
	return t, false
}

func isRead(req *http.Request) bool {
	return req.Method == http.MethodGet || req.Method == http.MethodHead
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
			r.receiveManifest(w, req, manifestKey{t.repository, t.reference})
		case !isRead(req):
			refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this cannot be done here")
		case t.kind == "manifests":
			r.serveManifest(w, req, manifestKey{t.repository, t.reference})
		default:
			r.serveBlob(w, req, t.reference)
		}
	})
}

// isBase tells a request that only asks whether a registry is here.
func isBase(req *http.Request) bool {
	return isRead(req) && (req.URL.Path == "/v2/" || req.URL.Path == "/v2")
}

func (r *Registry) receiveManifest(w http.ResponseWriter, req *http.Request, key manifestKey) {
	body := timedBody{http.MaxBytesReader(w, req.Body, maxManifest), http.NewResponseController(w)}
	content, err := io.ReadAll(body)
	if err != nil {
		status := http.StatusBadRequest
		if errors.As(err, new(*http.MaxBytesError)) {
			status = http.StatusRequestEntityTooLarge
		}
		refuse(w, status, "MANIFEST_INVALID", err.Error())
		return
	}
	_ = body.control.SetReadDeadline(time.Time{})
	digest, err := r.put(key, content)
	switch {
	case err == nil:
		w.Header().Set("Location", "/v2/"+key.repository+"/manifests/"+digest.String())
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

// serveManifest serves one of an image that is whole: who pushes takes it for a sign that nothing
// is left to be done.
func (r *Registry) serveManifest(w http.ResponseWriter, req *http.Request, key manifestKey) {
	content, found, err := r.find(key)
	if err == nil {
		err = r.whole(key.repository, content)
	}
	if err != nil {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", err.Error())
		return
	}
	writeManifest(w, req, found.digest, content)
}

func writeManifest(w http.ResponseWriter, req *http.Request, digest v1.Hash, content []byte) {
	w.Header().Set("Content-Type", string(typeOf(content)))
	w.Header().Set("Docker-Content-Digest", digest.String())
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(content))
}

// serveBlob serves a blob. It was verified when it came, and all that are here are whole.
func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, digest string) {
	hash, err := v1.NewHash(digest)
	if err != nil { // parse let it pass
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", err.Error())
		return
	}
	reader, err := r.openBlob(hash)
	serveReader(w, req, digest, reader, err)
}

// serveReader answers with what a blob's reader has, whole or in parts, and closes it.
func serveReader(w http.ResponseWriter, req *http.Request, hash string, reader content.ReaderAt, err error) {
	if err != nil {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "there is no blob "+hash)
		return
	}
	defer func() { _ = reader.Close() }() // only read
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", hash)
	http.ServeContent(w, req, "", time.Time{}, io.NewSectionReader(reader, 0, reader.Size()))
}

// forNode is the registry as one node sees it at address while it pulls an image: what belongs to
// the image can be read, and nothing else. sent counts the bytes of blobs and manifests.
func (r *Registry) forNode(address string, tag name.Tag, id identity, sent *atomic.Int64) (http.Handler, error) {
	key := manifestKey{inside(tag), id[0]}
	image, err := r.reach(key)
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	return checkOrigin(address, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !isRead(req) {
			refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read only")
			return
		}
		if isBase(req) {
			w.WriteHeader(http.StatusOK)
			return
		}
		w = countedWriter{w, sent}
		t, ok := parse(req.URL.Path)
		if ok && t.repository == key.repository && t.kind != "blobs/uploads" {
			if t.kind == "manifests" && t.reference == tag.TagStr() {
				t.reference = key.reference // whatever has its name by now
			}
			hash, err := v1.NewHash(t.reference)
			size, isBlob := image.blobs[hash]
			switch {
			case err != nil:
			case t.kind == "manifests" && image.manifests[hash] != nil:
				writeManifest(w, req, hash, image.manifests[hash])
				return
			case t.kind == "blobs" && isBlob:
				reader, err := r.blob(hash, size)
				serveReader(w, req, t.reference, reader, err)
				return
			}
		}
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "it does not belong to the image that this node pulls")
	})), nil
}

// countedWriter counts the bytes of answers.
type countedWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (w countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w countedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.sent.Add(int64(n))
	return n, err
}
