package node

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
	// maxUploads limits uploads under way: `loads` images of up to 127 layers and a configuration,
	// since Docker's containerd store sends all of them in parallel.
	maxUploads = loads * 128
	// maxUploadBytes limits the bytes of all uploads under way.
	maxUploadBytes = 64 << 30
	// uploadTimeout is how long an upload may wait for its next request.
	uploadTimeout = 5 * time.Minute
)

// uploads are blobs on their way into the content store (OCI distribution specification, "Pushing
// blobs"). They are streamed: go-containerregistry's own handler holds each in memory, and keeps
// it if the push is cancelled. OpenRegistry removes those of an earlier process.
type uploads struct {
	ctx   context.Context // of the store's work, which the end of a request does not cancel
	store content.Store

	mu    sync.Mutex
	idle  map[string]*upload // by ID: those without a request at the moment
	count int                // of all, idle or not
	bytes int64              // of all
}

// upload belongs to one request at a time, or else to uploads.idle.
type upload struct {
	id     string
	expiry *time.Timer
	writer content.Writer // nil until the first byte
	size   int64          // in bytes
}

func newUploads(ctx context.Context, store content.Store) *uploads {
	return &uploads{ctx: ctx, store: store, idle: map[string]*upload{}}
}

// begin returns a new upload, nil if there are too many.
func (u *uploads) begin() *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.count >= maxUploads {
		return nil
	}
	u.count++
	return &upload{id: rand.Text()}
}

// take returns an idle upload, nil if there is none.
func (u *uploads) take(id string) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	one := u.idle[id]
	if one == nil {
		return nil
	}
	one.expiry.Stop()
	delete(u.idle, id)
	return one
}

// release makes an upload idle until its next request.
func (u *uploads) release(one *upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.idle[one.id] = one
	one.expiry = time.AfterFunc(uploadTimeout, func() {
		_ = event.Guard(func() error { // the next OpenRegistry removes what is left
			if one := u.take(one.id); one != nil {
				u.drop(one)
			}
			return nil
		})
	})
}

// drop ends an upload, and removes what has not become a blob.
func (u *uploads) drop(one *upload) {
	if one.writer != nil {
		_ = one.writer.Close()
		_ = u.store.Abort(u.ctx, one.id) // the next OpenRegistry removes what is left
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count--
	u.bytes -= one.size
}

// serve handles a request for a new upload or an existing one.
func (u *uploads) serve(w http.ResponseWriter, req *http.Request, t target) {
	var one *upload
	switch {
	case req.Method == http.MethodPost && t.reference == "":
		if one = u.begin(); one == nil {
			refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS",
				fmt.Sprintf("there are %d uploads already", maxUploads))
			return
		}
	case req.Method == http.MethodPatch, req.Method == http.MethodPut, req.Method == http.MethodDelete:
		if one = u.take(t.reference); one == nil {
			refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN",
				"there is no such upload, or another request writes to it")
			return
		}
	default:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "uploads do not support that")
		return
	}
	if req.Method == http.MethodDelete {
		u.drop(one)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	digest := req.URL.Query().Get("digest")
	complete := req.Method == http.MethodPut || digest != ""
	err := u.append(w, req, one)
	if err == nil && complete {
		err = u.commit(one, digest)
	}
	switch {
	case err != nil:
		u.drop(one) // Docker does not resume a broken upload, it begins again
		refuse(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", err.Error())
	case complete:
		u.drop(one)
		w.Header().Set("Location", "/v2/"+repository+"/blobs/"+digest)
		w.Header().Set("Docker-Content-Digest", digest)
		w.WriteHeader(http.StatusCreated)
	default:
		w.Header().Set("Location", "/v2/"+repository+"/blobs/uploads/"+one.id)
		w.Header().Set("Docker-Upload-UUID", one.id)
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(one.size-1, 0)))
		u.release(one)
		w.WriteHeader(http.StatusAccepted)
	}
}

// append adds the body of a request to an upload.
func (u *uploads) append(w http.ResponseWriter, req *http.Request, one *upload) error {
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

// uploadWriter writes to an upload within maxUploadBytes.
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

// create makes the file of an upload if it has none. Before the first byte, it needs none.
func (u *uploads) create(one *upload) (err error) {
	if one.writer == nil {
		one.writer, err = u.store.Writer(u.ctx, content.WithRef(one.id))
	}
	return err
}

// commit turns an upload into a blob if it has the digest.
func (u *uploads) commit(one *upload, expected string) error {
	hash, err := v1.NewHash(expected)
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
