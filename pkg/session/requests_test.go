package session

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/watch"
)

// A request for a release waits with others for the loop: what is asked for together is run
// together, and a run of all releases is of each of them.
func TestRequestsForReleases(t *testing.T) {
	all, web, api := control.Request{What: control.Run}, control.Request{What: control.Run, Release: "web"},
		control.Request{What: control.Run, Release: "api"}
	for _, test := range []struct {
		ask  []control.Request
		save bool // first
		want []string
	}{
		{[]control.Request{web}, false, []string{"web"}},
		{[]control.Request{web, api, web}, false, []string{"web", "api"}},
		{[]control.Request{web, all}, false, nil},
		{[]control.Request{all, web}, false, nil},
		{[]control.Request{web}, true, nil},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		asked, batches, changes := make(chan control.Request), make(chan watch.Batch), make(chan loop.Change)
		c := &requests{refresh: func() {}, Inputs: Inputs{Requests: asked}, batches: batches}
		var running sync.WaitGroup
		running.Go(func() { c.run(ctx, changes) })
		if test.save {
			batches <- watch.Batch{Paths: []string{"/a"}}
		}
		for _, one := range test.ask {
			asked <- one
		}
		if got := <-changes; !got.Asked || !slices.Equal(got.Releases, test.want) || test.save && len(got.Paths) == 0 {
			t.Errorf("%+v: %+v", test, got)
		}
		cancel()
		running.Wait()
	}
}

// Once the image of synced files is there, pods may be replaced by it as if the user had asked.
func TestRollout(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	rollouts, changes := make(chan struct{}), make(chan loop.Change)
	c := &requests{rollouts: rollouts}
	var running sync.WaitGroup
	running.Go(func() { c.run(ctx, changes) })
	rollouts <- struct{}{}
	if got := <-changes; !got.Asked || got.Releases != nil {
		t.Errorf("%+v", got)
	}
	cancel()
	running.Wait()
}

// While saves wait, so do pods: a run for them would deploy the saves.
func TestNoRolloutWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		asked, rollouts, changes := make(chan control.Request), make(chan struct{}, 1), make(chan loop.Change)
		c := &requests{Inputs: Inputs{Requests: asked}, rollouts: rollouts}
		var running sync.WaitGroup
		running.Go(func() { c.run(ctx, changes) })
		asked <- control.Request{What: control.Pause}
		rollouts <- struct{}{}
		synctest.Wait()
		if len(rollouts) == 0 {
			t.Error("a run was asked for")
		}
		asked <- control.Request{What: control.Resume}
		if got := <-changes; !got.Asked {
			t.Errorf("%+v", got)
		}
		cancel()
		running.Wait()
	})
}
