package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

// fakeRuntime has images in memory. It pulls without credentials, as the runtimes of nodes do.
type fakeRuntime struct {
	runtime
	images map[string]v1.Image // by name
	report string              // the digest that it reports for any image, "" for the right one
	tagged []string            // all names that images got, in order
}

func (r *fakeRuntime) find(context.Context, *node, []string) (string, error) { return "", nil }

func (r *fakeRuntime) pull(ctx context.Context, _ *node, source string) error {
	ref, err := name.NewTag(source)
	if err != nil {
		return err
	}
	image, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return err
	}
	r.images[source] = image
	r.tagged = append(r.tagged, source)
	return readLayers(image)
}

func (r *fakeRuntime) tag(_ context.Context, _ *node, source, target string) error {
	r.images[target] = r.images[source]
	r.tagged = append(r.tagged, target)
	return nil
}

func (r *fakeRuntime) untag(_ context.Context, _ *node, name string) error {
	delete(r.images, name)
	return nil
}

func (r *fakeRuntime) digest(_ context.Context, _ *node, name string) (string, error) {
	if r.images[name] == nil || r.report != "" {
		return r.report, nil
	}
	digest, err := r.images[name].ConfigName()
	return digest.String(), err
}

// TestLoad: a node pulls an image, which gets its name after its digest was verified.
func TestLoad(t *testing.T) {
	image := newImage(t, 1000, 2)
	r := openRegistry(t, t.TempDir())
	tag := newTag(t, "worker:1")
	const target = "docker.io/library/worker:1"
	p := &fakeRuntime{images: map[string]v1.Image{}}
	c := &Cluster{loading: make(chan struct{}, 1), nodes: []*node{{name: "n", transport: localTransport{}, runtime: p}}}
	if err := c.Load(t.Context(), func(event.Event) {}, built{tag: image}, r, []Wanted{{"worker", tag}}); err != nil {
		t.Fatal(err)
	}
	digest := digestOf(t, image)
	if got := digestOf(t, p.images[target]); got != digest || len(p.images) != 1 {
		t.Errorf("%s, not %s, of %v", got, digest, p.images)
	}
	p = &fakeRuntime{images: map[string]v1.Image{}, report: "sha256:" + strings.Repeat("0", 64)}
	c.nodes[0].runtime = p
	err := c.Load(t.Context(), func(event.Event) {}, built{tag: image}, r, []Wanted{{"worker", tag}})
	if err == nil || !strings.Contains(err.Error(), p.report) || !strings.Contains(err.Error(), digest.String()) {
		t.Errorf("another image than the one that was built: %v", err)
	}
	if slices.Contains(p.tagged, target) || len(p.images) != 0 {
		t.Errorf("it was tagged: %v; the node has: %v", p.tagged, p.images)
	}
}

// TestLoadsInParallel: the limit is one for all calls, and a load that waits ends with its run.
func TestLoadsInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, loads)
		var busy, most, ended atomic.Int32
		load := func(ctx context.Context, _ name.Tag, _ *atomic.Int64) ([]any, error) {
			defer busy.Add(-1)
			most.Store(max(most.Load(), busy.Add(1)))
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 3 * loads {
			go func() {
				wanted := []Wanted{{"worker", newTag(t, fmt.Sprintf("worker:%d", i))}}
				if err := loadEach(ctx, func(event.Event) {}, wanted, slots, time.Hour, load); errors.Is(err, context.Canceled) {
					ended.Add(1)
				}
			}()
		}
		synctest.Wait()
		if n := busy.Load(); n != loads {
			t.Errorf("%d at the same time", n)
		}
		cancel()
		synctest.Wait()
		if most.Load() != loads || ended.Load() != 3*loads || len(slots) != 0 {
			t.Errorf("%d at the same time, %d ended, %d slots are taken", most.Load(), ended.Load(), len(slots))
		}
	})
}

// fakeContainerd is a node of kind or k3d: it answers ctr, and cannot listen.
type fakeContainerd struct {
	transport
	unpacked []string        // chain IDs
	imported ocispecs.Index  // of the last archive
	blobs    map[string]bool // digests in the last archive
}

func (*fakeContainerd) listen(context.Context) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}

func (f *fakeContainerd) run(_ context.Context, stdin io.Reader, args ...string) (string, error) {
	switch command := strings.Join(args[3:], " "); {
	case command == "snapshots ls":
		return "KEY PARENT KIND\n" + strings.Join(f.unpacked, " Committed\n") + " Committed\n", nil
	case strings.HasPrefix(command, "images ls name=="):
		return "REF TYPE DIGEST\nx x " + f.imported.Manifests[0].Digest.String() + " x\n", nil
	case strings.HasPrefix(command, "images ls target.digest=="):
		return "REF TYPE DIGEST\n", nil
	case command == "images import -":
		files, err := readTar(stdin)
		f.blobs = map[string]bool{}
		for name := range files {
			f.blobs["sha256:"+path.Base(name)] = true
		}
		return "", errors.Join(err, json.Unmarshal(files[ocispecs.ImageIndexFile], &f.imported))
	}
	return "", fmt.Errorf("unexpected: %q", args)
}

// TestImport: a node on which no port can be opened imports an archive of the layers that it does
// not have.
func TestImport(t *testing.T) {
	image := newImage(t, 1000, 2)
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	tag := newTag(t, "worker:1")
	n := &fakeContainerd{unpacked: []string{config.RootFS.DiffIDs[0].String()}} // the first is its own chain ID
	c := &Cluster{loading: make(chan struct{}, 1), nodes: []*node{{name: "n", transport: n, runtime: containerdRuntime{}}}}
	source, r := built{tag: attested(t, image)}, openRegistry(t, t.TempDir())
	if err := c.Load(t.Context(), func(event.Event) {}, source, r, []Wanted{{"worker", tag}}); err != nil {
		t.Fatal(err)
	}
	layers := layersOf(t, image)
	for digest, want := range map[v1.Hash]bool{digestOf(t, image): true, configOf(t, image): true,
		digestOf(t, layers[0]): false, digestOf(t, layers[1]): true} {
		if got := n.blobs[digest.String()]; got != want {
			t.Errorf("%s in the archive: %t, not %t", digest, got, want)
		}
	}
	if got := n.imported.Manifests[0].Annotations[images.AnnotationImageName]; got != "docker.io/library/worker:1" {
		t.Errorf("named %q", got)
	}
}
