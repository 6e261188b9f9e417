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
	goleak.VerifyTestMain(m, // idle connections of clients may stay
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// blobs counts the files of blobs and uploads in a registry's folder.
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

// TestList pushes a list of images, as Docker does with a multi-platform base image: a runtime may
// report the ID of any of them.
func TestList(t *testing.T) {
	index, err := random.Index(1000, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	r := openRegistry(t, t.TempDir())
	tag := newTag(t, "base:1")
	stored, err := r.receive(t.Context(), built{tag: index}, tag)
	if err != nil {
		t.Fatal(err)
	}
	if digest := digestOf(t, index).String(); stored.ids[0] != digest {
		t.Errorf("%v, not %s first", stored.ids, digest)
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
		if config := configOf(t, image); !stored.is(config.String()) || !stored.is(child.Digest.String()) {
			t.Errorf("%v is not %s, %s", stored.ids, child.Digest, config)
		}
	}
	if len(stored.ids) != 5 || stored.is("") {
		t.Error(stored.ids)
	}
	if _, err := stored.single(); err == nil {
		t.Error("one of two images was chosen")
	}
	if err := r.Prune(newTag(t, "other:1")); err != nil || !r.Has(tag) {
		t.Errorf("after another image was pruned: %t (%v)", r.Has(tag), err)
	}
	if err := r.Prune(tag); err != nil || blobs(t, r.dir) != 0 {
		t.Errorf("%d blobs are left (%v)", blobs(t, r.dir), err)
	}
	if tags := savedTags(t, r.dir); len(tags) != 0 {
		t.Errorf("%v are left", tags)
	}
}

// TestRegistry pushes with go-containerregistry's client, as Docker does, and prunes an image.
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

	stored, err := r.find(second)
	if err != nil {
		t.Fatal(err)
	}
	manifest, config := digestOf(t, changed), configOf(t, changed)
	if stored.digest != manifest || stored.ids[0] != manifest.String() || !stored.is(config.String()) ||
		stored.is("sha256:0") || stored.is("") {
		t.Errorf("%v of manifest %s, configuration %s", stored.ids, manifest, config)
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

	r = openRegistry(t, dir) // the next devloop
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

// TestListensLate: the registry listens from the first push on, even if that is cancelled.
func TestListensLate(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	if r.stop != nil {
		t.Error("it listens before the first push")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	first, err := r.listen(ctx) // a push that was cancelled
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

// TestAddress: whatever the file says, the registry listens on loopback.
func TestAddress(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "address"), []byte("0.0.0.0:0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if address := owner(t, openRegistry(t, dir)).address; !strings.HasPrefix(address, "127.0.0.1:") {
		t.Error(address)
	}
}

// TestReopen closes the registry and opens it again: complete images are there, others are not.
func TestReopen(t *testing.T) {
	for name, spoil := range map[string]func(file string) error{
		"removed":   os.Remove,
		"truncated": func(file string) error { return errors.Join(os.Chmod(file, 0o600), os.Truncate(file, 10)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			base := newImage(t, 1000, 2)
			r, err := OpenRegistry(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			damagedImage := addLayer(t, base, 1000)
			complete, damaged := push(t, r, "team/worker:1", base), push(t, r, "team/worker:2", damagedImage)
			unused := owner(t, r).upload(t, "of an incomplete push")
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			digest := digestOf(t, layersOf(t, damagedImage)[2])
			if err := spoil(filepath.Join(dir, "blobs", "sha256", digest.Hex)); err != nil {
				t.Fatal(err)
			}
			r = openRegistry(t, dir)
			if !r.Has(complete) || r.Has(damaged) {
				t.Errorf("complete: %t, damaged: %t", r.Has(complete), r.Has(damaged))
			}
			c := owner(t, r)
			c.expect(t, http.StatusOK, http.MethodHead, imagesPath+"manifests/"+ownTag(complete), "")
			for _, gone := range []string{digest.String(), unused.String()} {
				c.expect(t, http.StatusNotFound, http.MethodHead, imagesPath+"blobs/"+gone, "")
			}
			if _, err := r.receive(t.Context(), BuiltSource{}, damaged); err == nil {
				t.Error("an image without one of its layers was received")
			}
			if tags := savedTags(t, dir); len(tags) != 1 || tags[0] != ownTag(complete) {
				t.Error(tags)
			}
			push(t, r, "team/worker:2", damagedImage) // again
		})
	}
}

// TestTruncated: a blob that is truncated while devloop runs is pushed again.
func TestTruncated(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	image := newImage(t, 1000, 1)
	tag := push(t, r, "worker:1", image)
	digest := digestOf(t, layersOf(t, image)[0])
	file := filepath.Join(r.dir, "blobs", "sha256", digest.Hex)
	if err := errors.Join(os.Chmod(file, 0o600), os.Truncate(file, 10)); err != nil {
		t.Fatal(err)
	}
	if r.Has(tag) {
		t.Error("the registry has the image")
	}
	push(t, r, "worker:1", image)
	if !r.Has(tag) {
		t.Error("the registry does not have the image")
	}
}

// TestPermissions: other users cannot read the images, even in a folder of an earlier version.
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
