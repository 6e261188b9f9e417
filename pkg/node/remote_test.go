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

// repositories is a registry whose repositories have their own blobs, like real ones and unlike
// go-containerregistry's.
type repositories struct {
	next http.Handler

	mu      sync.Mutex
	blobs   map[string]bool // by repository and digest
	mounted int
}

func (r *repositories) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	repository, blob, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/blobs/")
	query := req.URL.Query()
	switch {
	case req.Method == http.MethodHead && blob != "" && !r.blobs[repository+"@"+blob]:
		w.WriteHeader(http.StatusNotFound)
		return
	case req.Method == http.MethodPost && query.Get("mount") != "" && r.blobs[query.Get("from")+"@"+query.Get("mount")]:
		r.blobs[repository+"@"+query.Get("mount")] = true
		r.mounted++
		w.WriteHeader(http.StatusCreated)
		return
	case req.Method == http.MethodPut && query.Get("digest") != "":
		r.blobs[repository+"@"+query.Get("digest")] = true
	}
	r.next.ServeHTTP(w, req)
}

// TestRemote pushes images to a registry: only missing layers are sent, shared ones are mounted.
func TestRemote(t *testing.T) {
	there := &repositories{next: registry.New(registry.Logger(log.New(io.Discard, "", 0))), blobs: map[string]bool{}}
	server := httptest.NewServer(there)
	defer server.Close()
	far := server.Listener.Addr().String() + "/team/"
	own := openRegistry(t, t.TempDir())
	base := newImage(t, 200_000, 2)
	worker, client, changed := newTag(t, far+"worker:1"), newTag(t, far+"client:1"), newTag(t, far+"worker:2")
	images := built{worker: base, client: addLayer(t, base, 1000), changed: addLayer(t, base, 2000)}
	r := NewRemoteRegistry(false)
	for _, tag := range []name.Tag{worker, client, changed} {
		missing, err := r.Missing(t.Context(), []name.Tag{tag})
		if err != nil || len(missing) != 1 || r.Digest(tag) != "" {
			t.Errorf("before: %v, %v, %q", missing, err, r.Digest(tag))
		}
		var sent int64
		sink := event.Sink(func(e event.Event) {
			if n, ok := e.Field("bytes").(int64); ok {
				sent = n
			}
		})
		if err := r.Load(t.Context(), sink, images, own, []Wanted{{"worker", tag}}); err != nil {
			t.Fatal(err)
		}
		if all := tag == worker; all != (sent > 400_000) || sent == 0 {
			t.Errorf("%s: %d bytes were sent", tag, sent)
		}
		if digest := digestOf(t, images[tag]).String(); r.Digest(tag) != digest {
			t.Errorf("%s: digest %q, not %s", tag, r.Digest(tag), digest)
		}
	}
	if there.mounted != 2 { // the two layers that the client shares with the worker
		t.Errorf("%d layers were mounted", there.mounted)
	}
	// A list of one image and its attestation, as BuildKit makes it.
	listed := newTag(t, far+"listed:1")
	single := addLayer(t, base, 3000)
	source := built{listed: attested(t, single)}
	if err := r.Load(t.Context(), func(event.Event) {}, source, own, []Wanted{{"worker", listed}}); err != nil {
		t.Fatal(err)
	}
	if digest := digestOf(t, single).String(); r.Digest(listed) != digest {
		t.Errorf("the image in a list: digest %q, not %s", r.Digest(listed), digest)
	}
	later := NewRemoteRegistry(false) // the next devloop
	missing, err := later.Missing(t.Context(), []name.Tag{worker, newTag(t, far+"worker:3")})
	if err != nil || len(missing) != 1 || later.Digest(worker) == "" {
		t.Errorf("after: %v, %v, %q", missing, err, later.Digest(worker))
	}
}

func TestRemoteErrors(t *testing.T) {
	client := &http.Client{Transport: outward{}}
	_, err := client.Head("http://10.0.0.1:5000/v2/") //nolint:bodyclose // there is no response
	if !errors.Is(err, errPlain) {
		t.Errorf("plain http beyond this machine: %v", err)
	}
	// For a private address, go-containerregistry tries https, then http, and returns both errors.
	err = errors.Join(&tls.CertificateVerificationError{Err: io.EOF}, errPlain)
	err = NewRemoteRegistry(false).explain(newTag(t, "10.0.0.1:5000/team/worker:1"), err)
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
	_, err = NewRemoteRegistry(false).Missing(t.Context(), []name.Tag{newTag(t, address+"/team/worker:1")})
	if err == nil || event.Hint(err) != "docker login "+address || event.IsTransient(err) {
		t.Errorf("forbidden: %v (%s)", err, event.Hint(err))
	}
	closed.Close()
	_, err = NewRemoteRegistry(false).Missing(t.Context(), []name.Tag{newTag(t, address+"/team/worker:1")})
	if err == nil || event.Hint(err) == "" || !event.IsTransient(err) {
		t.Errorf("gone: %v (%s)", err, event.Hint(err))
	}
}
