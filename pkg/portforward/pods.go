package portforward

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
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

// rewatch is how soon a lost watch is tried again. The informers' own default grows to a minute, which is long after
// an API server has restarted.
var rewatch = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 4, Cap: time.Second, Jitter: 0.2}

// pods knows which pods of the target take connections now: ready, and not terminating. It is told by watches, which
// outlive restarts of the API server; while that is away, the last known pods count.
type pods struct {
	target Target
	client kubernetes.Interface
	dialer *dialer
	status *status

	mu    sync.Mutex
	ready []*podTunnels // by name
	why   error         // none is
	news  chan struct{} // closed and replaced when ready changes
	next  int           // whose turn it is

	broken chan error // what the tunnels to a pod have panicked with
}

func newPods(t Target, client kubernetes.Interface, d *dialer, s *status) *pods {
	return &pods{
		target: t, client: client, dialer: d, status: s,
		why: errors.New("the cluster has not answered yet"), news: make(chan struct{}), broken: make(chan error, 1),
	}
}

// pick waits for a ready pod; several take turns, but for those that it would have to wait for. If ctx ends first, the error says why
// there was none.
func (p *pods) pick(ctx context.Context) (*podTunnels, error) {
	for {
		p.mu.Lock()
		news, why := p.news, p.why
		if n := len(p.ready); n > 0 {
			defer p.mu.Unlock()
			turn := p.next % n
			for i := range n {
				if at := (p.next + i) % n; p.ready[at].room.Load() {
					turn = at
					break
				}
			}
			p.next = turn + 1
			return p.ready[turn], nil
		}
		p.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return nil, why
		}
	}
}

// run follows the cluster until ctx ends; what it starts is in group and ends with ctx, too.
func (p *pods) run(ctx context.Context, group *sync.WaitGroup) error {
	owner, all, err := p.target.watches(p.client)
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	stores := []*store{p.follow(ctx, group, changed, all)}
	if owner != nil {
		stores = append(stores, p.follow(ctx, group, changed, owner))
	}
	known := map[string]*podTunnels{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-p.broken:
			panic(err) // all begins anew
		case <-changed:
		}
		var lists [2][]any // pods, and their owner
		listed := true
		for i, s := range stores {
			lists[i] = s.List()
			listed = listed && s.listed.Load()
		}
		if listed {
			backends, why := p.target.backends(lists[1], lists[0])
			p.become(ctx, group, known, backends, why)
		}
	}
}

// heard passes on the error of a question to the cluster, and tells of it once.
func (p *pods) heard(ctx context.Context, err error) error {
	switch {
	case err == nil:
		p.status.over(cannotWatch, "")
	case ctx.Err() != nil: // the end, not a trouble
	case apierrors.IsInvalid(err), apierrors.IsResourceExpired(err), apierrors.IsGone(err): // the reflector asks in another way
	default:
		p.status.trouble(cannotWatch, "", err)
	}
	return err
}

// follow keeps a store like the cluster, and tells changed. The reflector is the part of an informer that watches; its
// logger is silent, since heard tells what matters.
func (p *pods) follow(ctx context.Context, group *sync.WaitGroup, changed chan struct{}, what *watched) *store {
	told := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := what.list.ListWithContext(ctx, o)
			return list, p.heard(ctx, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := what.list.WatchWithContext(ctx, o)
			return w, p.heard(ctx, err)
		},
	}
	s := &store{Store: cache.NewStore(cache.MetaNamespaceKeyFunc), changed: changed}
	backoff, silent := rewatch, klog.Logger{}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(told, p.client), what.kind, s,
		cache.ReflectorOptions{Backoff: &backoff, Logger: &silent, Name: "portforward"})
	group.Go(func() { p.status.stage.Keep(klog.NewContext(ctx, silent), "watch of pods", reflector.RunWithContext) })
	return s
}

// store tells when it changed.
type store struct {
	cache.Store
	listed  atomic.Bool // it has been complete once
	changed chan struct{}
}

func (s *store) told(err error) error {
	select {
	case s.changed <- struct{}{}:
	default: // one is waiting to be seen
	}
	return err
}

func (s *store) Add(o any) error    { return s.told(s.Store.Add(o)) }
func (s *store) Update(o any) error { return s.told(s.Store.Update(o)) }
func (s *store) Delete(o any) error { return s.told(s.Store.Delete(o)) }
func (s *store) Replace(list []any, version string) error {
	err := s.Store.Replace(list, version)
	s.listed.Store(true)
	return s.told(err)
}

// become makes backends that are ready what new connections get, and has tunnels dialled to those that start. Pods that are gone, or
// no longer ready, are retired: their connections go on.
func (p *pods) become(ctx context.Context, group *sync.WaitGroup, known map[string]*podTunnels, backends []backend, why error) {
	var ready []*podTunnels
	names := []string{}
	gone := map[string]bool{}
	for key := range known {
		gone[key] = true
	}
	for _, b := range backends {
		tunnels := known[b.key()]
		if tunnels != nil && tunnels.used && !b.ready {
			continue
		}
		if tunnels == nil {
			tunnels = newPodTunnels(b, p.dialer, p.status, group)
			group.Go(func() {
				err := event.Guard(func() error {
					tunnels.run(ctx)
					return nil
				})
				if err != nil {
					select {
					case p.broken <- err:
					default: // one is enough
					}
				}
			})
			known[b.key()] = tunnels
		}
		delete(gone, b.key())
		if b.ready {
			tunnels.used = true
			ready = append(ready, tunnels)
			names = append(names, b.pod)
		}
	}
	for key := range gone {
		close(known[key].retired)
		delete(known, key)
	}

	p.mu.Lock()
	p.ready, p.why = ready, why
	close(p.news)
	p.news = make(chan struct{})
	p.mu.Unlock()
	p.status.leadsTo(names, why)
}
