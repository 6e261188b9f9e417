package node

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	containerdlog "github.com/containerd/log"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/devloop/devloop/pkg/event"
)

func TestMain(m *testing.M) {
	containerdlog.L.Logger.SetOutput(io.Discard)
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), // idle connections of the clients
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// blobs counts the blobs and the uploads in a registry's folder.
func blobs(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	for _, folder := range []string{"blobs", "ingest"} {
		err := filepath.WalkDir(filepath.Join(dir, folder), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && (folder == "blobs" || entry.Name() == "data") {
				n++
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return n
}

// savedTags returns the tags on disk.
func savedTags(t *testing.T, dir string) (tags []string) {
	t.Helper()
	var index v1.IndexManifest
	raw, err := os.ReadFile(filepath.Join(dir, ocispecs.ImageIndexFile))
	if err := errors.Join(err, json.Unmarshal(raw, &index)); err != nil {
		t.Fatal(err)
	}
	for _, image := range index.Manifests {
		tags = append(tags, image.Annotations[ocispecs.AnnotationRefName])
	}
	return tags
}

// caller asks a registry as somebody on this machine.
type caller struct {
	address string
	change  func(*http.Request) // nil for none
}

// owner has the credentials.
func owner(t *testing.T, r *Registry) caller {
	t.Helper()
	address, err := r.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return caller{address, func(req *http.Request) { req.SetBasicAuth(username, r.password) }}
}

// ask returns the answer, whose status is 0 if there was none.
func (c caller) ask(t *testing.T, method, path string, body io.Reader) (status int, header http.Header, text []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+c.address+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if c.change != nil {
		c.change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, nil
	}
	defer func() { _ = resp.Body.Close() }()
	text, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, text
}

// begin begins an upload, and returns its place.
func (c caller) begin(t *testing.T) string {
	t.Helper()
	status, header, text := c.ask(t, http.MethodPost, "/v2/devloop/worker/blobs/uploads/", nil)
	if status != http.StatusAccepted {
		t.Fatalf("%d: %s", status, text)
	}
	return header.Get("Location")
}

// upload brings a blob by the steps that Docker takes: POST, PATCH in parts, PUT.
func (c caller) upload(t *testing.T, parts ...string) digest.Digest {
	t.Helper()
	place := c.begin(t)
	for _, part := range parts {
		if status, _, text := c.ask(t, http.MethodPatch, place, strings.NewReader(part)); status != http.StatusAccepted {
			t.Fatalf("%d: %s", status, text)
		}
	}
	digest := digest.FromString(strings.Join(parts, ""))
	if status, _, text := c.ask(t, http.MethodPut, place+"?digest="+digest.String(), nil); status != http.StatusCreated {
		t.Fatalf("%d: %s", status, text)
	}
	return digest
}

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

// TestNeighbour: whoever is on this machine and has no credentials can neither write nor read.
func TestNeighbour(t *testing.T) {
	dir := t.TempDir()
	r := openRegistry(t, dir)
	image := newImage(t, 1000, 1)
	tag := push(t, r, "team/worker:1", image)
	index, err := os.ReadFile(r.indexFile())
	if err != nil {
		t.Fatal(err)
	}
	before, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	layer := digestOf(t, layersOf(t, image)[0])
	c := owner(t, r)
	manifestPath, blobPath := "/v2/"+repository(tag)+"/manifests/1", "/v2/"+repository(tag)+"/blobs/"+layer.String()
	paths := map[string]string{
		"/v2/": http.MethodGet, manifestPath: http.MethodGet, blobPath: http.MethodGet,
		"/v2/" + repository(tag) + "/blobs/uploads/":  http.MethodPost,
		"/v2/" + repository(tag) + "/blobs/uploads/.": http.MethodPut,
		manifestPath + "2":                            http.MethodPut,
		"/v2/_catalog":                                http.MethodGet,
	}
	for says, test := range map[string]struct {
		change func(*http.Request)
		want   int
	}{
		"nobody":                 {func(*http.Request) {}, http.StatusUnauthorized},
		"a wrong password":       {func(req *http.Request) { req.SetBasicAuth(username, strings.ToLower(r.password)) }, http.StatusUnauthorized},
		"a wrong name":           {func(req *http.Request) { req.SetBasicAuth("root", r.password) }, http.StatusUnauthorized},
		"a page":                 {func(req *http.Request) { c.change(req); req.Header.Set("Origin", "http://"+c.address) }, http.StatusForbidden},
		"a page of no origin":    {func(req *http.Request) { c.change(req); req.Header.Set("Origin", "null") }, http.StatusForbidden},
		"a name that is rebound": {func(req *http.Request) { c.change(req); req.Host = "evil.example:" + strings.Split(c.address, ":")[1] }, http.StatusForbidden},
		"another port":           {func(req *http.Request) { c.change(req); req.Host = "127.0.0.1:1" }, http.StatusForbidden},
	} {
		for path, method := range paths {
			status, header, text := caller{c.address, test.change}.ask(t, method, path, strings.NewReader(string(before)))
			if status != test.want {
				t.Errorf("%s: %s %s: %d, %s", says, method, path, status, text)
			} else if status == http.StatusUnauthorized && !strings.HasPrefix(header.Get("WWW-Authenticate"), "Basic ") {
				t.Errorf("%s: %s %s: no challenge: %v", says, method, path, header)
			}
		}
	}
	if after, err := os.ReadFile(r.indexFile()); err != nil || !bytes.Equal(after, index) {
		t.Errorf("the tags are others: %s (%v)", after, err)
	}
	c.upload(t, "a push still works")
}

// TestPaths: nothing that is asked for becomes a path of another file, also from who has the
// credentials.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	r := openRegistry(t, dir)
	c := owner(t, r)
	c.upload(t, "first")
	manifest := `{"schemaVersion":2,"mediaType":"` + string(types.OCIImageIndex) + `","manifests":[]}`
	for path, method := range map[string]string{
		"/v2/devloop/x/blobs/uploads/.":                          http.MethodPut,
		"/v2/devloop/x/blobs/uploads/..":                         http.MethodPatch,
		"/v2/devloop/x/blobs/uploads/..%2f..%2faddress":          http.MethodPatch,
		"/v2/devloop/x/blobs/uploads/ingest":                     http.MethodDelete,
		"/v2/devloop/x/blobs/sha256:..":                          http.MethodGet,
		"/v2/devloop/x/blobs/sha256:../../address":               http.MethodGet,
		"/v2/devloop/x/blobs/..":                                 http.MethodHead,
		"/v2/devloop/x/blobs/sha512:" + strings.Repeat("0", 128): http.MethodGet,
		"/v2/devloop/x/manifests/..":                             http.MethodPut,
		"/v2/devloop/x/manifests/a%2fb":                          http.MethodPut,
		"/v2/devloop/x/manifests/sha256:..":                      http.MethodPut,
		"/v2/devloop/../x/manifests/1":                           http.MethodPut,
		"/v2/devloop/a/../../x/manifests/1":                      http.MethodPut,
		"/v2/devloop/%2e%2e/x/manifests/1":                       http.MethodPut,
		"/v2/devloop/A/manifests/1":                              http.MethodPut,
		"/v2/other/x/manifests/1":                                http.MethodPut,
		"/v2/manifests/1":                                        http.MethodPut,
		"/v2//manifests/1":                                       http.MethodPut,
		"/v2/devloop/x/tags/list":                                http.MethodGet,
		"/v2/_catalog":                                           http.MethodGet,
		"/":                                                      http.MethodGet,
	} {
		if status, _, text := c.ask(t, method, path, strings.NewReader(manifest)); status < 400 || status == http.StatusInternalServerError {
			t.Errorf("%s %s: %d, %s", method, path, status, text)
		}
	}
	for _, method := range []string{http.MethodDelete, http.MethodPost, "TRACE"} {
		if status, _, _ := c.ask(t, method, "/v2/devloop/x/manifests/1", nil); status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, status)
		}
	}
	c.upload(t, "second")
	if tags := savedTags(t, dir); len(tags) != 0 {
		t.Error(tags)
	}
	if n := blobs(t, dir); n != 2 {
		t.Errorf("%d blobs, not 2", n)
	}
}

// TestManifests: what is no manifest of blobs that are here is not kept.
func TestManifests(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	c := owner(t, r)
	config := c.upload(t, "{}")
	manifest := func(size int, annotation string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":%d},"layers":[],"annotations":{"a":"%s"}}`,
			types.OCIManifestSchema1, types.OCIConfigJSON, config, size, annotation)
	}
	list := func(image digest.Digest) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"%s","size":2}]}`,
			types.OCIImageIndex, types.OCIManifestSchema1, image)
	}
	const path = "/v2/devloop/x/manifests/"
	for says, test := range map[string]struct {
		reference, body string
		want            int
	}{
		"one of 5 MiB":         {"1", manifest(2, strings.Repeat("x", 5<<20)), http.StatusRequestEntityTooLarge},
		"no manifest":          {"1", `{"schemaVersion":2}`, http.StatusBadRequest},
		"no JSON":              {"1", "x", http.StatusBadRequest},
		"of another digest":    {"sha256:" + strings.Repeat("0", 64), manifest(2, ""), http.StatusBadRequest},
		"of a blob not here":   {"1", strings.ReplaceAll(manifest(2, ""), config.String(), digest.FromString("x").String()), http.StatusNotFound},
		"of a wrong size":      {"1", manifest(3, ""), http.StatusNotFound},
		"a list of none here":  {"1", list(digest.FromString("x")), http.StatusNotFound},
		"a list of no images":  {"1", list(config), http.StatusBadRequest},
		"one that can be kept": {"1", manifest(2, ""), http.StatusCreated},
	} {
		if status, _, text := c.ask(t, http.MethodPut, path+test.reference, strings.NewReader(test.body)); status != test.want {
			t.Errorf("%s: %d, not %d: %s", says, status, test.want, text)
		}
	}
	if status, _, _ := c.ask(t, http.MethodHead, "/v2/devloop/x/blobs/"+config.String(), nil); status != http.StatusOK {
		t.Errorf("a blob that is whole: %d, after somebody named a wrong size", status)
	}
	r.mu.Lock()
	for i := range maxTags - len(r.tags) {
		r.tags["devloop/y:"+fmt.Sprint(i)] = v1.Descriptor{}
	}
	r.mu.Unlock()
	if status, _, text := c.ask(t, http.MethodPut, path+"2", strings.NewReader(manifest(2, ""))); status != http.StatusInsufficientStorage {
		t.Errorf("one too many: %d, %s", status, text)
	}
	if status, _, text := c.ask(t, http.MethodPut, path+"1", strings.NewReader(manifest(2, "again"))); status != http.StatusCreated {
		t.Errorf("one that takes another's place: %d, %s", status, text)
	}
}

// TestRanges asks for parts of a blob, as containerd and Docker do when a pull broke off.
func TestRanges(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	c := owner(t, r)
	whole := strings.Repeat("0123456789", 100)
	digest := c.upload(t, whole)
	for _, test := range []struct {
		ask, want string
		code      int
	}{{"", whole, http.StatusOK}, {"bytes=100-", whole[100:], http.StatusPartialContent}, {"bytes=0-9", whole[:10], http.StatusPartialContent}} {
		part := caller{c.address, func(req *http.Request) {
			c.change(req)
			if test.ask != "" {
				req.Header.Set("Range", test.ask)
			}
		}}
		status, header, text := part.ask(t, http.MethodGet, "/v2/devloop/any/blobs/"+digest.String(), nil)
		if status != test.code || string(text) != test.want || header.Get("Docker-Content-Digest") != digest.String() {
			t.Errorf("range %q: %d, %d bytes, %v", test.ask, status, len(text), header)
		}
	}
	if status, header, _ := c.ask(t, http.MethodHead, "/v2/devloop/any/blobs/"+digest.String(), nil); status != http.StatusOK || header.Get("Content-Length") != "1000" {
		t.Errorf("HEAD: %d, %v", status, header)
	}
	if status, _, _ := c.ask(t, http.MethodGet, "/v2/devloop/any/blobs/sha256:"+strings.Repeat("0", 64), nil); status != http.StatusNotFound {
		t.Errorf("a blob that is not there: %d", status)
	}
}

// TestList pushes a list of images, as Docker does with a base image for several platforms: whatever a runtime calls one of them is right.
func TestList(t *testing.T) {
	index, err := random.Index(1000, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	r := openRegistry(t, t.TempDir())
	tag := newTag(t, "base:1")
	id, err := r.receive(t.Context(), built{tag: index}, tag)
	if err != nil {
		t.Fatal(err)
	}
	own, err := index.Digest()
	if err != nil || id.ids[0] != own.String() {
		t.Errorf("%v, not %s first (%v)", id.ids, own, err)
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
			t.Errorf("%v is not %s, %s (%v)", id.ids, child.Digest, config, err)
		}
	}
	if len(id.ids) != 5 || id.is("") {
		t.Error(id.ids)
	}
	if _, err := id.single(); err == nil {
		t.Error("one of two images was chosen")
	}
	if err := r.Prune(newTag(t, "other:1")); err != nil || !r.Has(tag) {
		t.Errorf("after the end of another image it is there: %t (%v)", r.Has(tag), err)
	}
	if err := r.Prune(tag); err != nil || blobs(t, r.dir) != 0 {
		t.Errorf("%d blobs are left of what is gone (%v)", blobs(t, r.dir), err)
	}
	if tags := savedTags(t, r.dir); len(tags) != 0 {
		t.Errorf("%v are left of what is gone", tags)
	}
}

// TestRegistry pushes with go-containerregistry's client, as Docker does, and lets go of an image.
func TestRegistry(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenRegistry(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	base := newImage(t, 1000, 2)
	changed := addLayer(t, base, 1000)
	push(t, r, "team/worker:1", base)
	second := push(t, r, "team/worker:2", changed)

	id, err := r.find(second)
	if err != nil {
		t.Fatal(err)
	}
	manifest := digestOf(t, changed)
	config := configOf(t, changed)
	if id.digest != manifest || id.ids[0] != manifest.String() || !id.is(config.String()) || id.is("sha256:0") || id.is("") {
		t.Errorf("identity %+v of manifest %s, config %s", id, manifest, config)
	}
	if got := blobs(t, dir); got != 7 { // two base layers, one more, two configurations, two manifests
		t.Errorf("%d blobs, not 7", got)
	}
	address := r.address
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.listen(t.Context()); err == nil {
		t.Error("it listens after Close")
	}

	r = openRegistry(t, dir) // as the next devloop does
	if again := owner(t, r).address; again != address {
		t.Errorf("another address than last time: %s, %s", again, address)
	}
	if err := r.Prune(second); err != nil {
		t.Fatal(err)
	}
	if got := blobs(t, dir); got != 4 { // those of team/worker:1
		t.Errorf("%d blobs after Prune, not 4", got)
	}
}

// TestListensLate: the registry listens when the first image is pushed, not before, and for good,
// whatever becomes of that push.
func TestListensLate(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	if r.server != nil {
		t.Error("it listens before the first push")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	first, err := r.listen(ctx) // a push that was given up
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			if again, err := r.listen(t.Context()); err != nil || again != first {
				t.Errorf("%s, not %s (%v)", again, first, err)
			}
		})
	}
}

// TestAddress: only a port on loopback is taken again, whatever the file says.
func TestAddress(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "address"), []byte("0.0.0.0:0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if address := owner(t, openRegistry(t, dir)).address; !strings.HasPrefix(address, "127.0.0.1:") {
		t.Error(address)
	}
}

// TestRecall closes the registry and opens it again: what it held is there, and what has lost a
// part is not.
func TestRecall(t *testing.T) {
	for says, spoil := range map[string]func(file string) error{
		"removed": os.Remove,
		"cut off": func(file string) error { return errors.Join(os.Chmod(file, 0o600), os.Truncate(file, 10)) },
	} {
		t.Run(says, func(t *testing.T) {
			dir := t.TempDir()
			base := newImage(t, 1000, 2)
			r, err := OpenRegistry(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			tornImage := addLayer(t, base, 1000)
			whole, torn := push(t, r, "team/worker:1", base), push(t, r, "team/worker:2", tornImage)
			unnamed := owner(t, r).upload(t, "of a push that did not come to its end")
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			digest := digestOf(t, layersOf(t, tornImage)[2])
			if err := spoil(filepath.Join(dir, "blobs", "sha256", digest.Hex)); err != nil {
				t.Fatal(err)
			}
			r = openRegistry(t, dir)
			if !r.Has(whole) || r.Has(torn) {
				t.Errorf("whole: %t, torn: %t", r.Has(whole), r.Has(torn))
			}
			c := owner(t, r)
			if status, _, _ := c.ask(t, http.MethodHead, "/v2/"+repository(whole)+"/manifests/1", nil); status != http.StatusOK {
				t.Error(status)
			}
			for _, gone := range []string{digest.String(), unnamed.String()} {
				if status, _, _ := c.ask(t, http.MethodHead, "/v2/devloop/x/blobs/"+gone, nil); status != http.StatusNotFound {
					t.Errorf("%s: %d", gone, status)
				}
			}
			if _, err := r.receive(t.Context(), Built{}, torn); err == nil {
				t.Error("an image that has lost a layer was taken")
			}
			if tags := savedTags(t, dir); len(tags) != 1 || !strings.HasSuffix(tags[0], ":1") {
				t.Error(tags)
			}
			push(t, r, "team/worker:2", tornImage) // it is brought anew
		})
	}
}

// TestTorn: a blob that is cut off while devloop runs is not part of an image any more.
func TestTorn(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	image := newImage(t, 1000, 1)
	tag := push(t, r, "worker:1", image)
	digest := digestOf(t, layersOf(t, image)[0])
	file := filepath.Join(r.dir, "blobs", "sha256", digest.Hex)
	if err := errors.Join(os.Chmod(file, 0o600), os.Truncate(file, 10)); err != nil {
		t.Fatal(err)
	}
	if r.Has(tag) {
		t.Error("it has the image")
	}
	push(t, r, "worker:1", image)
	if !r.Has(tag) {
		t.Error("it has not the image")
	}
}

// TestPermissions: nobody else reads the images, also not those of a folder of an earlier version.
func TestPermissions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "registry")
	if err := os.MkdirAll(filepath.Join(dir, "manifests"), 0o755); err != nil {
		t.Fatal(err)
	}
	openRegistry(t, dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v (%v)", info.Mode(), err)
	}
}

// swapped pushes an image, beside which somebody else pushes another one.
type swapped struct{ mine, other built }

func (s swapped) Push(ctx context.Context, r *Registry, tag name.Tag) (string, error) {
	digest, err := s.mine.Push(ctx, r, tag)
	if err == nil {
		_, err = s.other.Push(ctx, r, tag)
	}
	return digest, err
}

// TestSwapped: what counts is what who pushed says, and not what the registry has by then.
func TestSwapped(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	tag := newTag(t, "worker:1")
	mine := newImage(t, 1000, 1)
	other := addLayer(t, mine, 1000)
	_, err := r.receive(t.Context(), swapped{built{tag: mine}, built{tag: other}}, tag)
	for _, image := range []v1.Image{mine, other} {
		digest, digestErr := image.Digest()
		if digestErr != nil || err == nil || !strings.Contains(err.Error(), digest.String()) {
			t.Errorf("%v does not name %s", err, digest)
		}
	}
	if err == nil || event.Hint(err) == "" || r.Has(tag) {
		t.Errorf("%v: the other image is kept: %t", err, r.Has(tag))
	}
}

// TestForNode: a node reads the image that it is to pull, as it was when the pull began, and
// nothing else.
func TestForNode(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	image := newImage(t, 1000, 2)
	secret := newImage(t, 1000, 1)
	tag, other := newTag(t, "worker:1"), push(t, r, "secret:1", secret)
	id, err := r.receive(t.Context(), built{tag: attested(t, image)}, tag)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	var sent atomic.Int64
	server := startServer(listener, &sent, r.forNode(address, tag, id))
	defer func() {
		if err := server.close(); err != nil {
			t.Error(err)
		}
	}()
	push(t, r, "worker:1", secret) // beside the pull

	ref, err := name.NewTag(at(address, tag))
	if err != nil {
		t.Fatal(err)
	}
	found, err := remote.Get(ref)
	if err != nil || found.Digest != id.digest {
		t.Fatalf("%v, not %s (%v)", found, id.digest, err)
	}
	pulled, err := found.Image()
	if err != nil {
		t.Fatal(err)
	}
	layers := layersOf(t, pulled)
	for _, layer := range layers {
		reader, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, reader); err != nil {
			t.Error(err)
		}
		_ = reader.Close()
	}
	if sent.Load() < 2000 {
		t.Errorf("%d bytes were sent", sent.Load())
	}

	secretDigest := digestOf(t, secret)
	secretLayer := digestOf(t, layersOf(t, secret)[0])
	anyone := caller{address: address}
	for path, want := range map[string]int{
		"/v2/": http.StatusOK,
		"/v2/" + repository(tag) + "/manifests/1":                          http.StatusOK,
		"/v2/" + repository(tag) + "/manifests/2":                          http.StatusNotFound,
		"/v2/" + repository(tag) + "/manifests/" + secretDigest.String():   http.StatusNotFound,
		"/v2/" + repository(other) + "/manifests/1":                        http.StatusNotFound,
		"/v2/" + repository(other) + "/manifests/" + secretDigest.String(): http.StatusNotFound,
		"/v2/" + repository(other) + "/blobs/" + secretLayer.String():      http.StatusNotFound,
		"/v2/" + repository(tag) + "/blobs/" + secretLayer.String():        http.StatusNotFound,
		"/v2/" + repository(tag) + "/blobs/uploads/":                       http.StatusNotFound,
		"/v2/_catalog": http.StatusNotFound,
	} {
		if status, _, _ := anyone.ask(t, http.MethodGet, path, nil); status != want {
			t.Errorf("%s: %d, not %d", path, status, want)
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		c := caller{address, func(req *http.Request) { req.SetBasicAuth(username, r.password) }}
		if status, _, _ := c.ask(t, method, "/v2/"+repository(tag)+"/manifests/1", strings.NewReader("{}")); status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, status)
		}
	}
	rebound := caller{address, func(req *http.Request) { req.Host = "evil.example" }}
	if status, _, _ := rebound.ask(t, http.MethodGet, "/v2/", nil); status != http.StatusForbidden {
		t.Errorf("another host: %d", status)
	}
}

// TestBuiltIntoTheStore writes blobs right into the store, as BuildKit does, and names what
// BuildKit says that it built.
func TestBuiltIntoTheStore(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	image := newImage(t, 1000, 2)
	index := attested(t, image)
	write := func(blob []byte) digest.Digest {
		t.Helper()
		d := digest.FromBytes(blob)
		err := content.WriteBlob(t.Context(), r.Content(), d.String(), bytes.NewReader(blob), ocispecs.Descriptor{Digest: d, Size: int64(len(blob))})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range list.Manifests {
		image, err := index.Image(child.Digest)
		if err != nil {
			t.Fatal(err)
		}
		layers := layersOf(t, image)
		for _, layer := range layers {
			reader, err := layer.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			blob, err := io.ReadAll(reader)
			if err != nil {
				t.Fatal(err)
			}
			write(blob)
		}
		config, configErr := image.RawConfigFile()
		manifest, manifestErr := image.RawManifest()
		if err := errors.Join(configErr, manifestErr); err != nil {
			t.Fatal(err)
		}
		write(config)
		write(manifest)
	}
	raw, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	built := write(raw)
	tag := newTag(t, "worker:1")
	if err := r.Name("sha256:"+strings.Repeat("0", 64), tag); err == nil {
		t.Error("what is not there got a name")
	}
	if err := r.Name(built.String(), tag); err != nil {
		t.Fatal(err)
	}
	id, err := r.receive(t.Context(), Built{}, tag)
	if err != nil || id.ids[0] != built.String() {
		t.Errorf("%v, not %s (%v)", id, built, err)
	}
	if r.server != nil {
		t.Error("it listens, and nobody pushes")
	}
	file := filepath.Join(r.dir, "blobs", "sha256", built.Encoded())
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, []byte(strings.Replace(string(raw), "unknown", "unKnown", 1)), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := r.Name(built.String(), tag); err == nil {
		t.Error("a manifest got a name that is not what its digest says")
	}
}

// TestDockerPush has a daemon push, which a server in front of the registry stands for, and tells
// what it pushed by what it says.
func TestDockerPush(t *testing.T) {
	image := newImage(t, 1000, 1)
	digest := digestOf(t, image)
	line := `{"status":"1: digest: ` + digest.String() + ` size: 500"}`
	for says, test := range map[string]struct {
		answer string
		err    string // a part of it, "" for none
	}{
		"the classic store":    {line + `{"progressDetail":{},"aux":{"Tag":"1","Digest":"` + digest.String() + `","Size":500}}`, ""},
		"the containerd store": {`{"status":"Pushed","id":"x"}{"aux":{"ManifestPushedInsteadOfIndex":true}}` + line, ""},
		"another one":          {strings.ReplaceAll(line, digest.Hex, strings.Repeat("0", 64)), "which now has " + digest.String()},
		"it does not say":      {`{"status":"Pushed"}`, "does not say what it pushed"},
		"it failed":            {`{"errorDetail":{"message":"no basic auth credentials"},"error":"no basic auth credentials"}`, "no basic auth credentials"},
	} {
		r := openRegistry(t, t.TempDir())
		tag := newTag(t, "worker:1")
		given := ""
		daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case strings.HasSuffix(req.URL.Path, "/_ping"):
				w.Header().Set("Api-Version", "1.44")
			case strings.HasSuffix(req.URL.Path, "/tag"):
				w.WriteHeader(http.StatusCreated)
			case strings.HasSuffix(req.URL.Path, "/push"):
				if _, err := (built{tag: image}).Push(req.Context(), r, tag); err != nil {
					t.Error(err)
				}
				given = req.Header.Get("X-Registry-Auth")
				_, _ = io.WriteString(w, test.answer)
			default:
				_, _ = io.WriteString(w, "[]")
			}
		}))
		docker, err := client.New(client.WithHost("tcp://" + daemon.Listener.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		id, err := r.receive(t.Context(), Docker{docker}, tag)
		switch {
		case test.err == "" && (err != nil || id.ids[0] != digest.String()):
			t.Errorf("%s: %v, %v", says, id, err)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: the error is %v, not %q", says, err, test.err)
		}
		checkCredentials(t, r, given)
		_ = docker.Close()
		daemon.Close()
	}
}

// checkCredentials uses what Docker was given, as its containerd store does: only for the server
// that it names.
func checkCredentials(t *testing.T, r *Registry, header string) {
	t.Helper()
	decoded, err := base64.URLEncoding.DecodeString(header)
	var auth struct{ Username, Password, ServerAddress string }
	if err := errors.Join(err, json.Unmarshal(decoded, &auth)); err != nil {
		t.Error(err)
	}
	c := caller{r.address, func(req *http.Request) { req.SetBasicAuth(auth.Username, auth.Password) }}
	if status, _, text := c.ask(t, http.MethodGet, "/v2/", nil); status != http.StatusOK || auth.ServerAddress != r.address {
		t.Errorf("%d, %s, for %s", status, text, auth.ServerAddress)
	}
}
