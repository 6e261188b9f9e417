package session

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/node"
)

// imageList is as much of a Docker daemon as questions about images need.
type imageList struct {
	mu     sync.Mutex
	images []string
}

func (l *imageList) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, image, _ := strings.Cut(r.URL.Path, "/images/")
	if !slices.Contains(l.images, strings.TrimSuffix(image, "/json")) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write([]byte("{}"))
}

func tagsOf(t *testing.T, names ...string) (tags []name.Tag) {
	t.Helper()
	for _, text := range names {
		tag, err := name.NewTag(text)
		if err != nil {
			t.Fatal(err)
		}
		tags = append(tags, tag)
	}
	return tags
}

// Builds that failed, and images that somebody else removed, evict no image that is there.
func TestOutdatedImages(t *testing.T) {
	for _, test := range []struct {
		about    string
		recorded string   // before the run, the oldest first
		there    string   // in this machine's Docker; the run's images are, too
		target   string   // of the run
		part     []string // of the releases
		old      string
		stay     string // in the journal
	}{
		{about: "few images", recorded: "a:1 a:2", target: "a:3", stay: "a:1 a:2 a:3"},
		{about: "a good one too many", recorded: "a:1 a:2 a:3", there: "a:1 a:2 a:3", target: "a:4", old: "a:1",
			stay: "a:1 a:2 a:3 a:4"},
		{about: "ten failing saves in a row", there: "a:1 a:2", target: "a:3",
			recorded: "a:1 a:2 a:f0 a:f1 a:f2 a:f3 a:f4 a:f5 a:f6 a:f7 a:f8 a:f9", stay: "a:1 a:2 a:f8 a:f9 a:3"},
		{about: "a failing save after each good one", recorded: "a:0 a:f0 a:1 a:f1 a:2 a:f2", there: "a:0 a:1 a:2",
			target: "a:3", old: "a:0", stay: "a:0 a:1 a:2 a:f2 a:3"},
		{about: "removed by others", recorded: "a:1 a:2 a:3 a:4", there: "a:1", target: "a:5", stay: "a:1 a:3 a:4 a:5"},
		{about: "an undo", recorded: "a:1 a:f1 a:f2 a:f3", there: "a:1", target: "a:1", stay: "a:f2 a:f3 a:1"},
		{about: "two images, of which one failed", recorded: "b:1 a:1 b:f1 b:f2 b:f3 a:2 a:3", there: "a:1 b:1 a:2 a:3",
			target: "a:4 b:2", old: "a:1", stay: "b:1 a:1 b:f2 b:f3 a:2 a:3 a:4 b:2"},
		{about: "images of other parts", recorded: "b:1 b:2 b:3 b:4 b:5", target: "a:1", part: []string{"a"},
			stay: "b:1 b:2 b:3 b:4 b:5 a:1"},
	} {
		t.Run(test.about, func(t *testing.T) {
			docker := &imageList{images: strings.Fields(test.there + " " + test.target)}
			server := httptest.NewServer(docker)
			defer server.Close()
			n := newNodeStage(t, server.Listener.Addr().String())
			n.config = &config.Config{KeepImages: 3, Part: test.part}
			for _, image := range strings.Fields(test.recorded) {
				if err := n.journal.Record(journal.Image, image); err != nil {
					t.Fatal(err)
				}
			}
			found, err := n.outdated(t.Context(), tagsOf(t, strings.Fields(test.target)...))
			if got := tagNames(found.old); got != test.old || err != nil {
				t.Errorf("outdated %q, %v, not %q", got, err, test.old)
			}
			for _, tag := range found.gone {
				if err := n.forget(t.Context(), tag); err != nil {
					t.Error(err)
				}
			}
			if got := strings.Join(n.journal.Names(journal.Image), " "); got != test.stay {
				t.Errorf("the journal has %q, not %q", got, test.stay)
			}
		})
	}
}

// Where it is not known what is there, nothing is removed.
func TestOutdatedImagesWithoutDocker(t *testing.T) {
	n := newNodeStage(t, "127.0.0.1:1")
	n.config = &config.Config{KeepImages: 1}
	for _, image := range []string{"a:1", "a:2"} {
		if err := n.journal.Record(journal.Image, image); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := n.outdated(t.Context(), tagsOf(t, "a:3")); len(found.old)+len(found.gone) > 0 || !found.unsure ||
		err != nil {
		t.Errorf("%v, %v", found, err)
	}
	for i := range maxUnsure { // failed builds do not pile up where there never is a Docker
		if err := n.journal.Record(journal.Image, fmt.Sprintf("a:f%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	found, err := n.outdated(t.Context(), tagsOf(t, "a:3"))
	if got := tagNames(found.gone); len(found.old) > 0 || err != nil || got != "a:f0 a:2 a:1" {
		t.Errorf("%v, %v", found, err)
	}
	for _, tag := range found.gone {
		if err := n.forget(t.Context(), tag); err != nil {
			t.Error(err)
		}
	}
	if got := len(n.journal.Names(journal.Image)); got != maxUnsure {
		t.Errorf("the journal has %d images", got)
	}
}

// An old image may be in a Docker that does not answer, too: it stays in the journal.
func TestOldImageInSilentDocker(t *testing.T) {
	n := newNodeStage(t, "127.0.0.1:1")
	n.config = &config.Config{KeepImages: 1}
	tags := tagsOf(t, "a:1", "a:2")
	for _, tag := range tags {
		if err := n.journal.Record(journal.Image, tag.String()); err != nil {
			t.Fatal(err)
		}
		image, err := empty.Image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		image.Author = tag.String()
		putImage(t, n.registry, tag, image)
	}
	found, err := n.outdated(t.Context(), tags[1:])
	if got := tagNames(found.old); got != "a:1" || !found.unsure || err != nil {
		t.Fatalf("%v, %v", found, err)
	}
	if err := n.removeCopies(t.Context(), tags[0]); err != nil {
		t.Fatal(err)
	}
	if n.registry.Has(tags[0]) || !n.registry.Has(tags[1]) || !n.journal.Has(journal.Image, "a:1") {
		t.Errorf("the registry has %v and %v, the journal %v", n.registry.IDs(tags[0]), n.registry.IDs(tags[1]),
			n.journal.Names(journal.Image))
	}
	if found, err := n.outdated(t.Context(), tags[1:]); len(found.old)+len(found.gone) > 0 || err != nil {
		t.Errorf("%v, %v", found, err)
	}
}

// putImage puts an image without layers into a registry.
func putImage(t *testing.T, registry *node.Registry, tag name.Tag, config *v1.ConfigFile) {
	t.Helper()
	image, err := mutate.ConfigFile(empty.Image, config)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range [][]byte{raw, manifest} {
		described := ocispecs.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
		err := content.WriteBlob(t.Context(), registry.Content(), described.Digest.String(), bytes.NewReader(blob), described)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := registry.Tag(digest.FromBytes(manifest).String(), tag); err != nil {
		t.Fatal(err)
	}
}

// newNodeStage returns a stage without nodes. Its Docker is at an address.
func newNodeStage(t *testing.T, docker string) nodeStage {
	t.Helper()
	host, err := client.New(client.WithHost("tcp://" + docker))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	j, err := journal.Open(t.TempDir(), "uid", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	registry, err := node.OpenRegistry(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	b := newBuilders(&environment{docker: host, nodes: &node.Cluster{}}, registry, j, func(event.Event) {}, t.TempDir(),
		readPassedChecks(filepath.Join(t.TempDir(), "checks.json"), "here", event.Stage{}))
	return nodeStage{images: newImages(&environment{nodes: b.nodes}, b, &config.Config{})}
}
