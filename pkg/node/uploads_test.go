package node

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func openUploads(u *uploads) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.count
}

// TestUploads: an upload that fails leaves nothing.
func TestUploads(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	c := owner(t, r)
	digest := c.upload(t, "in ", "three ", "parts")
	path := imagesPath + "blobs/" + digest.String()
	if _, text := c.expect(t, http.StatusOK, http.MethodGet, path, ""); text != "in three parts" {
		t.Errorf("%q", text)
	}
	c.upload(t, "in ", "three ", "parts") // again
	c.upload(t)                           // an empty one
	const complete = 2
	broken := io.MultiReader(strings.NewReader("some"), iotest.ErrReader(errors.New("cut off")))
	const wrong = "?digest=sha256:0000000000000000000000000000000000000000000000000000000000000000"
	other := func() io.Reader { return strings.NewReader("other") }
	for name, test := range map[string]struct {
		method, query string
		body          io.Reader
		want          int
	}{
		"broken body":      {http.MethodPatch, "", broken, 0},
		"other content":    {http.MethodPut, wrong, other(), http.StatusBadRequest},
		"no digest":        {http.MethodPut, "?digest=nonsense", other(), http.StatusBadRequest},
		"path as a digest": {http.MethodPut, "?digest=sha256:../../address", other(), http.StatusBadRequest},
		"cancelled":        {http.MethodDelete, "", nil, http.StatusNoContent},
	} {
		upload := c.begin(t)
		if status, _, text := c.do(t, test.method, upload+test.query, test.body); status != test.want {
			t.Errorf("%s: %d, not %d: %s", name, status, test.want, text)
		}
		// The server notices the end of a body a moment after its client.
		for deadline := time.Now().Add(time.Minute); openUploads(r.uploads) > 0; <-time.After(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the upload is still there", name)
			}
		}
		c.expect(t, http.StatusNotFound, http.MethodPatch, upload, "")
		if n := blobs(t, r.dir); n != complete {
			t.Errorf("%s: %d blobs and uploads, not %d", name, n, complete)
		}
	}
	upload := c.begin(t)
	c.expect(t, http.StatusAccepted, http.MethodPatch, upload, "x")
	gap := c.also(func(req *http.Request) { req.Header.Set("Content-Range", "5-6") })
	gap.expect(t, http.StatusBadRequest, http.MethodPatch, upload, "yz")
}

// TestUploadLimits: as many uploads as an image can need are accepted, and no more.
func TestUploadLimits(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	c := owner(t, r)
	accepted := 0
	for range 1000 {
		status, _, text := c.do(t, http.MethodPost, uploadsPath, nil)
		switch status {
		case http.StatusAccepted:
			accepted++
		case http.StatusTooManyRequests:
		default:
			t.Fatalf("%d: %s", status, text)
		}
	}
	if accepted != maxUploads {
		t.Errorf("%d uploads, not %d", accepted, maxUploads)
	}
	if n := blobs(t, r.dir); n != 0 {
		t.Errorf("%d files", n)
	}
	r.uploads.mu.Lock()
	r.uploads.bytes = maxUploadBytes // as if the others had sent so much
	var one *upload
	for _, one = range r.uploads.idle {
		break
	}
	r.uploads.mu.Unlock()
	_, text := c.expect(t, http.StatusBadRequest, http.MethodPatch, uploadsPath+one.id, "x")
	if !strings.Contains(text, "more than") {
		t.Error(text)
	}
}

// TestIdleUploads: an upload without requests ends.
func TestIdleUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUploads(t.Context(), nil)
		idle, busy := u.begin(), u.begin()
		u.release(idle)
		<-time.After(uploadTimeout + time.Second)
		if u.take(idle.id) != nil {
			t.Error("an idle upload is still there")
		}
		if u.take(busy.id) != nil {
			t.Error("a second request for the same upload")
		}
		u.release(busy)
		if u.take(busy.id) == nil {
			t.Error("an upload in use is gone")
		}
		answer := httptest.NewRecorder()
		post := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		u.serve(answer, post, target{kind: "blobs/uploads"})
		if answer.Code != http.StatusAccepted || openUploads(u) != 2 {
			t.Errorf("%d, %d uploads", answer.Code, openUploads(u))
		}
		<-time.After(uploadTimeout + time.Second)
		synctest.Wait()
		if openUploads(u) != 1 {
			t.Errorf("an upload without a client is still there: %d uploads", openUploads(u))
		}
	})
}
