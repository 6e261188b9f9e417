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

// TestUploads: an upload that does not come to a good end leaves nothing.
func TestUploads(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	c := owner(t, r)
	digest := c.upload(t, "in ", "three ", "parts")
	if status, _, text := c.ask(t, http.MethodGet, "/v2/devloop/worker/blobs/"+digest.String(), nil); status != http.StatusOK || string(text) != "in three parts" {
		t.Errorf("%d, %q", status, text)
	}
	c.upload(t, "in ", "three ", "parts") // it is there already
	c.upload(t)                           // the empty one
	const whole = 2
	none := "?digest=sha256:" + strings.Repeat("0", 64)
	for says, test := range map[string]struct {
		method, query string
		body          io.Reader
		want          int
	}{
		"a body that broke":          {http.MethodPatch, "", io.MultiReader(strings.NewReader("some"), iotest.ErrReader(errors.New("cut off"))), 0},
		"other content than it says": {http.MethodPut, none, strings.NewReader("other"), http.StatusBadRequest},
		"no digest":                  {http.MethodPut, "?digest=nonsense", strings.NewReader("other"), http.StatusBadRequest},
		"a digest as a path":         {http.MethodPut, "?digest=sha256:../../address", strings.NewReader("other"), http.StatusBadRequest},
		"given up":                   {http.MethodDelete, "", nil, http.StatusNoContent},
	} {
		place := c.begin(t)
		if status, _, text := c.ask(t, test.method, place+test.query, test.body); status != test.want {
			t.Errorf("%s: %d, not %d: %s", says, status, test.want, text)
		}
		// The server hears of the end of a body a moment after its client.
		for deadline := time.Now().Add(time.Minute); ; <-time.After(time.Millisecond) {
			status, _, _ := c.ask(t, http.MethodPatch, place, nil)
			if n := blobs(t, r.dir); status == http.StatusNotFound && n == whole {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("%s: %d, and %d blobs and uploads, not %d", says, status, n, whole)
			}
		}
	}
	place := c.begin(t)
	for _, of := range []string{"devloop/other", "devloop/worker"} { // an upload is a repository's own
		want := http.StatusNotFound
		if of == "devloop/worker" {
			want = http.StatusAccepted
		}
		if status, _, _ := c.ask(t, http.MethodPatch, strings.Replace(place, "devloop/worker", of, 1), strings.NewReader("x")); status != want {
			t.Errorf("an upload of devloop/worker in %s: %d", of, status)
		}
	}
	next := caller{c.address, func(req *http.Request) { c.change(req); req.Header.Set("Content-Range", "5-6") }}
	if status, _, _ := next.ask(t, http.MethodPatch, place, strings.NewReader("yz")); status != http.StatusBadRequest {
		t.Errorf("a part that does not follow: %d", status)
	}
}

// TestUploadsBounded: as many as an image can need are taken, and then no more; those that lie idle
// end.
func TestUploadsBounded(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	c := owner(t, r)
	taken := 0
	for range 1000 {
		status, _, text := c.ask(t, http.MethodPost, "/v2/devloop/worker/blobs/uploads/", nil)
		switch status {
		case http.StatusAccepted:
			taken++
		case http.StatusTooManyRequests:
		default:
			t.Fatalf("%d: %s", status, text)
		}
	}
	if taken != maxUploads {
		t.Errorf("%d uploads, not %d", taken, maxUploads)
	}
	if n := blobs(t, r.dir); n != 0 {
		t.Errorf("%d files", n)
	}
	r.uploads.mu.Lock()
	r.uploads.bytes = maxUploadBytes // as if those others had brought so much
	var one *upload
	for _, one = range r.uploads.idle {
		break
	}
	r.uploads.mu.Unlock()
	if status, _, text := c.ask(t, http.MethodPatch, "/v2/devloop/worker/blobs/uploads/"+one.id, strings.NewReader("x")); status != http.StatusBadRequest || !strings.Contains(string(text), "more than") {
		t.Errorf("%d: %s", status, text)
	}
}

func TestUploadsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUploads(t.Context(), nil)
		idle, busy := u.begin("devloop/a"), u.begin("devloop/a")
		u.release(idle)
		<-time.After(uploadTimeout + time.Second)
		if u.take(idle.id, "devloop/a") != nil {
			t.Error("one that lay idle is still there")
		}
		if u.take(busy.id, "devloop/a") != nil {
			t.Error("a second request for the same upload")
		}
		u.release(busy)
		if u.take(busy.id, "devloop/a") == nil {
			t.Error("one that a request was at is gone")
		}
		open := func() int {
			u.mu.Lock()
			defer u.mu.Unlock()
			return u.count
		}
		answer := httptest.NewRecorder()
		post := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		u.serve(answer, post, target{kind: "blobs/uploads", repository: "devloop/b"})
		if answer.Code != http.StatusAccepted || open() != 2 {
			t.Errorf("%d, %d uploads", answer.Code, open())
		}
		<-time.After(uploadTimeout + time.Second)
		synctest.Wait()
		if open() != 1 {
			t.Errorf("one whose client is gone is still there: %d uploads", open())
		}
		u.close()
		u.release(busy)
		if open() != 0 {
			t.Errorf("after close, %d uploads are left", open())
		}
	})
}
