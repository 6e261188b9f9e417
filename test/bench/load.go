// What it takes until a node holds an image that was built: 600 MB in 6 layers, of which one has
// changed.
//
// The large one is made by a command, as the layer that pip installs is; the small one is a file
// that is copied, as a project's code is.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/node"
)

const (
	loadBase = "python:3.11-slim" // 190 MB
	mb       = 1 << 20
	// A third of what is in a layer cannot be compressed, as with Python packages.
	block, dense = 4 << 10, 4 << 10 / 3
	smallSize    = 5 * mb
)

// The Dockerfile; the layers that stay the same are of 100, 70 and 30 MB.
var loadDockerfile = fmt.Sprintf(`FROM %s
COPY layer0 /layer0
COPY layer1 /layer1
COPY layer2 /layer2
ARG SEED
RUN python3 -c 'import os; f = open("/large", "wb"); [f.write(os.urandom(%d) + bytes(%d)) for _ in range(%d)]' $SEED
COPY small /small
`, loadBase, dense, block-dense, 200*mb/block)

// loaded is the image, a folder to build it from, and a node to be given it.
type loaded struct {
	dir      string
	seed     string // of the large layer
	ssh      string // the node's name in NODE_SSH_CONFIG
	load     string // the node's command for an image on standard input
	docker   *client.Client
	cluster  *node.Cluster
	registry *node.Registry
	builder  *build.Builder
	bytes    atomic.Int64 // that the last image took on its way to the node
}

func newLoaded(ctx context.Context, t *testbed, runtime string) (*loaded, error) {
	n, err := nodeOf(runtime)
	if err != nil {
		return nil, err
	}
	l := &loaded{dir: filepath.Join(t.dir, "image"), ssh: n.ssh, load: n.load}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return nil, err
	}
	for i, size := range []int{100, 70, 30} {
		if err := l.fill(fmt.Sprintf("layer%d", i), size*mb, dense); err != nil {
			return nil, err
		}
	}
	if err := l.fill("small", smallSize, block); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(l.dir, "Dockerfile"), []byte(loadDockerfile), 0o644); err != nil {
		return nil, err
	}
	if l.docker, err = client.New(client.FromEnv); err != nil {
		return nil, err
	}
	t.cleanup(func(context.Context) error { return l.docker.Close() })
	t.cleanup(func(ctx context.Context) error { return removeImages(ctx, "bench-load") })
	usual := os.Getenv("MINIKUBE_HOME")
	if err := os.Setenv("MINIKUBE_HOME", n.home); err != nil {
		return nil, err
	}
	l.cluster, err = node.Find(ctx, n.kubeContext, n.server, l.docker, filepath.Join(t.dir, "hostkeys"))
	if err := errors.Join(err, os.Setenv("MINIKUBE_HOME", usual)); err != nil {
		return nil, err
	}
	t.cleanup(func(context.Context) error { return l.cluster.Close() })
	if l.registry, err = node.OpenRegistry(ctx, filepath.Join(t.dir, "registry", url.PathEscape(runtime))); err != nil {
		return nil, err
	}
	t.cleanup(func(context.Context) error { return l.registry.Close() })
	l.builder = build.New(l.docker, filepath.Join(t.dir, "cache"))
	return l, nil
}

// fill writes a file anew; of each block of it, random bytes cannot be compressed.
func (l *loaded) fill(file string, size, random int) error {
	content := make([]byte, size)
	for at := 0; at+random <= size; at += block {
		if _, err := rand.Read(content[at : at+random]); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(l.dir, file), content, 0o644)
}

// changeSmall and changeLarge give a layer new content with the next build.
func (l *loaded) changeSmall() error { return l.fill("small", smallSize, block) }

func (l *loaded) changeLarge() error {
	l.seed = strconv.FormatInt(time.Now().UnixNano(), 10)
	return nil
}

// build builds the image on this machine.
func (l *loaded) build(ctx context.Context) (name.Tag, error) {
	input, err := l.input(ctx)
	if err != nil {
		return name.Tag{}, err
	}
	return input.Tag, l.builder.Build(ctx, func(event.Event) {}, input)
}

func (l *loaded) input(ctx context.Context) (build.Input, error) {
	return l.builder.Hash(ctx, build.Image{Name: "bench-load", Dockerfile: filepath.Join(l.dir, "Dockerfile"),
		Context: l.dir, Args: map[string]string{"SEED": l.seed}})
}

// loadImage loads the image into the node as a run does.
func (l *loaded) loadImage(ctx context.Context, tag name.Tag) error {
	return l.cluster.Load(ctx, l.count, node.DockerSource{Client: l.docker}, l.registry, []node.Wanted{{Tag: tag}})
}

// count keeps what the step of an image says of its bytes.
func (l *loaded) count(e event.Event) {
	if n, ok := e.Field("bytes").(int64); ok {
		l.bytes.Store(n)
	}
}

// whole brings the image to the node as people do.
func (l *loaded) whole(ctx context.Context, tag string) error {
	_, err := output(ctx, "bash", "-euo", "pipefail", "-c", `docker save "$1" | ssh -F "$NODE_SSH_CONFIG" "$2" $3`, "load",
		tag, l.ssh, l.load)
	return err
}

// loadChanged measures how long a node is without the image when one layer of it has changed.
// Building it is not measured.
func loadChanged(runtime string, change func(*loaded) error) func(context.Context, *testbed) (ours, theirs sample,
	err error) {
	return func(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
		l, err := newLoaded(ctx, t, runtime)
		if err != nil {
			return nil, nil, err
		}
		measured := func(give func(context.Context, name.Tag) error) sample {
			return func(ctx context.Context) (float64, error) {
				if err := change(l); err != nil {
					return 0, err
				}
				tag, err := l.build(ctx)
				if err != nil {
					return 0, err
				}
				begin := time.Now()
				err = give(ctx, tag)
				return time.Since(begin).Seconds(), err
			}
		}
		return measured(l.loadImage), measured(func(ctx context.Context, tag name.Tag) error {
			return l.whole(ctx, tag.String())
		}), nil
	}
}

// loadBytes measures what is sent to the node when the small layer has changed, in MB (10^6).
func loadBytes(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	l, err := newLoaded(ctx, t, "containerd")
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) (float64, error) {
		if err := l.changeSmall(); err != nil {
			return 0, err
		}
		tag, err := l.build(ctx)
		if err != nil {
			return 0, err
		}
		err = l.loadImage(ctx, tag)
		return float64(l.bytes.Load()) / 1e6, err
	}, nil, nil
}

// loadUnchanged measures how long it takes to see that the node has the image, in ms.
func loadUnchanged(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	l, err := newLoaded(ctx, t, "containerd")
	if err != nil {
		return nil, nil, err
	}
	tag, err := l.build(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := l.loadImage(ctx, tag); err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) (float64, error) {
		begin := time.Now()
		missing, err := l.cluster.Missing(ctx, []name.Tag{tag})
		if len(missing) > 0 {
			err = errors.New("the node lacks the image that it was given")
		}
		return float64(time.Since(begin)) / float64(time.Millisecond), err
	}, nil, nil
}

// buildInNode measures from a changed large layer until the node holds the image, built there; the
// alternative builds here and loads it.
func buildInNode(runtime string) func(context.Context, *testbed) (ours, theirs sample, err error) {
	return func(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
		l, err := newLoaded(ctx, t, runtime)
		if err != nil {
			return nil, nil, err
		}
		inNode, err := l.inNode(ctx, t, runtime)
		if err != nil {
			return nil, nil, err
		}
		input, err := l.input(ctx)
		if err != nil {
			return nil, nil, err
		}
		lacking, err := inNode.MissingBases(ctx, input)
		if err != nil {
			return nil, nil, err
		}
		for _, tag := range lacking {
			if err := l.loadImage(ctx, tag); err != nil {
				return nil, nil, err
			}
		}
		ours = func(ctx context.Context) (float64, error) {
			if err := l.changeLarge(); err != nil {
				return 0, err
			}
			begin := time.Now()
			input, err := l.input(ctx)
			if err != nil {
				return 0, err
			}
			err = inNode.Build(ctx, func(event.Event) {}, input)
			return time.Since(begin).Seconds(), err
		}
		theirs = func(ctx context.Context) (float64, error) {
			if err := l.changeLarge(); err != nil {
				return 0, err
			}
			tag := fmt.Sprintf("bench-load:theirs-%d", time.Now().UnixNano())
			begin := time.Now()
			if _, err := output(ctx, "docker", "build", "--quiet", "--tag", tag, "--build-arg", "SEED="+l.seed,
				l.dir); err != nil {
				return 0, err
			}
			err := l.whole(ctx, tag)
			return time.Since(begin).Seconds(), err
		}
		return ours, theirs, nil
	}
}

func (l *loaded) inNode(ctx context.Context, t *testbed, runtime string) (*build.Builder, error) {
	if runtime == "docker" {
		docker, err := l.cluster.Docker()
		if err != nil {
			return nil, err
		}
		t.cleanup(func(context.Context) error { return docker.Close() })
		return l.builder.InDocker(docker, build.Place{}), nil
	}
	dial, err := l.cluster.BuildKit()
	if err != nil {
		return nil, err
	}
	return l.builder.InContainerd(ctx, dial, l.cluster, build.Place{})
}
