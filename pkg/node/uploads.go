package node

// How blobs arrive (OCI distribution specification, "Pushing blobs"): streamed into the content
// store, which verifies them, and then shows them at once. (go-containerregistry's own handler
// holds an upload in memory, and for ever when a push is cut off, as a newer save does all the
// time.)

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// maxUploads is how many there are at once: loads images, each of up to 127 layers and a
	// configuration, since Docker's containerd store sends all of them side by side.
	maxUploads = loads * 128
	// maxUploadBytes is what all of them have at once.
	maxUploadBytes = 64 << 30
	// uploadTimeout is how long one may lie idle. Nobody goes on with it after that.
	uploadTimeout = 5 * time.Minute
)

// uploads are blobs on their way into the store.
type uploads struct {
	ctx   context.Context // of the store's work, which no request's end breaks off
	store content.Store

	mu     sync.Mutex
	open   map[string]*upload // by ID
	bytes  int64              // that all of them have
	closed bool
}

// upload is one of them. It exists from the first request for it to the last, or until it lies
// idle.
type upload struct {
	id, repository string
	idle           *time.Timer

	mu     sync.Mutex // held by the one request that is at it
	writer content.Writer
	size   int64 // bytes, written by who holds mu
	gone   bool
}

func newUploads(ctx context.Context, store content.Store) *uploads {
	return &uploads{ctx: ctx, store: store, open: map[string]*upload{}}
}

// close ends them all. Their requests have ended.
func (u *uploads) close() {
	u.mu.Lock()
	u.closed = true
	left := make([]*upload, 0, len(u.open))
	for _, one := range u.open {
		left = append(left, one)
	}
	u.mu.Unlock()
	for _, one := range left {
		one.mu.Lock()
		u.drop(one)
		one.mu.Unlock()
	}
}

// begin makes a new one, which the caller has to itself, nil if there are too many.
func (u *uploads) begin(repository string) *upload {
	one := &upload{id: rand.Text(), repository: repository}
	one.mu.Lock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || len(u.open) >= maxUploads {
		return nil
	}
	u.open[one.id] = one
	one.idle = time.AfterFunc(uploadTimeout, func() {
		_ = event.Guard(func() error { // what it fails to remove, the next opening does
			if one.mu.TryLock() { // else a request is at it
				defer one.mu.Unlock()
				u.drop(one)
			}
			return nil
		})
	})
	return one
}

// resume returns an upload, which the caller has to itself, nil if there is none, or another
// request is at it.
func (u *uploads) resume(id, repository string) *upload {
	u.mu.Lock()
	one := u.open[id]
	u.mu.Unlock()
	if one == nil || one.repository != repository || !one.mu.TryLock() {
		return nil
	}
	if one.gone {
		one.mu.Unlock()
		return nil
	}
	return one
}

// drop forgets an upload, and what of it has not become a blob. The caller holds it.
func (u *uploads) drop(one *upload) {
	if one.gone {
		return
	}
	one.gone = true
	one.idle.Stop()
	u.mu.Lock()
	delete(u.open, one.id)
	u.bytes -= one.size
	u.mu.Unlock()
	if one.writer != nil {
		_ = one.writer.Close()
		_ = u.store.Abort(u.ctx, one.id) // what is left goes with the next OpenRegistry
	}
}

// serve answers a request for an upload, or for a new one.
func (u *uploads) serve(w http.ResponseWriter, req *http.Request, t target) {
	var one *upload
	switch {
	case req.Method == http.MethodPost && t.reference == "":
		if one = u.begin(t.repository); one == nil {
			refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS",
				fmt.Sprintf("there are %d uploads already", maxUploads))
			return
		}
	case req.Method == http.MethodPatch, req.Method == http.MethodPut, req.Method == http.MethodDelete:
		if one = u.resume(t.reference, t.repository); one == nil {
			refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload, or it is being written to")
			return
		}
	default:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this is no way to upload")
		return
	}
	defer one.mu.Unlock()
	one.idle.Stop()
	if req.Method == http.MethodDelete {
		u.drop(one)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	hash := req.URL.Query().Get("digest")
	err := u.append(w, req, one)
	if err == nil && (req.Method == http.MethodPut || hash != "") {
		if err = u.commit(one, hash); err == nil {
			u.drop(one)
			w.Header().Set("Location", "/v2/"+t.repository+"/blobs/"+hash)
			w.Header().Set("Docker-Content-Digest", hash)
			w.WriteHeader(http.StatusCreated)
			return
		}
	}
	if err != nil {
		u.drop(one) // nobody goes on with an upload that broke: Docker begins anew
		refuse(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", err.Error())
		return
	}
	one.idle.Reset(uploadTimeout)
	w.Header().Set("Location", "/v2/"+t.repository+"/blobs/uploads/"+one.id)
	w.Header().Set("Docker-Upload-UUID", one.id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(one.size-1, 0)))
	w.WriteHeader(http.StatusAccepted)
}

// append adds a request's body to an upload.
func (u *uploads) append(w http.ResponseWriter, req *http.Request, one *upload) (err error) {
	if header := req.Header.Get("Content-Range"); header != "" {
		var start, end int64
		if _, err := fmt.Sscanf(header, "%d-%d", &start, &end); err != nil || start != one.size {
			return fmt.Errorf("the range %q does not follow %d bytes", header, one.size)
		}
	}
	body := timedBody{req.Body, http.NewResponseController(w)}
	if _, err := io.Copy(uploadWriter{u, one}, body); err != nil {
		return err
	}
	_ = body.control.SetReadDeadline(time.Time{})
	return nil
}

// uploadWriter writes to an upload as long as all of them together are not too large.
type uploadWriter struct {
	all *uploads
	one *upload
}

func (w uploadWriter) Write(p []byte) (int, error) {
	w.all.mu.Lock()
	w.all.bytes += int64(len(p))
	w.one.size += int64(len(p))
	full := w.all.bytes > maxUploadBytes
	w.all.mu.Unlock()
	if full {
		return 0, fmt.Errorf("the uploads under way have more than %d bytes", int64(maxUploadBytes))
	}
	if err := w.all.create(w.one); err != nil {
		return 0, err
	}
	return w.one.writer.Write(p)
}

// create makes the file of an upload, if it has none: one that was only begun costs nothing.
func (u *uploads) create(one *upload) (err error) {
	if one.writer == nil {
		one.writer, err = u.store.Writer(u.ctx, content.WithRef(one.id))
	}
	return err
}

// commit makes an upload a blob if it has the digest. It is on the disk then.
func (u *uploads) commit(one *upload, want string) error {
	hash, err := v1.NewHash(want)
	if err != nil {
		return err
	}
	if err := u.create(one); err != nil {
		return err
	}
	err = one.writer.Commit(u.ctx, one.size, digest.Digest(hash.String()))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}
