// devloop's own registry: images that were built on the host wait here, on loopback, until nodes have pulled the layers
// that they lack. Blobs stay on disk for the next time; Prune lets go of those that no kept image uses.
package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// Registry is a small image registry on loopback. Close ends it.
type Registry struct {
	dir     string
	address string // 127.0.0.1:port
	handler http.Handler
	server  *http.Server
	served  chan struct{}
}

// OpenRegistry serves the images kept in dir until Close; ctx is for the opening alone.
func OpenRegistry(ctx context.Context, dir string) (*Registry, error) {
	if err := os.MkdirAll(filepath.Join(dir, "manifests"), 0o755); err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	store, err := openBlobStore(filepath.Join(dir, "blobs"))
	if err == nil {
		err = os.RemoveAll(filepath.Join(dir, "ingest")) // what a BuildKit was about to bring
	}
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	listener, err := listenAgain(ctx, filepath.Join(dir, "address"))
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	r := &Registry{dir: dir, address: listener.Addr().String(), served: make(chan struct{})}
	r.handler = store.serve(store.receive(r.keepManifests(registry.New(registry.WithBlobHandler(store), registry.Logger(log.New(io.Discard, "", 0))))))
	r.server = &http.Server{Handler: r.handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(r.served)
		_ = r.server.Serve(listener) // ends with Close
	}()
	if err := r.recall(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// keptManifest is one that keepManifests has written down.
type keptManifest struct {
	file, repository, reference string
	content                     []byte
}

func (r *Registry) kept() ([]keptManifest, error) {
	files, err := os.ReadDir(filepath.Join(r.dir, "manifests"))
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	list := make([]keptManifest, len(files))
	for i, file := range files {
		k := &list[i]
		k.file = filepath.Join(r.dir, "manifests", file.Name())
		repository, reference, _ := strings.Cut(file.Name(), ":")
		k.repository, k.reference = strings.ReplaceAll(repository, "+", "/"), reference
		if k.content, err = os.ReadFile(k.file); err != nil {
			return nil, fmt.Errorf("image registry: %w", err)
		}
	}
	return list, nil
}

// isList tells whether it is a list of manifests.
func (k keptManifest) isList() bool {
	manifest, err := v1.ParseManifest(bytes.NewReader(k.content))
	return err == nil && manifest.MediaType.IsIndex()
}

// recall makes known again what the registry held when it was closed. What has lost a blob meanwhile is forgotten.
func (r *Registry) recall(ctx context.Context) error {
	kept, err := r.kept()
	if err != nil {
		return err
	}
	for _, lists := range []bool{false, true} { // a list comes after those in it
		for _, k := range kept {
			if k.isList() != lists {
				continue
			}
			err := r.whole(k.content)
			if err == nil {
				err = r.put(ctx, k.repository, k.reference, k.content)
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				if err := os.Remove(k.file); err != nil {
					return fmt.Errorf("image registry: %w", err)
				}
			}
		}
	}
	return nil
}

// whole checks that every blob of an image is here.
func (r *Registry) whole(content []byte) error {
	manifest, err := v1.ParseManifest(bytes.NewReader(content))
	if err != nil || manifest.MediaType.IsIndex() {
		return err
	}
	for _, blob := range append(manifest.Layers, manifest.Config) {
		if _, err := os.Stat(r.blob(blob.Digest)); err != nil {
			return err
		}
	}
	return nil
}

// listenAgain binds the port of last time if it is free: Docker remembers, by registry, which layers it pushed already.
func listenAgain(ctx context.Context, file string) (net.Listener, error) {
	var listen net.ListenConfig
	last, err := os.ReadFile(file)
	if err == nil {
		if listener, err := listen.Listen(ctx, "tcp", string(last)); err == nil {
			return listener, nil
		}
	}
	listener, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return listener, os.WriteFile(file, []byte(listener.Addr().String()), 0o644)
}

// Close stops serving at once.
func (r *Registry) Close() error {
	err := r.server.Close()
	<-r.served
	return err
}

// keepManifests writes down each manifest that is pushed, so that Prune knows what the blobs belong to.
func (r *Registry) keepManifests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		repository, reference, ok := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/manifests/")
		if req.Method != http.MethodPut || !ok {
			next.ServeHTTP(w, req)
			return
		}
		content, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 8<<20))
		if err == nil {
			_, err = v1.ParseManifest(bytes.NewReader(content))
		}
		if err == nil {
			err = os.WriteFile(r.manifestFile(repository, reference), content, 0o644)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		req.Body = io.NopCloser(bytes.NewReader(content))
		next.ServeHTTP(w, req)
	})
}

func (r *Registry) manifestFile(repository, reference string) string {
	return filepath.Join(r.dir, "manifests", strings.ReplaceAll(repository, "/", "+")+":"+path.Base(reference))
}

// Prune forgets the image and every blob that no other image uses. It must not run beside a push.
func (r *Registry) Prune(tag name.Tag) error {
	if err := r.Untag(tag); err != nil {
		return err
	}
	used, err := r.usedBlobs()
	if err != nil {
		return err
	}
	return filepath.WalkDir(filepath.Join(r.dir, "blobs"), func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || used[entry.Name()] {
			return err
		}
		return os.Remove(file)
	})
}

// Untag takes a tag away. What nothing else uses goes with the next Prune.
func (r *Registry) Untag(tag name.Tag) error {
	err := os.Remove(r.manifestFile(inside(tag), tag.TagStr()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image registry: %w", err)
	}
	return nil
}

// usedBlobs returns the hex digests that the kept manifests name.
func (r *Registry) usedBlobs() (map[string]bool, error) {
	used := map[string]bool{}
	kept, err := r.kept()
	if err != nil {
		return nil, err
	}
	for _, k := range kept {
		var manifest v1.Manifest
		if err := json.Unmarshal(k.content, &manifest); err != nil {
			return nil, fmt.Errorf("image registry: %s: %w", filepath.Base(k.file), err)
		}
		used[manifest.Config.Digest.Hex] = true
		for _, layer := range manifest.Layers {
			used[layer.Digest.Hex] = true
		}
	}
	return used, nil
}

// identity is what a runtime may call an image: Docker's classic store and CRI-O the digest of its configuration, the others
// that of its manifest, or of the list of manifests that it was pushed as. The last one comes first.
type identity []string

func (i identity) is(digest string) bool { return slices.Contains(i, digest) }

// take has source bring the image here, and tells what it is.
func (r *Registry) take(ctx context.Context, source Source, tag name.Tag) (identity, error) {
	if err := source.Push(ctx, r, tag); err != nil {
		return nil, fmt.Errorf("push image %s to devloop's registry: %w", tag, err)
	}
	return r.identify(inside(tag), tag.TagStr())
}

// Identity returns what a runtime may call the image that is here under tag, nil if there is none.
func (r *Registry) Identity(tag name.Tag) []string {
	id, err := r.identify(inside(tag), tag.TagStr())
	if err != nil {
		return nil
	}
	return id
}

// identify reads back what was pushed.
func (r *Registry) identify(repository, reference string) (identity, error) {
	content, err := os.ReadFile(r.manifestFile(repository, reference))
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("image registry: %s:%s: %w", repository, reference, err)
	}
	digest, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil || !manifest.MediaType.IsIndex() {
		return identity{digest.String(), manifest.Config.Digest.String()}, err
	}
	id := identity{digest.String()}
	children, err := images(content)
	for _, child := range children {
		own, childErr := r.identify(repository, child.String())
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

// inside is the repository that an image has in devloop's registry: another one for each that it has outside.
func inside(tag name.Tag) string {
	return "devloop/" + strings.ReplaceAll(tag.Context().Name(), ":", "-")
}

// at is the image's name in devloop's registry, which answers at address.
func at(address string, tag name.Tag) string {
	return address + "/" + inside(tag) + ":" + tag.TagStr()
}

// near is the image's name in the registry, for who is on this machine.
func (r *Registry) near(tag name.Tag) (name.Tag, error) { return name.NewTag(at(r.address, tag)) }

// Layout is the folder in which BuildKit can put blobs right away: it is an OCI layout, too.
func (r *Registry) Layout() string { return r.dir }

// Has tells whether the image is here.
func (r *Registry) Has(tag name.Tag) bool {
	_, err := os.Stat(r.manifestFile(inside(tag), tag.TagStr()))
	return err == nil
}

// Name gives the manifest with that digest, which is among the blobs, a tag.
func (r *Registry) Name(ctx context.Context, digest string, tag name.Tag) error {
	hash, err := v1.NewHash(digest)
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	content, err := os.ReadFile(r.blob(hash))
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	return r.put(ctx, inside(tag), tag.TagStr(), content)
}

// put is what a push does at last.
func (r *Registry) put(ctx context.Context, repository, reference string, manifest []byte) error {
	parsed, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return fmt.Errorf("image registry: %s:%s: %w", repository, reference, err)
	}
	url := "http://" + r.address + "/v2/" + repository + "/manifests/" + reference
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(manifest))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", string(cmp.Or(parsed.MediaType, types.OCIManifestSchema1)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("image registry: %s: %s", url, resp.Status)
	}
	return nil
}

// Docker is a Source: the daemon on this machine, which pushes only the blobs that are not here yet.
type Docker struct{ Client *client.Client }

// Push has the daemon push the image.
func (d Docker) Push(ctx context.Context, r *Registry, tag name.Tag) (err error) {
	remote := at(r.address, tag)
	if _, err := d.Client.ImageTag(ctx, client.ImageTagOptions{Source: tag.String(), Target: remote}); err != nil {
		return err
	}
	defer func() {
		err = withCleanup(ctx, err, func(ctx context.Context) error {
			_, err := d.Client.ImageRemove(ctx, remote, client.ImageRemoveOptions{})
			return err
		})
	}()
	pushing, err := d.Client.ImagePush(ctx, remote, client.ImagePushOptions{RegistryAuth: "e30="}) // {}: no credentials
	if err != nil {
		return err
	}
	if err := pushing.Wait(ctx); err != nil {
		return event.WithHint(fmt.Errorf("docker push to %s: %w", r.address, err),
			"the Docker daemon has to run on this machine, or inside of the node (minikube docker-env)")
	}
	return nil
}

// Built is a Source of images that were built right into the registry.
type Built struct{}

// Push finds them there.
func (Built) Push(_ context.Context, r *Registry, tag name.Tag) error {
	if !r.Has(tag) {
		return errors.New("it is not there, and was not built either")
	}
	return nil
}

// counted is the registry as one node sees it: sent counts the bytes of the answers.
func (r *Registry) counted(sent *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead { // others on the node can reach it, too
			http.Error(w, "read only", http.StatusMethodNotAllowed)
			return
		}
		r.handler.ServeHTTP(countedAnswer{w, io.MultiWriter(w, counter{sent})}, req)
	})
}

type countedAnswer struct {
	http.ResponseWriter
	body io.Writer
}

func (a countedAnswer) Write(p []byte) (int, error) { return a.body.Write(p) }
