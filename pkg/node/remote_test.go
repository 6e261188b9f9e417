package node

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/devloop/devloop/pkg/event"
)

// repositories is a registry whose repositories hold blobs of their own, as real ones do and go-containerregistry's does not.
type repositories struct {
	next http.Handler

	mu      sync.Mutex
	holds   map[string]bool // by repository and digest
	mounted int
}

func (r *repositories) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	repository, blob, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/blobs/")
	query := req.URL.Query()
	switch {
	case req.Method == http.MethodHead && blob != "" && !r.holds[repository+"@"+blob]:
		w.WriteHeader(http.StatusNotFound)
		return
	case req.Method == http.MethodPost && query.Get("mount") != "" && r.holds[query.Get("from")+"@"+query.Get("mount")]:
		r.holds[repository+"@"+query.Get("mount")] = true
		r.mounted++
		w.WriteHeader(http.StatusCreated)
		return
	case req.Method == http.MethodPut && query.Get("digest") != "":
		r.holds[repository+"@"+query.Get("digest")] = true
	}
	r.next.ServeHTTP(w, req)
}

// TestPush gives images to a registry: only what it lacks is sent, and what two images share is mounted.
func TestPush(t *testing.T) {
	there := &repositories{next: registry.New(registry.Logger(log.New(io.Discard, "", 0))), holds: map[string]bool{}}
	server := httptest.NewServer(there)
	defer server.Close()
	far := server.Listener.Addr().String() + "/team/"
	own := openRegistry(t, t.TempDir())
	base := newImage(t, 200_000, 2)
	worker, client, changed := newTag(t, far+"worker:1"), newTag(t, far+"client:1"), newTag(t, far+"worker:2")
	images := built{worker: base, client: addLayer(t, base, 1000), changed: addLayer(t, base, 2000)}
	p := NewPush(false)
	for _, tag := range []name.Tag{worker, client, changed} {
		if missing, err := p.Missing(t.Context(), []name.Tag{tag}); err != nil || len(missing) != 1 || p.Digest(tag) != "" {
			t.Errorf("before: %v, %v, %q", missing, err, p.Digest(tag))
		}
		var sent int64
		sink := event.Sink(func(e event.Event) {
			if n, ok := e.Field("bytes").(int64); ok {
				sent = n
			}
		})
		if err := p.Give(t.Context(), sink, images, own, []name.Tag{tag}); err != nil {
			t.Fatal(err)
		}
		if whole := tag == worker; whole != (sent > 400_000) || sent == 0 {
			t.Errorf("%s: %d bytes were sent", tag, sent)
		}
		digest, err := images[tag].Digest()
		if err != nil || p.Digest(tag) != digest.String() {
			t.Errorf("%s: digest %q, not %s (%v)", tag, p.Digest(tag), digest, err)
		}
	}
	if there.mounted != 2 { // the two layers that the client shares with the worker
		t.Errorf("%d layers were mounted", there.mounted)
	}
	// A list of one image and its attestation, as BuildKit makes it.
	listed := newTag(t, far+"listed:1")
	single := addLayer(t, base, 3000)
	if err := p.Give(t.Context(), func(event.Event) {}, built{listed: attested(t, single)}, own, []name.Tag{listed}); err != nil {
		t.Fatal(err)
	}
	if digest, err := single.Digest(); err != nil || p.Digest(listed) != digest.String() {
		t.Errorf("the image of a list: digest %q, not %s (%v)", p.Digest(listed), digest, err)
	}
	later := NewPush(false) // the next devloop
	if missing, err := later.Missing(t.Context(), []name.Tag{worker, newTag(t, far+"worker:3")}); err != nil || len(missing) != 1 || later.Digest(worker) == "" {
		t.Errorf("after: %v, %v, %q", missing, err, later.Digest(worker))
	}
}

func TestPushRefused(t *testing.T) {
	_, err := (&http.Client{Transport: outward{}}).Head("http://10.0.0.1:5000/v2/") //nolint:bodyclose // there is no answer
	if !errors.Is(err, errPlain) {
		t.Errorf("plain http beyond this machine: %v", err)
	}
	// go-containerregistry asks a private address by https, and then by http; it hands on both errors.
	err = NewPush(false).explain(newTag(t, "10.0.0.1:5000/team/worker:1"), errors.Join(&tls.CertificateVerificationError{Err: io.EOF}, errPlain))
	if !strings.Contains(event.Hint(err), "trust the registry's certificate") {
		t.Errorf("a certificate that is not trusted: %v (%s)", err, event.Hint(err))
	}
	closed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer closed.Close()
	address := closed.Listener.Addr().String()
	_, err = NewPush(false).Missing(t.Context(), []name.Tag{newTag(t, address+"/team/worker:1")})
	if err == nil || event.Hint(err) != "docker login "+address || event.IsTransient(err) {
		t.Errorf("forbidden: %v (%s)", err, event.Hint(err))
	}
	closed.Close()
	_, err = NewPush(false).Missing(t.Context(), []name.Tag{newTag(t, address+"/team/worker:1")})
	if err == nil || event.Hint(err) == "" || !event.IsTransient(err) {
		t.Errorf("gone: %v (%s)", err, event.Hint(err))
	}
}
