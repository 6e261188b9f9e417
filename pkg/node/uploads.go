// Blobs on disk, how they arrive there, streamed into a file, verified, renamed, and how they leave. (go-containerregistry's own handler
// holds an upload in memory, and for ever when a push is cut off, as a newer save does all the time; and it knows no ranges without an end,
// by which containerd goes on with a pull that broke off.)
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobStore is a folder of blobs: "sha256/<hex>" for what is whole, "uploads/<id>" for what is on its way. It is a
// registry.BlobHandler and registry.BlobStatHandler.
type blobStore struct{ dir string }

// openBlobStore clears away uploads that an earlier process did not end.
func openBlobStore(dir string) (blobStore, error) {
	b := blobStore{dir}
	return b, errors.Join(os.RemoveAll(b.upload("")), os.MkdirAll(b.upload(""), 0o755), os.MkdirAll(filepath.Join(dir, "sha256"), 0o755))
}

func (b blobStore) file(h v1.Hash) string   { return filepath.Join(b.dir, h.Algorithm, h.Hex) }
func (b blobStore) upload(id string) string { return filepath.Join(b.dir, "uploads", id) }

// Get opens a blob. It was verified when it came.
func (b blobStore) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	file, err := os.Open(b.file(h))
	return file, known(err)
}

// Stat returns a blob's size in bytes.
func (b blobStore) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	info, err := os.Stat(b.file(h))
	if err != nil {
		return 0, known(err)
	}
	return info.Size(), nil
}

// known turns the file system's way to say that a blob is not there into the registry's.
func known(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return registry.ErrNotFound
	}
	return err
}

// serve answers requests for blobs, whole or in parts, and leaves the rest to next.
func (b blobStore) serve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, digest, ok := strings.Cut(r.URL.Path, "/blobs/sha256:")
		if r.Method != http.MethodGet || !ok || strings.Contains(digest, "/") {
			next.ServeHTTP(w, r)
			return
		}
		file, err := os.Open(b.file(v1.Hash{Algorithm: "sha256", Hex: digest}))
		if err != nil {
			next.ServeHTTP(w, r) // which says so as a registry does
			return
		}
		defer func() { _ = file.Close() }() // only read
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Docker-Content-Digest", "sha256:"+digest)
		http.ServeContent(w, r, "", time.Time{}, file)
	})
}

// receive answers uploads, by the OCI distribution specification ("Pushing blobs"), and leaves the rest to next.
func (b blobStore) receive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		repository, id, ok := strings.Cut(r.URL.Path, "/blobs/uploads")
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		id = strings.Trim(id, "/")
		switch {
		case r.Method == http.MethodPost && id == "":
			id = rand.Text()
		case (r.Method == http.MethodPatch || r.Method == http.MethodPut) && id == filepath.Base(id):
			if _, err := os.Stat(b.upload(id)); err != nil {
				http.Error(w, "no such upload", http.StatusNotFound)
				return
			}
		default:
			http.Error(w, "not an upload", http.StatusMethodNotAllowed)
			return
		}
		digest := r.URL.Query().Get("digest")
		size, err := b.append(id, r.Body)
		if err == nil && (r.Method == http.MethodPut || digest != "") {
			err = b.commit(id, digest)
			if err == nil {
				w.Header().Set("Location", repository+"/blobs/"+digest)
				w.Header().Set("Docker-Content-Digest", digest)
				w.WriteHeader(http.StatusCreated)
				return
			}
		}
		if err != nil {
			// Nobody goes on with an upload that broke: Docker begins anew.
			http.Error(w, errors.Join(err, os.Remove(b.upload(id))).Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Location", repository+"/blobs/uploads/"+id)
		w.Header().Set("Docker-Upload-UUID", id)
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(size-1, 0)))
		w.WriteHeader(http.StatusAccepted)
	})
}

// append adds to an upload and returns how long it is then.
func (b blobStore) append(id string, body io.Reader) (size int64, err error) {
	file, err := os.OpenFile(b.upload(id), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := io.Copy(file, body); err != nil {
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// commit makes an upload a blob if it has the digest.
func (b blobStore) commit(id, digest string) error {
	want, err := v1.NewHash(digest)
	if err != nil {
		return err
	}
	file, err := os.Open(b.upload(id))
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	got, _, err := v1.SHA256(file)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the upload is %s, not %s", got, want)
	}
	return os.Rename(b.upload(id), b.file(want))
}
