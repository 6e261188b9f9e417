package session

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/proof"
)

func TestImagesOf(t *testing.T) {
	c := &config.Config{Images: []config.Image{{Name: "base"}, {Name: "worker"}, {Name: "client"},
		{Name: "etl", Args: map[string]string{"BASE": `{{ image "base" }}`, "WORKER": `{{ image "worker" }}`}}},
		Releases: []config.Release{
			{Name: "gateway", Namespace: "n", Set: config.SetValues{"image": `{{ repository "worker" }}`}},
			{Name: "session", Namespace: "n", Set: config.SetValues{"image": `{{ image "client" }}`,
				"worker": `{{ image "worker" }}`}}, {Name: "plain", Namespace: "n"},
		}}
	now := &expected{target: target{config: c}}
	for _, r := range c.Releases {
		now.images = append(now.images, imagesOf(c, deploy.New(nil, "demo", nil, deploy.Options{}), r))
	}
	for release, want := range []string{"worker", "client worker", "etl"} {
		if got := strings.Join(now.imagesOf(release), " "); got != want {
			t.Errorf("release %d: %q, not %q", release, got, want)
		}
	}
}

// Pods replaced in a group cause one check; an endless stream of them does not prevent it.
func TestPodsSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProver(inspector{}, nil)
		begun := time.Now()
		stop := make(chan struct{})
		go func() {
			for ticker := time.NewTicker(replacedQuiet / 2); ; {
				select {
				case <-ticker.C:
					p.replaced <- struct{}{}
				case <-stop:
					ticker.Stop()
					return
				}
			}
		}()
		quiet, took := p.waitQuiet(t.Context()), time.Since(begun)
		if !quiet || took < replacedLimit || took > replacedLimit+replacedQuiet {
			t.Errorf("those that never cease: after %s", took)
		}
		stop <- struct{}{}
		select {
		case <-p.replaced:
		default:
		}
		begun = time.Now()
		if !p.waitQuiet(t.Context()) || time.Since(begun) != replacedQuiet {
			t.Errorf("one: after %s", time.Since(begun))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if p.waitQuiet(ctx) {
			t.Error("they settle after the end")
		}
	})
}

// What is old is decided by what was deployed, wherever in the values it stands.
func TestDeployedImages(t *testing.T) {
	c := &config.Config{Images: []config.Image{{Name: "worker"}, {Name: "client"}}}
	images := deployedImages(c, []string{"ClusterIP", "worker", "ce6fdce58d884543", "client:566dd06af37aff33",
		"r.example/x:ab6fdce58d884543@sha256:00", "ce6fdce58d88454", "v1"})
	var refs []string
	for _, i := range images {
		refs = append(refs, i.Ref)
	}
	want := "worker:ce6fdce58d884543 client:ce6fdce58d884543 worker:566dd06af37aff33 client:566dd06af37aff33 " +
		"worker:ab6fdce58d884543 client:ab6fdce58d884543"
	if got := strings.Join(refs, " "); got != want {
		t.Errorf("%s, not %s", got, want)
	}
	old := proof.Old(proof.Findings{Images: images}, event.DaskClusters{{Name: "new", Image: "worker:ce6fdce58d884543"},
		{Name: "old", Image: "worker:712c3a91dcb384c3"}, {Name: "of another tool", Image: "worker:v1"},
		{Name: "theirs", Image: "x:v1"}})
	if len(old) != 2 || old[0].Name != "of another tool" || old[1].Name != "old" {
		t.Errorf("old: %v", old)
	}
	old = proof.Old(proof.Findings{}, event.DaskClusters{{Name: "old", Image: "worker:712c3a91dcb384c3"}})
	if len(old) != 0 {
		t.Errorf("where nothing is deployed, nothing is old: %v", old)
	}
}
