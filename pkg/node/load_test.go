package node

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/devloop/devloop/pkg/event"
)

// fakeRuntime has images in memory. It pulls without credentials, as the runtimes of nodes do.
type fakeRuntime struct {
	runtime
	images map[string]v1.Image // by name
	report string              // the digest that it reports for any image, "" for the right one
	tagged []string            // all names that images got, in order
}

func (p *fakeRuntime) find(context.Context, *Node, []string) (string, error) { return "", nil }

func (p *fakeRuntime) pull(ctx context.Context, _ *Node, source string) error {
	ref, err := name.NewTag(source)
	if err != nil {
		return err
	}
	image, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		reader, err := layer.Compressed()
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, reader); err != nil {
			return err
		}
		_ = reader.Close()
	}
	p.images[source] = image
	p.tagged = append(p.tagged, source)
	return nil
}

func (p *fakeRuntime) tag(_ context.Context, _ *Node, source, target string) error {
	p.images[target] = p.images[source]
	p.tagged = append(p.tagged, target)
	return nil
}

func (p *fakeRuntime) untag(_ context.Context, _ *Node, name string) error {
	delete(p.images, name)
	return nil
}

func (p *fakeRuntime) digest(_ context.Context, _ *Node, name string) (string, error) {
	if p.images[name] == nil || p.report != "" {
		return p.report, nil
	}
	digest, err := p.images[name].ConfigName()
	return digest.String(), err
}

// TestLoad: a node pulls an image, which gets its name after its digest was verified.
func TestLoad(t *testing.T) {
	image := newImage(t, 1000, 2)
	r := openRegistry(t, t.TempDir())
	tag := newTag(t, "worker:1")
	const target = "docker.io/library/worker:1"
	p := &fakeRuntime{images: map[string]v1.Image{}}
	c := &Cluster{nodes: []*Node{{name: "n", transport: localTransport{}, runtime: p}}}
	if err := c.Give(t.Context(), func(event.Event) {}, built{tag: image}, r, []name.Tag{tag}); err != nil {
		t.Fatal(err)
	}
	digest := digestOf(t, image)
	if got := digestOf(t, p.images[target]); got != digest || len(p.images) != 1 {
		t.Errorf("%s, not %s, of %v", got, digest, p.images)
	}
	p = &fakeRuntime{images: map[string]v1.Image{}, report: "sha256:" + strings.Repeat("0", 64)}
	c.nodes[0].runtime = p
	err := c.Give(t.Context(), func(event.Event) {}, built{tag: image}, r, []name.Tag{tag})
	if err == nil || !strings.Contains(err.Error(), p.report) || !strings.Contains(err.Error(), digest.String()) {
		t.Errorf("another image than the one that was built: %v", err)
	}
	if slices.Contains(p.tagged, target) || len(p.images) != 0 {
		t.Errorf("it was tagged: %v; the node has: %v", p.tagged, p.images)
	}
}
