package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/sys/atomicwriter"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

const (
	// maxManifest limits a manifest, in bytes, as other registries do (the OCI distribution
	// specification asks for at least 4 MiB).
	maxManifest = 4 << 20
	// maxTags limits the tags in the registry. devloop keeps a few per image.
	maxTags = 1000
	// maxAddress limits the file with the registry's address, in bytes.
	maxAddress = 64
	// username goes with the registry's password, which is a new one in each process.
	username = "devloop"
	// repository is the one of devloop's registry. All images are in it: Docker compresses and sends a
	// layer once for all pushes to a repository, and again for each other repository.
	repository = "devloop/images"
)

// Registry is devloop's own image registry, from which the nodes pull what was built on the host.
// It is an OCI image layout on disk, served on loopback from the first push on. It is safe for
// concurrent use.
type Registry struct {
	dir      string
	blobs    content.Store // layers, configurations and manifests
	uploads  *uploads
	password string

	mu   sync.Mutex
	tags map[string]v1.Descriptor // by ownTag; index.json is their copy on disk

	serverMu sync.Mutex
	stop     func() error // of the server, nil until the first push
	address  string       // 127.0.0.1:port of the server
	closed   bool
}

// OpenRegistry opens the registry in dir, which no other process may use at the same time. Images
// that have lost a part, and blobs that no image uses, are removed. The caller closes it.
func OpenRegistry(ctx context.Context, dir string) (*Registry, error) {
	r := &Registry{dir: dir, password: rand.Text(), tags: map[string]v1.Descriptor{}}
	if err := r.open(ctx); err != nil {
		return nil, fmt.Errorf("image registry in %s: %w", dir, err)
	}
	return r, nil
}

func (r *Registry) open(ctx context.Context) (err error) {
	err = errors.Join(os.MkdirAll(filepath.Join(r.dir, ocispecs.ImageBlobsDir, "sha256"), 0o700),
		os.Chmod(r.dir, 0o700)) // earlier versions let others read it
	// Uploads of an earlier process, and files of earlier versions.
	for _, stale := range []string{"ingest", "manifests", "blobs/uploads"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(r.dir, stale)))
	}
	if err != nil {
		return err
	}
	if r.blobs, err = contentlocal.NewStore(r.dir); err != nil {
		return err
	}
	r.uploads = newUploads(context.WithoutCancel(ctx), r.blobs)
	var index v1.IndexManifest
	if raw, err := files.Read(r.indexFile(), maxManifest); err == nil {
		_ = json.Unmarshal(raw, &index) // without an index, images are pushed again
	}
	for _, image := range index.Manifests {
		r.tags[image.Annotations[ocispecs.AnnotationRefName]] = image
	}
	return r.sweep()
}

func (r *Registry) indexFile() string { return filepath.Join(r.dir, ocispecs.ImageIndexFile) }

// saveTags writes index.json. The caller holds mu.
func (r *Registry) saveTags() error {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	for _, tag := range slices.Sorted(maps.Keys(r.tags)) {
		index.Manifests = append(index.Manifests, r.tags[tag])
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return atomicwriter.WriteFile(r.indexFile(), raw, 0o600)
}

// sweep removes the tags of images that have lost a part, and the blobs that no image uses.
func (r *Registry) sweep() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	used := map[string]bool{}
	for tag, tagged := range r.tags {
		image, err := r.image(tagged.Digest)
		if err != nil {
			delete(r.tags, tag)
			continue
		}
		for digest := range image.manifests {
			used[digest.Hex] = true
		}
		for digest := range image.blobs {
			used[digest.Hex] = true
		}
	}
	folder := filepath.Join(r.dir, ocispecs.ImageBlobsDir, "sha256")
	blobs, err := os.ReadDir(folder)
	err = errors.Join(r.saveTags(), err)
	for _, blob := range blobs {
		if !used[blob.Name()] {
			err = errors.Join(err, os.Remove(filepath.Join(folder, blob.Name())))
		}
	}
	return err
}

// manifest is that of an image, or of a list of images.
type manifest struct {
	MediaType types.MediaType `json:"mediaType"` // clients may leave it out, parseManifest sets it
	Config    *v1.Descriptor  `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Manifests []v1.Descriptor `json:"manifests"`

	raw []byte
}

func parseManifest(raw []byte) (manifest, error) {
	m := manifest{raw: raw}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, err
	}
	switch {
	case m.MediaType == "" && m.Manifests != nil:
		m.MediaType = types.OCIImageIndex
	case m.MediaType == "" && m.Config != nil:
		m.MediaType = types.OCIManifestSchema1
	case m.MediaType.IsImage() && m.Config != nil, m.MediaType.IsIndex():
	default:
		return m, errors.New("neither an image nor a list of images")
	}
	return m, nil
}

// isAttestation reports whether a manifest in a list describes how another one was built, as
// BuildKit marks it.
func isAttestation(m v1.Descriptor) bool { return m.Platform != nil && m.Platform.OS == "unknown" }

// storedImage is an image, or a list of images, all parts of which are in the registry.
type storedImage struct {
	digest    v1.Hash
	manifests map[v1.Hash]manifest
	blobs     map[v1.Hash]bool
	images    []v1.Hash // manifests of the images themselves, without lists and attestations
	// ids are what a runtime may call it: Docker's classic store and CRI-O use the digest of its
	// configuration, the others that of its manifest, or of the list that it was pushed as. The
	// last one comes first.
	ids []string
}

func (i *storedImage) is(id string) bool { return slices.Contains(i.ids, id) }

// single returns the digest of the manifest, which may be the only one in a list.
func (i *storedImage) single() (v1.Hash, error) {
	if len(i.images) != 1 {
		return v1.Hash{}, fmt.Errorf("image registry: %s is a list of %d images, not an image", i.digest, len(i.images))
	}
	return i.images[0], nil
}

// image reads the image with a digest. It is an error if any part is missing or incomplete.
func (r *Registry) image(digest v1.Hash) (*storedImage, error) {
	raw, err := r.readBlob(digest)
	if err != nil {
		return nil, err
	}
	return r.parse(digest, raw)
}

// parse does the same for a manifest that is not in the registry yet.
func (r *Registry) parse(digest v1.Hash, raw []byte) (*storedImage, error) {
	image := &storedImage{digest: digest, manifests: map[v1.Hash]manifest{}, blobs: map[v1.Hash]bool{}}
	return image, r.collect(image, digest, raw, false)
}

// collect adds a manifest and everything it names to image. No runtime reports the ID of an
// attestation.
func (r *Registry) collect(image *storedImage, digest v1.Hash, raw []byte, attestation bool) error {
	m, err := parseManifest(raw)
	if err != nil {
		return err
	}
	image.manifests[digest] = m
	if !attestation {
		image.ids = append(image.ids, digest.String())
	}
	if m.MediaType.IsIndex() {
		for _, child := range m.Manifests {
			raw, err := r.readBlob(child.Digest)
			if err == nil {
				err = r.collect(image, child.Digest, raw, isAttestation(child))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if !attestation {
		image.images = append(image.images, digest)
		image.ids = append(image.ids, m.Config.Digest.String())
	}
	for _, blob := range append(m.Layers, *m.Config) {
		if !blob.MediaType.IsDistributable() { // kept elsewhere
			continue
		}
		if err := r.checkSize(blob); err != nil {
			return err
		}
		image.blobs[blob.Digest] = true
	}
	return nil
}

// blobFile is where the content store keeps a blob (OCI image layout).
func (r *Registry) blobFile(digest v1.Hash) string {
	return filepath.Join(r.dir, ocispecs.ImageBlobsDir, digest.Algorithm, digest.Hex)
}

// readBlob reads a manifest or a configuration, and verifies its digest.
func (r *Registry) readBlob(digest v1.Hash) ([]byte, error) {
	raw, err := files.Read(r.blobFile(digest), maxManifest)
	if err != nil {
		return nil, err
	}
	actual, _, err := v1.SHA256(bytes.NewReader(raw))
	if err == nil && actual != digest {
		err = fmt.Errorf("the content of blob %s is %s", digest, actual)
	}
	return raw, err
}

// checkSize makes sure that a blob is there and has its full size. A truncated one is removed, so
// that it is pushed again.
func (r *Registry) checkSize(blob v1.Descriptor) error {
	file := r.blobFile(blob.Digest)
	info, err := os.Stat(file)
	if err != nil || info.Size() == blob.Size {
		return err
	}
	err = fmt.Errorf("blob %s has %d bytes of %d: %w", blob.Digest, info.Size(), blob.Size, errdefs.ErrNotFound)
	content, openErr := os.Open(file)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	defer func() { _ = content.Close() }()
	if actual, _, readErr := v1.SHA256(content); readErr == nil && actual == blob.Digest { // the size is wrong
		return err
	}
	return errors.Join(err, os.Remove(file))
}

// put stores a manifest whose parts are here, and gives it a tag, unless that is "".
func (r *Registry) put(tag string, digest v1.Hash, raw []byte) error {
	image, err := r.parse(digest, raw)
	if err != nil {
		return err
	}
	if err := atomicwriter.WriteFile(r.blobFile(digest), raw, 0o600); err != nil || tag == "" {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.tags[tag]; !known && len(r.tags) >= maxTags {
		return errFull
	}
	r.tags[tag] = v1.Descriptor{MediaType: image.manifests[digest].MediaType, Digest: digest, Size: int64(len(raw)),
		Annotations: map[string]string{ocispecs.AnnotationRefName: tag}}
	return r.saveTags()
}

// errFull means that the registry has maxTags tags.
var errFull = fmt.Errorf("the registry keeps no more than %d tags", maxTags)

// resolve returns the digest of a tag. It is fs.ErrNotExist if there is none.
func (r *Registry) resolve(tag string) (v1.Hash, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	tagged, ok := r.tags[tag]
	if !ok {
		return v1.Hash{}, fmt.Errorf("there is no tag %s: %w", tag, fs.ErrNotExist)
	}
	return tagged.Digest, nil
}

// find returns the image with a tag.
func (r *Registry) find(tag name.Tag) (*storedImage, error) {
	digest, err := r.resolve(ownTag(tag))
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	image, err := r.image(digest)
	if err != nil {
		return nil, fmt.Errorf("image registry: %s: %w", digest, err)
	}
	return image, nil
}

// receive has source push the image, and makes sure that the registry has what was pushed.
func (r *Registry) receive(ctx context.Context, source Source, tag name.Tag) (*storedImage, error) {
	pushed, err := source.Push(ctx, r, tag)
	if err != nil {
		return nil, fmt.Errorf("push image %s to devloop's registry: %w", tag, err)
	}
	image, err := r.find(tag)
	if err != nil {
		return nil, err
	}
	if image.digest.String() != pushed {
		err := fmt.Errorf("image %s: %s was pushed to devloop's registry, which now has %s under its name",
			tag, pushed, image.digest)
		return nil, event.WithHint(errors.Join(err, r.Untag(tag)), "save again to push the image again")
	}
	return image, nil
}

// reader returns an image for go-containerregistry, which reads it from the disk as needed.
func (r *Registry) reader(image *storedImage) (v1.Image, error) {
	manifest, err := image.single()
	if err != nil {
		return nil, err
	}
	index, err := layout.ImageIndexFromPath(r.dir)
	if err == nil && manifest != image.digest {
		index, err = index.ImageIndex(image.digest)
	}
	if err != nil {
		return nil, err
	}
	return index.Image(manifest)
}

// IDs returns what a runtime may call the image with a tag, nil if the registry does not have all
// of it. The first is the digest of what was pushed.
func (r *Registry) IDs(tag name.Tag) []string {
	image, err := r.find(tag)
	if err != nil {
		return nil
	}
	return image.ids
}

// Has reports whether the registry has all of an image.
func (r *Registry) Has(tag name.Tag) bool { return r.IDs(tag) != nil }

// Content is the store into which BuildKit writes blobs and manifests. Tag gives them a tag.
func (r *Registry) Content() content.Store { return r.blobs }

// Tag tags the manifest with a digest, which is in Content.
func (r *Registry) Tag(digest string, tag name.Tag) error {
	hash, err := v1.NewHash(digest)
	var raw []byte
	if err == nil {
		raw, err = r.readBlob(hash)
	}
	if err == nil {
		err = r.put(ownTag(tag), hash, raw)
	}
	if err != nil {
		return event.Transient(fmt.Errorf("image registry: %w", err)) // truncated blobs were removed
	}
	return nil
}

// Untag removes a tag. The next Prune removes what no other image uses.
func (r *Registry) Untag(tag name.Tag) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := ownTag(tag)
	if _, known := r.tags[own]; !known {
		return nil
	}
	delete(r.tags, own)
	if err := r.saveTags(); err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	return nil
}

// Prune removes an image and every blob that no other image uses. It must not run during a push.
func (r *Registry) Prune(tag name.Tag) error {
	if err := r.Untag(tag); err != nil {
		return err
	}
	if err := r.sweep(); err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	return nil
}

// ownTag is the image's tag in devloop's registry: a hash, since a full name may be too long.
func ownTag(tag name.Tag) string { return digest.FromString(tag.Name()).Encoded() }

// at is the image's name in devloop's registry, which answers at address.
func at(address string, tag name.Tag) string {
	return address + "/" + repository + ":" + ownTag(tag)
}

// listen starts serving on loopback, if it has not yet, and returns the address.
func (r *Registry) listen(ctx context.Context) (string, error) {
	r.serverMu.Lock()
	defer r.serverMu.Unlock()
	if r.closed {
		return "", errors.New("image registry: it is closed")
	}
	if r.stop != nil {
		return r.address, nil
	}
	// Not under ctx: other pushes use it, too.
	listener, err := listenAgain(context.WithoutCancel(ctx), filepath.Join(r.dir, "address"))
	if err != nil {
		return "", fmt.Errorf("image registry: %w", err)
	}
	r.address = listener.Addr().String()
	r.stop = serve(listener, new(atomic.Int64), r.guard(r.address, r.forPushes()))
	return r.address, nil
}

// listenAgain binds the same port as last time if it is free: Docker remembers by a registry's
// address which layers it has.
func listenAgain(ctx context.Context, file string) (net.Listener, error) {
	var listen net.ListenConfig
	if last, err := files.Read(file, maxAddress); err == nil {
		if address, err := netip.ParseAddrPort(string(last)); err == nil && address.Addr().IsLoopback() {
			if listener, err := listen.Listen(ctx, "tcp", address.String()); err == nil {
				return listener, nil
			}
		}
	}
	listener, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if err := atomicwriter.WriteFile(file, []byte(listener.Addr().String()), 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// Close stops serving at once.
func (r *Registry) Close() error {
	r.serverMu.Lock()
	defer r.serverMu.Unlock()
	r.closed = true
	if r.stop == nil {
		return nil
	}
	return r.stop()
}
