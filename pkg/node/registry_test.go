package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	containerdlog "github.com/containerd/log"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
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
