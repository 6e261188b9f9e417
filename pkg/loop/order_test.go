package loop

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// builder builds images for a second each, and notes when it begins.
type builder struct {
	images
	mu    sync.Mutex
	began map[string]time.Duration
	since time.Time
	fails string // the image that does
	host  []string
}

func (b *builder) Build(_ context.Context, _ event.Sink, image *Image) (loaded bool, err error) {
	if slices.Contains(b.host, image.Name) {
		return false, nil
	}
	b.mu.Lock()
	b.began[image.Name] = time.Since(b.since)
	b.mu.Unlock()
	<-time.After(time.Second)
	if image.Name == b.fails {
		return false, event.WithHint(errors.New("image "+image.Name+": RUN false"), "fix it")
	}
	return true, nil
}

// TestBuildOrder: an image is built after those that it is built from, beside all others. Those
// that a node or the host has are not waited for, and what needs a failed one is not built.
func TestBuildOrder(t *testing.T) {
	target := &Target{Images: []*Image{
		{Name: "base"}, {Name: "mid", Bases: []string{"base"}}, {Name: "other"},
		{Name: "app", Bases: []string{"base", "mid"}}, {Name: "tool", Bases: []string{"base"}},
	}}
	for says, test := range map[string]struct {
		found []string // on the node
		host  []string
		fails string
		began map[string]time.Duration
	}{
		"all": {began: map[string]time.Duration{
			"base": 0, "other": 0, "mid": time.Second, "tool": time.Second, "app": 2 * time.Second}},
		"the lowest is on the node": {found: []string{"base"}, began: map[string]time.Duration{
			"other": 0, "mid": 0, "tool": 0, "app": time.Second}},
		"the lowest is on the host": {host: []string{"base"}, began: map[string]time.Duration{
			"other": 0, "mid": 0, "tool": 0, "app": time.Second}},
		"the lowest fails": {fails: "base", began: map[string]time.Duration{"base": 0, "other": 0}},
		"one in between fails": {fails: "mid", began: map[string]time.Duration{
			"base": 0, "other": 0, "mid": time.Second, "tool": time.Second}},
	} {
		t.Run(says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &builder{began: map[string]time.Duration{}, since: time.Now(), fails: test.fails, host: test.host}
				missing := slices.DeleteFunc(slices.Clone(target.Images),
					func(image *Image) bool { return slices.Contains(test.found, image.Name) })
				err := Stages{Images: b, Nodes: &world{node: map[string]bool{}}}.Deliver(t.Context(), func(event.Event) {}, missing,
					func(*Image) {})
				if len(b.began) != len(test.began) {
					t.Errorf("built %v", b.began)
				}
				for name, when := range test.began {
					if got, ok := b.began[name]; !ok || got != when {
						t.Errorf("%s: %t, after %s, not %s", name, ok, got, when)
					}
				}
				switch {
				case test.fails == "" && err != nil:
					t.Error(err)
				case test.fails != "" && (err == nil || strings.Count(err.Error(), "image ") != 1):
					t.Errorf("not one error: %v", err)
				}
			})
		})
	}
}
