package session

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/loop"
)

// The canary of an image that only a chart names waits until the charts are rendered: before that
// nobody knows where it is going to run.
func TestNamespaceOfACanary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &config.Config{Images: []config.Image{{Name: "worker"}, {Name: "client"}},
			Releases: []config.Release{{Name: "web", Namespace: "apps", Set: map[string]any{"image": `{{ image "client" }}`}}}}
		p := platformStage{deployer: deploy.New(&kube.Cluster{}, "demo", &journal.Journal{}, deploy.Options{}), config: c,
			rendered: make(chan struct{})}
		if got, err := p.namespaceOf(t.Context(), &loop.Image{Name: "client"}); got != "apps" || err != nil {
			t.Errorf("of an image that devloop.yaml names: %q, %v", got, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 2)
		ask := func(ctx context.Context) {
			_, err := p.namespaceOf(ctx, &loop.Image{Name: "worker"})
			ended <- err
		}
		go ask(ctx)
		synctest.Wait()
		if len(ended) > 0 {
			t.Error("it does not wait for the charts")
		}
		cancel(event.ErrSuperseded)
		if err := <-ended; !errors.Is(err, event.ErrSuperseded) {
			t.Errorf("after a newer save: %v", err)
		}
		go ask(t.Context())
		synctest.Wait()
		close(p.rendered)
		if err := <-ended; err != nil {
			t.Errorf("after they were rendered: %v", err)
		}
	})
}
