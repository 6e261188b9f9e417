package portforward

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/devloop/devloop/pkg/event"
)

// watchBackoff spaces attempts to watch again. The informers' own default grows to a minute, long
// after an API server has restarted.
var watchBackoff = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 4, Cap: time.Second, Jitter: 0.2}

// pods knows which pods of the target take connections now: those that are ready and not being
// deleted. Its watches outlive restarts of the API server. Meanwhile the last known pods count.
type pods struct {
	target Target
	client kubernetes.Interface
	dialer *dialer
	status *status
	found  func(owner metav1.Object) // is called with the object that selects the pods

	mu      sync.Mutex
	ready   []*tunnelPool // sorted by pod name
	reason  error         // why none is
	changed chan struct{} // closed and replaced when ready changes
	turn    int           // index of the pod whose turn it is

	broken chan error // a pool's panic
}

func newPods(t Target, client kubernetes.Interface, d *dialer, s *status) *pods {
	return &pods{target: t, client: client, dialer: d, status: s, changed: make(chan struct{}),
		reason: errors.New("the cluster has not answered yet"), broken: make(chan error, 1)}
}

// pick waits for a ready pod. Several take turns, but one with a tunnel at hand goes first. If ctx
// ends before a pod is ready, the error says why none was.
func (p *pods) pick(ctx context.Context) (*tunnelPool, error) {
	for {
		p.mu.Lock()
		changed, reason := p.changed, p.reason
		if n := len(p.ready); n > 0 {
			defer p.mu.Unlock()
			turn := p.turn % n
			for i := range n {
				if next := (p.turn + i) % n; p.ready[next].hasRoom.Load() {
					turn = next
					break
				}
			}
			p.turn = turn + 1
			return p.ready[turn], nil
		}
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, reason
		}
	}
}

// run follows the cluster until ctx ends. Goroutines that it starts belong to group and end with
// ctx, too.
func (p *pods) run(ctx context.Context, group *sync.WaitGroup) error {
	ownerQuery, podQuery, err := p.target.queries(p.client)
	if err != nil {
		return err
	}
	// Each list is nil until the cluster has answered; where no object owns the pods, it is empty.
	var pods, owners []any
	podLists, ownerLists := p.follow(ctx, group, podQuery), (<-chan []any)(nil)
	if ownerQuery != nil {
		ownerLists = p.follow(ctx, group, ownerQuery)
	} else {
		owners = []any{}
	}
	pools := map[string]*tunnelPool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-p.broken:
			panic(err) // all of it starts again
		case pods = <-podLists:
		case owners = <-ownerLists:
		}
		if pods != nil && owners != nil {
			for _, o := range owners {
				if owner, ok := o.(metav1.Object); ok && owner.GetName() == p.target.Name {
					p.found(owner)
				}
			}
			backends, reason := p.target.backends(owners, pods)
			p.reconcile(ctx, group, pools, backends, reason)
		}
	}
}

// follow sends what the query selects, at first and after each change, until ctx ends. The
// reflector's own logger is silent: reportWatch has what matters.
func (p *pods) follow(ctx context.Context, group *sync.WaitGroup, q *query) <-chan []any {
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := q.list(ctx, q.narrow(o))
			p.reportWatch(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := q.watch(ctx, q.narrow(o))
			p.reportWatch(ctx, err)
			return w, err
		},
	}
	lists := make(chan []any)
	store := cache.NewUndeltaStore(func(objects []any) {
		select {
		case lists <- objects:
		case <-ctx.Done():
		}
	}, cache.MetaNamespaceKeyFunc)
	backoff, silent := watchBackoff, klog.Logger{}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(source, p.client), q.kind,
		store, cache.ReflectorOptions{Backoff: &backoff, Logger: &silent, Name: "portforward"})
	group.Go(func() {
		p.status.stage.Supervise(klog.NewContext(ctx, silent), "watch of pods", reflector.RunWithContext)
	})
	return lists
}

// reportWatch warns once while the cluster cannot be watched.
func (p *pods) reportWatch(ctx context.Context, err error) {
	switch {
	case err == nil:
		p.status.resolved(cannotWatch, "")
	case ctx.Err() != nil: // shutdown
	case apierrors.IsInvalid(err), apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		// The reflector handles these.
	default:
		p.status.warnOnce(cannotWatch, "", err)
	}
}

// reconcile offers ready backends to new connections and has tunnels opened to those that start.
// Pods that are gone or no longer ready are retired: their open connections go on.
func (p *pods) reconcile(ctx context.Context, group *sync.WaitGroup, pools map[string]*tunnelPool,
	backends []backend, reason error) {
	var ready []*tunnelPool
	var names []string
	obsolete := maps.Clone(pools)
	for _, b := range backends {
		pool := pools[b.key()]
		if pool != nil && pool.used && !b.ready {
			continue
		}
		if pool == nil {
			pool = p.start(ctx, group, b)
			pools[b.key()] = pool
		}
		delete(obsolete, b.key())
		if b.ready {
			pool.used = true
			ready = append(ready, pool)
			names = append(names, b.pod)
		}
	}
	for key, pool := range obsolete {
		close(pool.retired)
		delete(pools, key)
	}

	p.mu.Lock()
	p.ready, p.reason = ready, reason
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	p.status.setPods(names, reason)
}

// start runs a pool of tunnels to a backend.
func (p *pods) start(ctx context.Context, group *sync.WaitGroup, b backend) *tunnelPool {
	pool := newTunnelPool(b, p.dialer, p.status, group)
	group.Go(func() {
		err := event.Guard(func() error {
			pool.run(ctx)
			return nil
		})
		if err != nil {
			select {
			case p.broken <- err:
			default: // another panic is pending already
			}
		}
	})
	return pool
}
