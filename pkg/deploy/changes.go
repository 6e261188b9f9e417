package deploy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/devloop/devloop/pkg/event"
)

// missedChange is how late a change is seen that no watch has told of.
const missedChange = time.Second

// changes tells which workloads change. It says no more than that: what they are now is always read
// from the API server. Pods are not watched, of which a namespace may be full: a workload's own
// status changes when its pods become ready.
type changes struct {
	deployer *Deployer
	stage    event.Stage
	began    time.Time
	wake     chan struct{} // holds a token after a change
	blind    atomic.Int32  // how many watches do not work

	mu    sync.Mutex
	names map[watched]map[string]bool // of the workloads, and whether they have changed

	ctx   context.Context //nolint:containedctx // of the watches
	stop  context.CancelFunc
	ended sync.WaitGroup
}

// watched is what a watch follows: all objects of a kind in a namespace.
type watched struct{ kind, namespace string }

func (d *Deployer) newChanges(ctx context.Context, stage event.Stage) *changes {
	ctx, stop := context.WithCancel(ctx)
	return &changes{deployer: d, stage: stage, began: time.Now(), wake: make(chan struct{}, 1),
		names: map[watched]map[string]bool{}, ctx: ctx, stop: stop}
}

// follow watches the workloads until close.
func (c *changes) follow(workloads []workload) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range workloads {
		what := watched{w.kind, w.namespace}
		if c.names[what] == nil {
			c.names[what] = map[string]bool{}
			c.blind.Add(1)
			c.ended.Go(func() {
				c.stage.Supervise(c.ctx, "watch of a rollout", func(ctx context.Context) { c.run(ctx, what) })
			})
		}
		if _, known := c.names[what][w.name]; !known {
			c.names[what][w.name] = true // it may have changed since it was inspected
		}
	}
}

func (c *changes) close() {
	c.stop()
	c.ended.Wait()
}

// take returns which workloads have changed since the call before.
func (c *changes) take() (changed func(workload) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := c.names
	c.names = map[watched]map[string]bool{}
	for what, of := range names {
		c.names[what] = map[string]bool{}
		for name := range of {
			c.names[what][name] = false
		}
	}
	return func(w workload) bool { return names[watched{w.kind, w.namespace}][w.name] }
}

// tell notes a change of a workload, or of all of them where name is "".
func (c *changes) tell(what watched, name string) {
	c.mu.Lock()
	of := c.names[what]
	_, followed := of[name]
	for each := range of {
		of[each] = of[each] || name == "" || name == each
	}
	c.mu.Unlock()
	if !followed && name != "" {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// interval is how often something is inspected that no watch tells of.
func (c *changes) interval() time.Duration {
	switch {
	case c.blind.Load() == 0:
		return missedChange
	case time.Since(c.began) < youngRollout:
		return youngPollInterval
	}
	return pollInterval
}

// next returns when it is time to look again: after a change, or after atMost.
func (c *changes) next(ctx context.Context, atMost time.Duration) error {
	return awaitChange(ctx, c.wake, atMost)
}

// run watches again when a watch ends.
func (c *changes) run(ctx context.Context, what watched) {
	for ctx.Err() == nil {
		c.watch(ctx, what)
		_ = sleep(ctx, missedChange)
	}
}

// watch tells of what changes from now on. It returns when that cannot be told any more, or not at
// all: a user need not be allowed to watch.
func (c *changes) watch(ctx context.Context, what watched) {
	asks := c.deployer.asksFor(what)
	now, err := asks.ListWithContext(ctx, metav1.ListOptions{Limit: 1}) // for the version alone
	if err != nil {
		return
	}
	list, err := meta.ListAccessor(now)
	if err != nil {
		return
	}
	watching, err := asks.WatchWithContext(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
	if err != nil {
		return
	}
	defer watching.Stop()
	c.blind.Add(-1)
	defer c.blind.Add(1)
	c.tell(what, "") // it may have, before that
	for {
		select {
		case e, open := <-watching.ResultChan():
			object, err := meta.Accessor(e.Object)
			if !open || e.Type == watch.Error || err != nil {
				return
			}
			c.tell(what, object.GetName())
		case <-ctx.Done():
			return
		}
	}
}

// asksFor returns how a kind is asked for.
func (d *Deployer) asksFor(what watched) *cache.ListWatch {
	apps := d.cluster.Client.AppsV1()
	switch what.kind {
	case "deployment":
		return listWatch(apps.Deployments(what.namespace))
	case "statefulset":
		return listWatch(apps.StatefulSets(what.namespace))
	case "job":
		return listWatch(d.cluster.Client.BatchV1().Jobs(what.namespace))
	default:
		return listWatch(apps.DaemonSets(what.namespace))
	}
}

func listWatch[L runtime.Object](of interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return of.List(ctx, o)
		},
		WatchFuncWithContext: of.Watch,
	}
}
