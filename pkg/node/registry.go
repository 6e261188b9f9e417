// devloop's own registry: images that were built on the host wait here, on loopback, until nodes have pulled the layers
// that they lack. Blobs stay on disk for the next time; Prune lets go of those that no kept image uses.
package node

import (
	"bytes"
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
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
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
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	listener, err := listenAgain(ctx, filepath.Join(dir, "address"))
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	r := &Registry{dir: dir, address: listener.Addr().String(), served: make(chan struct{})}
	r.handler = store.receive(r.keepManifests(registry.New(registry.WithBlobHandler(store), registry.Logger(log.New(io.Discard, "", 0)))))
	r.server = &http.Server{Handler: r.handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(r.served)
		_ = r.server.Serve(listener) // ends with Close
	}()
	return r, nil
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
			err = os.WriteFile(r.manifestFile(repository, reference), content, 0o644)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
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
	err := os.Remove(r.manifestFile(tag.RepositoryStr(), tag.TagStr()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image registry: %w", err)
	}
	used, err := r.usedBlobs()
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	return filepath.WalkDir(filepath.Join(r.dir, "blobs"), func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || used[entry.Name()] {
			return err
		}
		return os.Remove(file)
	})
}

// usedBlobs returns the hex digests that the kept manifests name.
func (r *Registry) usedBlobs() (map[string]bool, error) {
	used := map[string]bool{}
	files, err := os.ReadDir(filepath.Join(r.dir, "manifests"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(r.dir, "manifests", file.Name()))
		if err != nil {
			return nil, err
		}
		var manifest v1.Manifest
		if err := json.Unmarshal(content, &manifest); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name(), err)
		}
		used[manifest.Config.Digest.Hex] = true
		for _, layer := range manifest.Layers {
			used[layer.Digest.Hex] = true
		}
	}
	return used, nil
}

// identity is what a runtime may call an image: Docker's classic store the digest of its configuration, the others
// that of its manifest.
type identity struct{ manifest, config string }

func (i identity) is(digest string) bool { return digest == i.manifest || digest == i.config }

// push has the host's Docker daemon push the image here; it sends only the blobs that are not here yet.
func (r *Registry) push(ctx context.Context, docker *client.Client, tag name.Tag) (id identity, err error) {
	remote := r.address + "/" + tag.RepositoryStr() + ":" + tag.TagStr()
	if _, err := docker.ImageTag(ctx, client.ImageTagOptions{Source: tag.String(), Target: remote}); err != nil {
		return id, err
	}
	defer func() {
		err = withCleanup(ctx, err, func(ctx context.Context) error {
			_, err := docker.ImageRemove(ctx, remote, client.ImageRemoveOptions{})
			return err
		})
	}()
	pushing, err := docker.ImagePush(ctx, remote, client.ImagePushOptions{RegistryAuth: "e30="}) // {}: no credentials
	if err != nil {
		return id, err
	}
	if err := pushing.Wait(ctx); err != nil {
		return id, event.WithHint(fmt.Errorf("docker push to %s: %w", r.address, err),
			"the Docker daemon has to run on this machine, or inside of the node (minikube docker-env)")
	}
	return r.identify(ctx, tag)
}

// identify reads what was pushed back from the registry.
func (r *Registry) identify(ctx context.Context, tag name.Tag) (identity, error) {
	url := "http://" + r.address + "/v2/" + tag.RepositoryStr() + "/manifests/" + tag.TagStr()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return identity{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return identity{}, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return identity{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return identity{}, fmt.Errorf("image registry: %s: %s", url, resp.Status)
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(content))
	if err != nil {
		return identity{}, fmt.Errorf("image registry: %s: %w", url, err)
	}
	digest, _, err := v1.SHA256(bytes.NewReader(content))
	return identity{manifest: digest.String(), config: manifest.Config.Digest.String()}, err
}

// counted is the registry as one node sees it: sent counts the bytes of the answers.
func (r *Registry) counted(sent *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.handler.ServeHTTP(countingWriter{w, sent}, req)
	})
}

type countingWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (w countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.sent.Add(int64(n))
	return n, err
}
