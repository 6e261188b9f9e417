package node

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"

	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), // idle connections of the clients
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

func blobs(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cutOff begins uploads that do not come to a good end.
func cutOff(t *testing.T, r *Registry) {
	t.Helper()
	base := "http://" + r.address
	begin := func() (location string) {
		t.Helper()
		resp, err := http.Post(base+"/v2/worker/blobs/uploads/", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			t.Fatal(resp.Status)
		}
		return resp.Header.Get("Location")
	}
	send := func(method, path string, body io.Reader) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if code := send(http.MethodPatch, begin(), io.MultiReader(strings.NewReader("some"), iotest.ErrReader(errors.New("cut off")))); code != 0 {
		t.Errorf("an upload whose body broke: %d", code)
	}
	if code := send(http.MethodPut, begin()+"?digest=sha256:"+strings.Repeat("0", 64), strings.NewReader("other")); code != http.StatusBadRequest {
		t.Errorf("an upload of other content than it says: %d", code)
	}
	if code := send(http.MethodPut, begin()+"?digest=nonsense", strings.NewReader("other")); code != http.StatusBadRequest {
		t.Errorf("an upload without a digest: %d", code)
	}
	if code := send(http.MethodPatch, "/v2/worker/blobs/uploads/..%2f..%2faddress", strings.NewReader("x")); code < 400 {
		t.Errorf("an upload to another file: %d", code)
	}
	// The server drops what the first one left once it hears of that one's end, a moment after its client.
	const whole = 5 // blobs, of the images that were pushed before
	for deadline := time.Now().Add(time.Minute); blobs(t, r.dir) != whole; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d blobs and uploads, not %d: an upload that broke off is kept", blobs(t, r.dir), whole)
		}
	}
}

// partly asks for parts of a blob, as containerd and Docker do when a pull broke off.
func partly(t *testing.T, r *Registry, image v1.Image) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	reader, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		ask  string
		want []byte
		code int
	}{{"", whole, http.StatusOK}, {"bytes=100-", whole[100:], http.StatusPartialContent}, {"bytes=0-9", whole[:10], http.StatusPartialContent}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.address+"/v2/team/worker/blobs/"+digest.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.ask != "" {
			req.Header.Set("Range", test.ask)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != test.code || !bytes.Equal(got, test.want) {
			t.Errorf("range %q: %s, %d bytes (%v)", test.ask, resp.Status, len(got), err)
		}
	}
	resp, err := http.Get("http://" + r.address + "/v2/team/worker/blobs/sha256:" + strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("a blob that is not there: %s", resp.Status)
	}
}

// TestList pushes a list of images, as Docker does with a base image for several platforms: whatever a runtime calls one of them is right.
func TestList(t *testing.T) {
	index, err := random.Index(1000, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := openRegistry(t, dir)
	tag := newTag(t, "base:1")
	near, err := r.near(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(near, index); err != nil {
		t.Fatal(err)
	}
	id, err := r.take(t.Context(), Built{}, tag)
	if err != nil {
		t.Fatal(err)
	}
	own, err := index.Digest()
	if err != nil || id[0] != own.String() {
		t.Errorf("%v, not %s first (%v)", id, own, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range manifest.Manifests {
		image, err := index.Image(child.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigName()
		if err != nil || !id.is(config.String()) || !id.is(child.Digest.String()) {
			t.Errorf("%v is not %s, %s (%v)", id, child.Digest, config, err)
		}
	}
	if len(id) != 5 || id.is("") {
		t.Error(id)
	}
}

// TestRegistry pushes with go-containerregistry's client, as Docker does, and lets go of an image.
func TestRegistry(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenRegistry(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	base, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	push := func(tag string, image v1.Image) name.Tag {
		t.Helper()
		short := newTag(t, tag)
		ref, err := r.near(short)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, image); err != nil {
			t.Fatal(err)
		}
		return short
	}
	layer, err := random.Layer(1000, "application/vnd.docker.image.rootfs.diff.tar.gzip")
	if err != nil {
		t.Fatal(err)
	}
	changed, err := mutate.AppendLayers(base, layer)
	if err != nil {
		t.Fatal(err)
	}
	push("team/worker:1", base)
	second := push("team/worker:2", changed)

	id, err := r.take(t.Context(), Built{}, second)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := changed.Digest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := changed.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if !id.is(manifest.String()) || !id.is(config.String()) || id.is("sha256:0") || id.is("") {
		t.Errorf("identity %+v of manifest %s, config %s", id, manifest, config)
	}
	if got := blobs(t, dir); got != 5 { // two base layers, one more, two configurations
		t.Errorf("%d blobs, not 5", got)
	}
	partly(t, r, changed)
	cutOff(t, r)
	if got := blobs(t, dir); got != 5 {
		t.Errorf("%d blobs and uploads after pushes that broke, not 5", got)
	}
	address := r.address
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}

	if r, err = OpenRegistry(t.Context(), dir); err != nil { // as the next devloop does
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	if r.address != address {
		t.Errorf("another address than last time: %s, %s", r.address, address)
	}
	if err := r.Prune(second); err != nil {
		t.Fatal(err)
	}
	if got := blobs(t, dir); got != 3 { // those of team/worker:1
		t.Errorf("%d blobs after Prune, not 3", got)
	}
}
