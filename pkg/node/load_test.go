package node

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/devloop/devloop/pkg/event"
)

// puller is a runtime that holds images in memory. It pulls without credentials, as the runtimes of
// nodes do.
type puller struct {
	runtime
	held  map[string]v1.Image // by name
	tells string              // the digest of whatever it is asked for, "" for the right one
	named []string            // all names that images got, first to last
}

func (p *puller) find(context.Context, *Node, []string) (string, error) { return "", nil }

func (p *puller) pull(ctx context.Context, _ *Node, source string) error {
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
	p.held[source] = image
	p.named = append(p.named, source)
	return nil
}

func (p *puller) tag(_ context.Context, _ *Node, source, target string) error {
	p.held[target] = p.held[source]
	p.named = append(p.named, target)
	return nil
}

func (p *puller) untag(_ context.Context, _ *Node, name string) error {
	delete(p.held, name)
	return nil
}

func (p *puller) digest(_ context.Context, _ *Node, name string) (string, error) {
	if p.held[name] == nil || p.tells != "" {
		return p.tells, nil
	}
	digest, err := p.held[name].ConfigName()
	return digest.String(), err
}

// loopback is a way into a node that is this machine.
type loopback struct{ transport }

func (loopback) listen(ctx context.Context) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
}

// TestTake: a node pulls an image, which gets its name when it is known to be what was built.
func TestTake(t *testing.T) {
	image := newImage(t, 1000, 2)
	r := openRegistry(t, t.TempDir())
	tag := newTag(t, "worker:1")
	const target = "docker.io/library/worker:1"
	p := &puller{held: map[string]v1.Image{}}
	c := &Cluster{nodes: []*Node{{name: "n", transport: loopback{}, runtime: p}}}
	if err := c.Give(t.Context(), func(event.Event) {}, built{tag: image}, r, []name.Tag{tag}); err != nil {
		t.Fatal(err)
	}
	digest := digestOf(t, image)
	if got := digestOf(t, p.held[target]); got != digest || len(p.held) != 1 {
		t.Errorf("%s, not %s, of %v", got, digest, p.held)
	}
	p = &puller{held: map[string]v1.Image{}, tells: "sha256:" + strings.Repeat("0", 64)}
	c.nodes[0].runtime = p
	err := c.Give(t.Context(), func(event.Event) {}, built{tag: image}, r, []name.Tag{tag})
	if err == nil || !strings.Contains(err.Error(), p.tells) || !strings.Contains(err.Error(), digest.String()) {
		t.Errorf("another image than the one that was built: %v", err)
	}
	if slices.Contains(p.named, target) || len(p.held) != 0 {
		t.Errorf("it was named, for a while: %v; is held: %v", p.named, p.held)
	}
}
