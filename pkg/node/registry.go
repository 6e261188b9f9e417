package node

// devloop's own registry: images that were built on the host wait here until nodes have pulled the
// layers that they lack. Its folder is an OCI layout: blobs are in containerd's content store, and
// a manifest is a file for each of its references. serve.go is what speaks HTTP, uploads.go how
// blobs arrive.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/sys/atomicwriter"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

const (
	// maxManifest is the most bytes of a manifest, as in other registries (the OCI distribution
	// specification asks for 4 MiB at least).
	maxManifest = 4 << 20
	// maxManifests is how many the registry keeps. devloop keeps a few for each image.
	maxManifests = 1000
	// maxAddress is the size of the file that names a loopback address and a port, in bytes.
	maxAddress = 64
	// username is what the registry's credentials are for; the password is another one in each
	// process.
	username = "devloop"
)

// Registry is a small image registry. It listens, on loopback, from when the first image is pushed.
// Close ends it. It is safe for concurrent use.
type Registry struct {
	dir      string
	blobs    content.Store
	uploads  *uploads
	password string

	mu        sync.Mutex
	manifests map[manifestKey]manifest

	serverMu sync.Mutex
	server   *server // nil until the first push
	address  string  // 127.0.0.1:port of server
	closed   bool
}

// manifestKey is what a manifest is asked for by.
type manifestKey struct{ repository, reference string } // the reference is a tag or a digest

// manifest is one that the registry keeps. Its content is in a file.
type manifest struct {
	digest    v1.Hash
	mediaType types.MediaType
}

// OpenRegistry opens the images kept in dir, which no other process may use meanwhile; ctx is for
// the opening alone. What is no longer whole, and what no image uses, is removed.
func OpenRegistry(ctx context.Context, dir string) (*Registry, error) {
	r := &Registry{dir: dir, password: rand.Text(), manifests: map[manifestKey]manifest{}}
	if err := r.open(ctx); err != nil {
		return nil, fmt.Errorf("image registry in %s: %w", dir, err)
	}
	return r, nil
}

func (r *Registry) open(ctx context.Context) (err error) {
	if err := os.MkdirAll(filepath.Join(r.dir, "manifests"), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(r.dir, 0o700); err != nil { // earlier versions let others read it
		return err
	}
	// What was on its way when an earlier process ended; "uploads" is an earlier version's.
	err = errors.Join(os.RemoveAll(filepath.Join(r.dir, "ingest")),
		os.RemoveAll(filepath.Join(r.dir, "blobs", "uploads")))
	if err != nil {
		return err
	}
	if r.blobs, err = contentlocal.NewStore(r.dir); err != nil {
		return err
	}
	r.uploads = newUploads(context.WithoutCancel(ctx), r.blobs)
	if err := r.recall(ctx); err != nil {
		return err
	}
	return r.sweep()
}

// recall reads the manifests of an earlier process. One that is not whole is removed.
func (r *Registry) recall(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(r.dir, "manifests"))
	if err != nil {
		return err
	}
	lists := map[manifestKey][]byte{}
	for _, entry := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		repository, reference, _ := strings.Cut(entry.Name(), ":")
		key := manifestKey{strings.ReplaceAll(repository, "+", "/"), reference}
		content, err := files.Read(r.file(key), maxManifest)
		switch {
		case err != nil || !entry.Type().IsRegular() || key.check() != nil || len(r.manifests) >= maxManifests:
			if err := os.RemoveAll(filepath.Join(r.dir, "manifests", entry.Name())); err != nil {
				return err
			}
		case typeOf(content).IsIndex(): // which comes after those in it
			lists[key] = content
		default:
			if err := r.recallOne(key, content); err != nil {
				return err
			}
		}
	}
	for key, content := range lists {
		if err := r.recallOne(key, content); err != nil {
			return err
		}
	}
	return nil
}

func (r *Registry) recallOne(key manifestKey, content []byte) error {
	if err := r.whole(key.repository, content); err != nil {
		return os.Remove(r.file(key))
	}
	digest, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return err
	}
	r.manifests[key] = manifest{digest, typeOf(content)}
	return nil
}

// check tells whether repository and reference are what a registry may be asked for.
func (k manifestKey) check() error {
	separator := ":"
	if strings.Contains(k.reference, ":") {
		separator = "@"
		if _, err := v1.NewHash(k.reference); err != nil {
			return err
		}
	}
	if !strings.HasPrefix(k.repository, ownRepositories) {
		return fmt.Errorf("repository %q is none of devloop's", k.repository)
	}
	_, err := reference.Parse("localhost/" + k.repository + separator + k.reference)
	return err
}

func (r *Registry) file(key manifestKey) string {
	return filepath.Join(r.dir, "manifests", strings.ReplaceAll(key.repository, "/", "+")+":"+key.reference)
}

// typeOf returns the media type of a manifest, which need not name it itself, "" for anything else.
func typeOf(content []byte) types.MediaType {
	var m struct {
		MediaType types.MediaType `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Manifests json.RawMessage `json:"manifests"`
	}
	switch {
	case json.Unmarshal(content, &m) != nil:
		return ""
	case m.MediaType == "" && m.Manifests != nil:
		return types.OCIImageIndex
	case m.MediaType == "" && m.Config != nil:
		return types.OCIManifestSchema1
	case m.MediaType.IsImage() && m.Config != nil, m.MediaType.IsIndex():
		return m.MediaType
	}
	return ""
}

// parts returns the blobs that an image names, or the manifests that a list of them does.
func parts(content []byte) ([]v1.Descriptor, error) {
	kind := typeOf(content)
	switch {
	case kind.IsIndex():
		index, err := v1.ParseIndexManifest(bytes.NewReader(content))
		if err != nil {
			return nil, err
		}
		return index.Manifests, nil
	case kind.IsImage():
		image, err := v1.ParseManifest(bytes.NewReader(content))
		if err != nil {
			return nil, err
		}
		blobs := []v1.Descriptor{image.Config}
		for _, layer := range image.Layers {
			if layer.MediaType.IsDistributable() { // others come from elsewhere
				blobs = append(blobs, layer)
			}
		}
		return blobs, nil
	}
	return nil, errors.New("neither an image nor a list of images")
}

// whole checks that all parts of a manifest are here, each as long as it says.
func (r *Registry) whole(repository string, content []byte) error {
	list, err := parts(content)
	if err != nil {
		return err
	}
	isList := typeOf(content).IsIndex()
	for _, part := range list {
		if isList {
			if _, _, err := r.find(manifestKey{repository, part.Digest.String()}); err != nil {
				return err
			}
			continue
		}
		reader, err := r.blob(part.Digest, part.Size)
		if err != nil {
			return err
		}
		if err := reader.Close(); err != nil {
			return err
		}
	}
	return nil
}

// blob opens a blob that has to be size bytes long. The rest of one that was cut off is removed, so
// that it is brought anew.
func (r *Registry) blob(hash v1.Hash, size int64) (content.ReaderAt, error) {
	reader, err := r.openBlob(hash)
	if err != nil || reader.Size() == size {
		return reader, err
	}
	defer func() { _ = reader.Close() }() // only read
	err = fmt.Errorf("blob %s has %d bytes of %d: %w", hash, reader.Size(), size, errdefs.ErrNotFound)
	got, _, readErr := v1.SHA256(io.NewSectionReader(reader, 0, reader.Size()))
	if readErr == nil && got == hash { // it is the size that is wrong
		return nil, err
	}
	return nil, errors.Join(err, os.Remove(r.blobFile(hash)))
}

// openBlob opens a blob, as the store does.
func (r *Registry) openBlob(hash v1.Hash) (content.ReaderAt, error) {
	reader, err := contentlocal.OpenReader(r.blobFile(hash))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", hash, err)
	}
	return reader, nil
}

// blobFile is where the content store keeps a blob (OCI image layout).
func (r *Registry) blobFile(hash v1.Hash) string {
	return filepath.Join(r.dir, ocispecs.ImageBlobsDir, hash.Algorithm, hash.Hex)
}

// readBlob reads a small blob, and checks that it is what its digest says.
func (r *Registry) readBlob(hash v1.Hash) ([]byte, error) {
	reader, err := r.openBlob(hash)
	if err != nil {
		return nil, err
	}
	defer func() { _ = reader.Close() }() // only read
	if reader.Size() > maxManifest {
		return nil, fmt.Errorf("blob %s has %d bytes, which is too much for a manifest or a configuration",
			hash, reader.Size())
	}
	content, err := io.ReadAll(io.NewSectionReader(reader, 0, reader.Size()))
	if err != nil {
		return nil, err
	}
	return content, checkDigest(content, hash)
}

// checkDigest checks that content has the digest.
func checkDigest(content []byte, want v1.Hash) error {
	got, _, err := v1.SHA256(bytes.NewReader(content))
	if err == nil && got != want {
		err = fmt.Errorf("%s is %s", want, got)
	}
	return err
}

// find reads a manifest by its tag, its digest, or the digest of one that has a tag.
func (r *Registry) find(key manifestKey) (content []byte, found manifest, err error) {
	r.mu.Lock()
	found, ok := r.manifests[key]
	if !ok {
		for other, m := range r.manifests {
			if other.repository == key.repository && m.digest.String() == key.reference {
				key, found, ok = other, m, true
				break
			}
		}
	}
	r.mu.Unlock()
	if !ok {
		return nil, found, fmt.Errorf("%s has no %s: %w", key.repository, key.reference, fs.ErrNotExist)
	}
	if content, err = files.Read(r.file(key), maxManifest); err == nil {
		err = checkDigest(content, found.digest)
	}
	return content, found, err
}

// put keeps a manifest whose parts are here.
func (r *Registry) put(key manifestKey, content []byte) (v1.Hash, error) {
	digest, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return digest, err
	}
	if strings.Contains(key.reference, ":") && key.reference != digest.String() {
		return digest, fmt.Errorf("the manifest is %s, and not %s", digest, key.reference)
	}
	if err := r.whole(key.repository, content); err != nil {
		return digest, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.manifests[key]; !known && len(r.manifests) >= maxManifests {
		return digest, errFull
	}
	if err := atomicwriter.WriteFile(r.file(key), content, 0o600); err != nil {
		return digest, err
	}
	r.manifests[key] = manifest{digest, typeOf(content)}
	return digest, nil
}

// errFull is of a registry with as many manifests as it keeps.
var errFull = fmt.Errorf("the registry keeps no more than %d manifests", maxManifests)

// listen has the registry answer on loopback, if it does not yet, and returns its address.
func (r *Registry) listen(ctx context.Context) (string, error) {
	r.serverMu.Lock()
	defer r.serverMu.Unlock()
	if r.closed {
		return "", errors.New("image registry: it is closed")
	}
	if r.server != nil {
		return r.address, nil
	}
	listener, err := listenAgain(context.WithoutCancel(ctx), filepath.Join(r.dir, "address")) // others will use it, too
	if err != nil {
		return "", fmt.Errorf("image registry: %w", err)
	}
	r.address = listener.Addr().String()
	r.server = startServer(listener, r.guard(r.address, r.forPushes()))
	return r.address, nil
}

// listenAgain binds the port of last time if it is free: Docker remembers, by registry, which
// layers it pushed already.
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
	var err error
	if r.server != nil {
		err = r.server.close()
		r.server = nil
	}
	r.uploads.close()
	return err
}

// Prune forgets the image and every blob that no other image uses. It must not run beside a push.
func (r *Registry) Prune(tag name.Tag) error {
	if err := r.Untag(tag); err != nil {
		return err
	}
	if err := r.sweep(); err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	return nil
}

// Untag takes a tag away. What nothing else uses goes with the next Prune.
func (r *Registry) Untag(tag name.Tag) error {
	if err := r.forget(manifestKey{inside(tag), tag.TagStr()}); err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	return nil
}

func (r *Registry) forget(key manifestKey) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.manifests, key)
	if err := os.Remove(r.file(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sweep removes the manifests to which no tag leads, and then the blobs that no manifest names.
func (r *Registry) sweep() error {
	used := map[string]bool{}
	keep := map[manifestKey]bool{}
	for _, key := range r.keys() {
		if strings.Contains(key.reference, ":") {
			continue
		}
		image, err := r.reach(key)
		if err != nil { // it has lost a part
			continue
		}
		keep[key] = true
		for hash := range image.manifests {
			keep[manifestKey{key.repository, hash.String()}] = true
		}
		for hash := range image.blobs {
			used[hash.Hex] = true
		}
	}
	for _, key := range r.keys() {
		if !keep[key] {
			if err := r.forget(key); err != nil {
				return err
			}
		}
	}
	blobs := filepath.Join(r.dir, ocispecs.ImageBlobsDir)
	return filepath.WalkDir(blobs, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // a new store has no blobs
			return nil
		case err != nil, entry.IsDir(), used[entry.Name()]:
			return err
		}
		return os.Remove(file)
	})
}

func (r *Registry) keys() []manifestKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := make([]manifestKey, 0, len(r.manifests))
	for key := range r.manifests {
		keys = append(keys, key)
	}
	return keys
}

// reach is all that belongs to an image: manifests, and blobs with their sizes in bytes.
type reach struct {
	manifests map[v1.Hash][]byte
	blobs     map[v1.Hash]int64
}

// reach returns what belongs to an image, or to all images of a list.
func (r *Registry) reach(key manifestKey) (reach, error) {
	reached := reach{map[v1.Hash][]byte{}, map[v1.Hash]int64{}}
	content, found, err := r.find(key)
	if err != nil {
		return reached, err
	}
	return reached, r.collect(key.repository, content, found.digest, reached)
}

func (r *Registry) collect(repository string, content []byte, digest v1.Hash, into reach) error {
	into.manifests[digest] = content
	list, err := parts(content)
	if err != nil {
		return err
	}
	isList := typeOf(content).IsIndex()
	for _, part := range list {
		if !isList {
			into.blobs[part.Digest] = part.Size
			continue
		}
		if into.manifests[part.Digest] != nil {
			continue
		}
		child, _, err := r.find(manifestKey{repository, part.Digest.String()})
		if err == nil {
			err = r.collect(repository, child, part.Digest, into)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// identity is what a runtime may call an image: Docker's classic store and CRI-O the digest of its
// configuration, the others that of its manifest, or of the list of manifests that it was pushed
// as. The last one comes first.
type identity []string

func (i identity) is(digest string) bool { return slices.Contains(i, digest) }

// take has source bring the image here, and tells what it is: what source says that it brought.
func (r *Registry) take(ctx context.Context, source Source, tag name.Tag) (identity, error) {
	pushed, err := source.Push(ctx, r, tag)
	if err != nil {
		return nil, fmt.Errorf("push image %s to devloop's registry: %w", tag, err)
	}
	id, err := r.identify(manifestKey{inside(tag), tag.TagStr()})
	if err != nil {
		return nil, err
	}
	if id[0] != pushed {
		err := fmt.Errorf("image %s: %s was pushed to devloop's registry, which now has %s under its name",
			tag, pushed, id[0])
		return nil, event.WithHint(errors.Join(err, r.Untag(tag)), "save again: the image is pushed anew")
	}
	return id, nil
}

// Identity returns what a runtime may call the image that is here under tag, nil if there is none.
func (r *Registry) Identity(tag name.Tag) []string {
	id, err := r.identify(manifestKey{inside(tag), tag.TagStr()})
	if err != nil {
		return nil
	}
	return id
}

// identify reads what was pushed, all of which has to be here.
func (r *Registry) identify(key manifestKey) (identity, error) {
	content, found, err := r.find(key)
	if err == nil {
		err = r.whole(key.repository, content)
	}
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	id := identity{found.digest.String()}
	if !found.mediaType.IsIndex() {
		image, err := v1.ParseManifest(bytes.NewReader(content))
		if err != nil {
			return nil, fmt.Errorf("image registry: %s: %w", found.digest, err)
		}
		return append(id, image.Config.Digest.String()), nil
	}
	children, err := images(content)
	for _, child := range children {
		own, childErr := r.identify(manifestKey{key.repository, child.String()})
		id, err = append(id, own...), errors.Join(err, childErr)
	}
	return id, err
}

// images are those in a list of manifests: a base image may come as one, for its platforms, or for the attestation of how it was built.
func images(list []byte) (digests []v1.Hash, err error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(list))
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	for _, m := range index.Manifests {
		if m.MediaType.IsImage() && (m.Platform == nil || m.Platform.OS != "unknown") { // which an attestation has
			digests = append(digests, m.Digest)
		}
	}
	return digests, nil
}

// single returns the manifest of an image, which may be the only one in a list.
func (r *Registry) single(key manifestKey) ([]byte, error) {
	content, found, err := r.find(key)
	if err != nil || !found.mediaType.IsIndex() {
		return content, err
	}
	children, err := images(content)
	if err != nil {
		return nil, err
	}
	if len(children) != 1 {
		return nil, fmt.Errorf("%s is a list of %d images, and not one that was built", key.repository, len(children))
	}
	content, _, err = r.find(manifestKey{key.repository, children[0].String()})
	return content, err
}

// image returns an image, as it is read from the registry.
func (r *Registry) image(ctx context.Context, key manifestKey) (v1.Image, error) {
	content, err := r.single(key)
	if err != nil {
		return nil, err
	}
	address, err := r.listen(ctx)
	if err != nil {
		return nil, err
	}
	ref, err := name.NewDigest(address + "/" + key.repository + "@" + digest.FromBytes(content).String())
	if err != nil {
		return nil, err
	}
	return remote.Image(ref, remote.WithContext(ctx),
		remote.WithAuth(&authn.Basic{Username: username, Password: r.password}))
}

// ownRepositories is what the names of all repositories in devloop's registry begin with.
const ownRepositories = "devloop/"

// inside is the repository that an image has in devloop's registry: another one for each that it has outside.
func inside(tag name.Tag) string {
	return ownRepositories + strings.ReplaceAll(tag.Context().Name(), ":", "-")
}

// at is the image's name in devloop's registry, which answers at address.
func at(address string, tag name.Tag) string {
	return address + "/" + inside(tag) + ":" + tag.TagStr()
}

// Content is where BuildKit can put blobs right away.
func (r *Registry) Content() content.Store { return r.blobs }

// Has tells whether the image is here, all of it.
func (r *Registry) Has(tag name.Tag) bool { return r.Identity(tag) != nil }

// Name gives the manifest with that digest, which is among the blobs, a tag.
func (r *Registry) Name(digest string, tag name.Tag) error {
	if err := r.name(digest, tag); err != nil {
		return event.Transient(fmt.Errorf("image registry: %w", err)) // what was torn is removed, and comes anew
	}
	return nil
}

func (r *Registry) name(digest string, tag name.Tag) error {
	hash, err := v1.NewHash(digest)
	if err != nil {
		return err
	}
	content, err := r.readBlob(hash)
	if err != nil {
		return err
	}
	if typeOf(content).IsIndex() {
		children, err := parts(content)
		if err != nil {
			return err
		}
		for _, child := range children {
			content, err := r.readBlob(child.Digest)
			if err == nil {
				_, err = r.put(manifestKey{inside(tag), child.Digest.String()}, content)
			}
			if err != nil {
				return err
			}
		}
	}
	_, err = r.put(manifestKey{inside(tag), tag.TagStr()}, content)
	return err
}
