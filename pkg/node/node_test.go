package node

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

// TestKnownNames: nodes are asked about names that they may have, and about all after knownFor.
func TestKnownNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k knownNames
		if k.noneOf([]string{"a"}) {
			t.Error("no node was asked yet")
		}
		k.set([]string{"a"})
		for _, c := range []struct {
			names []string
			want  bool
		}{{[]string{"a"}, false}, {[]string{"b"}, true}, {[]string{"b", "a"}, false}} {
			if got := k.noneOf(c.names); got != c.want {
				t.Errorf("%v: %t", c.names, got)
			}
		}
		k.add("b")
		if k.noneOf([]string{"b"}) {
			t.Error("b may be there by now")
		}
		k.set([]string{"d"}) // an answer of before b came
		if k.noneOf([]string{"b"}) {
			t.Error("b is forgotten")
		}
		<-time.After(knownFor + time.Second)
		if k.noneOf([]string{"c"}) {
			t.Error("the answer is too old")
		}
	})
}

// namedImages is a runtime that has images of these names.
type namedImages struct {
	runtime
	held []string
}

func (r *namedImages) names(context.Context, *node) ([]string, error) { return r.held, nil }

// TestPresent: an image on one of several nodes is missing, and present. What another program has
// brought there counts at once.
func TestPresent(t *testing.T) {
	first := &namedImages{held: []string{"docker.io/library/worker:1", "docker.io/library/worker:2"}}
	second := &namedImages{held: []string{"docker.io/library/worker:1"}}
	c := &Cluster{nodes: []*node{{name: "n1", runtime: first}, {name: "n2", runtime: second}}}
	tags := []name.Tag{newTag(t, "worker:1"), newTag(t, "worker:2"), newTag(t, "worker:3")}
	if missing, err := c.Missing(t.Context(), tags); err != nil || !slices.Equal(missing, tags[1:]) {
		t.Errorf("missing: %v, %v", missing, err)
	}
	if present, err := c.Present(t.Context(), tags); err != nil || !slices.Equal(present, tags[:2]) {
		t.Errorf("present: %v, %v", present, err)
	}
	second.held = append(second.held, "docker.io/library/worker:4")
	brought := []name.Tag{newTag(t, "worker:4")}
	if present, err := c.Present(t.Context(), brought); err != nil || !slices.Equal(present, brought) {
		t.Errorf("brought: %v, %v", present, err)
	}
	if present, err := (&Cluster{}).Present(t.Context(), tags); err != nil || len(present) > 0 {
		t.Errorf("without nodes: %v, %v", present, err)
	}
}

// meeting is a runtime that answers once so many nodes are asked at the same time.
type meeting struct {
	runtime
	missing atomic.Int64
	all     chan struct{}
}

func (m *meeting) digest(ctx context.Context, _ *node, _ string) (string, error) {
	if m.missing.Add(-1) == 0 {
		close(m.all)
	}
	select {
	case <-m.all:
		return "", nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// Nodes are not asked one after the other: each has a connection of its own.
func TestInspectAsksAllNodesAtOnce(t *testing.T) {
	m := &meeting{all: make(chan struct{})}
	m.missing.Store(3 * loads)
	c := &Cluster{}
	for i := range 3 * loads {
		c.nodes = append(c.nodes, &node{name: fmt.Sprint("node-", i), runtime: m})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tags := []name.Tag{newTag(t, "app:1"), newTag(t, "app:2")}
	images, err := c.Inspect(ctx, tags)
	if err != nil || len(images) != 2*len(c.nodes) {
		t.Fatalf("%d images: %v", len(images), err)
	}
	for i, image := range images {
		if image.Tag != tags[i/len(c.nodes)] || image.Node != c.nodes[i%len(c.nodes)].name {
			t.Errorf("image %d is %v", i, image)
		}
	}
}
