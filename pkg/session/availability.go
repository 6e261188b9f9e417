package session

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// askInterval is how often the cluster is asked whether it is there. A request that got no
	// answer asks at once.
	askInterval = 3 * time.Second
	// askTimeout is how long it may take to answer.
	askTimeout = 5 * time.Second
	// askPause is the least time between two questions.
	askPause = 500 * time.Millisecond
)

// availability knows whether the cluster can be used, and reports it once, when that changes, for
// all stages.
type availability struct {
	sink event.Sink // without the filter

	mu      sync.Mutex
	away    *kube.AwayError // nil while the cluster answers
	changed chan struct{}   // closed when that changes
}

func newAvailability(sink event.Sink) *availability {
	return &availability{sink: sink, changed: make(chan struct{})}
}

// watch asks the cluster from time to time until ctx ends.
func (a *availability) watch(ctx context.Context, cluster *kube.Cluster) {
	for a.rest(ctx, cluster.Trouble()) {
		asked, cancel := context.WithTimeout(ctx, askTimeout)
		err := cluster.Ping(asked)
		cancel()
		if ctx.Err() == nil {
			a.set(cluster.Context, err)
		}
	}
}

// rest waits until the next question is due. It returns false if ctx has ended.
func (a *availability) rest(ctx context.Context, trouble <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(askPause):
	}
	select {
	case <-ctx.Done():
		return false
	case <-trouble:
	case <-time.After(askInterval - askPause):
	}
	return true
}

// set takes the result of a Ping, and reports a change.
func (a *availability) set(kubeContext string, err error) {
	var away *kube.AwayError
	if err != nil && !errors.As(err, &away) {
		return // this says nothing about the cluster
	}
	a.mu.Lock()
	before := a.away
	same := (before == nil) == (away == nil) && (away == nil || before.State == away.State)
	if a.away = away; !same {
		close(a.changed)
		a.changed = make(chan struct{})
	}
	a.mu.Unlock()
	stage := a.sink.Stage("devloop")
	switch {
	case same:
	case away == nil:
		stage.Note(event.ClusterBack, event.Cluster{State: event.ClusterRunning}, "context", event.Name(kubeContext))
	default:
		stage.Warn(event.ClusterAway, away, event.Cluster{State: away.State})
	}
}

// now returns why the cluster cannot be used, nil if it can, and what is closed when that changes.
func (a *availability) now() (away *kube.AwayError, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.away, a.changed
}

// whileUsable returns a context that ends, with the reason, when the cluster can no longer be used.
// A cluster that is merely not answering gets some time to do so.
func (a *availability) whileUsable(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	go func() {
		for {
			away, changed := a.now()
			var timeout <-chan time.Time
			switch {
			case away == nil:
			case away.State == event.ClusterUnreachable:
				timeout = time.After(kube.AnswerTimeout)
			default:
				end(away)
				return
			}
			select {
			case <-changed:
			case <-timeout:
				end(away)
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() { end(nil) }
}

// affected are the stages whose errors only repeat that the cluster is away.
var affected = map[string]bool{"forward": true, event.PodStage: true, "proof": true, "node": true, "dask": true}

// filter returns a Sink that downgrades to details the errors that only follow from the cluster
// being away, which has been reported.
func (a *availability) filter(next event.Sink) event.Sink {
	return func(e event.Event) {
		if affected[e.Stage] && (e.Phase == event.Warned || e.Message == event.ForwardWaits) {
			if away, _ := a.now(); away != nil {
				e.Phase = event.Detailed
			}
		}
		next(e)
	}
}
