package portforward

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const cannotWatch = "pods cannot be watched, the last known ones are used"

// rewatch is how soon a lost watch is tried again. The informers' own default grows to a minute, which is long after
// an API server has restarted.
var rewatch = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 5, Cap: 2 * time.Second, Jitter: 0.2}

// pods knows which pods of the service take connections now: ready, and not terminating. It is told by watches, which
// outlive restarts of the API server; while that is away, the last known pods count.
type pods struct {
	spec   Spec
	client kubernetes.Interface
	dialer *dialer
	voice  *voice

	mu    sync.Mutex
	ready []*podTunnels // by name
	why   error         // none is
	news  chan struct{} // closed and replaced when ready changes
	next  int           // whose turn it is
}

func newPods(spec Spec, client kubernetes.Interface, d *dialer, v *voice) *pods {
	return &pods{
		spec: spec, client: client, dialer: d, voice: v,
		why: errors.New("the cluster has not answered yet"), news: make(chan struct{}),
	}
}

// pick waits for a ready pod; several take turns. If ctx ends first, the error says why there was none.
func (p *pods) pick(ctx context.Context) (*podTunnels, error) {
	for {
		p.mu.Lock()
		news, why := p.news, p.why
		if n := len(p.ready); n > 0 {
			p.next++
			defer p.mu.Unlock()
			return p.ready[p.next%n], nil
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
func (p *pods) run(ctx context.Context, group *sync.WaitGroup) {
	changed := make(chan struct{}, 1)
	byName := fields.OneTermEqualSelector(metav1.ObjectNameField, p.spec.Service).String()
	api := p.client.CoreV1()
	services := p.follow(ctx, group, changed, &corev1.Service{}, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = byName
			list, err := api.Services(p.spec.Namespace).List(ctx, o)
			return list, p.heard(ctx, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = byName
			w, err := api.Services(p.spec.Namespace).Watch(ctx, o)
			return w, p.heard(ctx, err)
		},
	})
	all := p.follow(ctx, group, changed, &corev1.Pod{}, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := api.Pods(p.spec.Namespace).List(ctx, o)
			return list, p.heard(ctx, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := api.Pods(p.spec.Namespace).Watch(ctx, o)
			return w, p.heard(ctx, err)
		},
	})

	known := map[string]*podTunnels{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		if !services.listed.Load() || !all.listed.Load() {
			continue
		}
		targets, why := targets(p.spec, services.List(), all.List())
		p.become(ctx, group, known, targets, why)
	}
}

// heard passes on the error of a question to the cluster, and tells of it once.
func (p *pods) heard(ctx context.Context, err error) error {
	switch {
	case err == nil:
		p.voice.over(cannotWatch)
	case ctx.Err() != nil: // the end, not a trouble
	case apierrors.IsInvalid(err), apierrors.IsResourceExpired(err), apierrors.IsGone(err): // the reflector asks in another way
	default:
		p.voice.trouble(cannotWatch, err)
	}
	return err
}

// follow keeps a store like the cluster, and tells changed. The reflector is the part of an informer that watches; its
// logger is silent, since heard tells what matters.
func (p *pods) follow(ctx context.Context, group *sync.WaitGroup, changed chan struct{}, kind runtime.Object, lw *cache.ListWatch) *store {
	s := &store{Store: cache.NewStore(cache.MetaNamespaceKeyFunc), changed: changed}
	backoff, silent := rewatch, klog.Logger{}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, p.client), kind, s,
		cache.ReflectorOptions{Backoff: &backoff, Logger: &silent, Name: "portforward"})
	group.Go(func() { reflector.RunWithContext(klog.NewContext(ctx, silent)) })
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

// target is a pod that takes connections, and its port.
type target struct {
	pod, uid string
	port     int
}

// key tells two targets apart that have the same name: a StatefulSet's pod keeps its name.
func (t target) key() string { return fmt.Sprintf("%s:%d", t.uid, t.port) }

// become makes targets what new connections get. Pods that are gone are retired: their connections go on.
func (p *pods) become(ctx context.Context, group *sync.WaitGroup, known map[string]*podTunnels, targets []target, why error) {
	var ready []*podTunnels
	var added []target
	gone := map[string]bool{}
	for key := range known {
		gone[key] = true
	}
	for _, t := range targets {
		if known[t.key()] == nil {
			tunnels := newPodTunnels(t.pod, t.port, p.dialer, p.voice, group)
			group.Go(func() { tunnels.run(ctx) })
			known[t.key()] = tunnels
			added = append(added, t)
		}
		delete(gone, t.key())
		ready = append(ready, known[t.key()])
	}
	for key := range gone {
		close(known[key].retired)
		delete(known, key)
	}

	p.mu.Lock()
	before := p.why
	p.ready, p.why = ready, why
	close(p.news)
	p.news = make(chan struct{})
	p.mu.Unlock()

	for _, t := range added {
		p.voice.over(heldTooLong)
		p.voice.note("forward ready", "pod", t.pod, "port", t.port)
	}
	if why != nil && (before == nil || before.Error() != why.Error()) {
		p.voice.note("no ready pod, new connections wait", "reason", why.Error())
	}
}

// targets are the pods that take the service's connections, by name, or the reason why there are none.
func targets(spec Spec, services, pods []any) ([]target, error) {
	var service *corev1.Service
	for _, o := range services {
		if s, ok := o.(*corev1.Service); ok && s.Name == spec.Service {
			service = s
		}
	}
	if service == nil {
		return nil, fmt.Errorf("service %s/%s does not exist", spec.Namespace, spec.Service)
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool {
		return int(p.Port) == spec.Port && (p.Protocol == corev1.ProtocolTCP || p.Protocol == "")
	})
	if i < 0 {
		return nil, fmt.Errorf("service %s/%s has no TCP port %d", spec.Namespace, spec.Service, spec.Port)
	}
	if len(service.Spec.Selector) == 0 {
		return nil, fmt.Errorf("service %s/%s has no selector, so no pods", spec.Namespace, spec.Service)
	}
	selector := labels.SelectorFromSet(service.Spec.Selector)
	why := fmt.Errorf("no pod of service %s/%s is ready", spec.Namespace, spec.Service)
	var found []target
	for _, o := range pods {
		pod, ok := o.(*corev1.Pod)
		if !ok || !selector.Matches(labels.Set(pod.Labels)) || !takesConnections(pod) {
			continue
		}
		port := podPort(service.Spec.Ports[i], pod)
		if port == 0 {
			why = fmt.Errorf("pod %s has no port named %q", pod.Name, service.Spec.Ports[i].TargetPort.StrVal)
			continue
		}
		found = append(found, target{pod: pod.Name, uid: string(pod.UID), port: port})
	}
	if len(found) == 0 {
		return nil, why
	}
	slices.SortFunc(found, func(a, b target) int { return strings.Compare(a.pod, b.pod) })
	return found, nil
}

// takesConnections reports whether the cluster itself would send connections to the pod.
func takesConnections(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// podPort is the port of the pod that a port of its service stands for; 0 if its name is not in the pod.
func podPort(port corev1.ServicePort, pod *corev1.Pod) int {
	if port.TargetPort.Type == intstr.Int {
		if port.TargetPort.IntVal == 0 {
			return int(port.Port)
		}
		return int(port.TargetPort.IntVal)
	}
	for _, container := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) { // an init container may be a sidecar
		for _, p := range container.Ports {
			if p.Name == port.TargetPort.StrVal && (p.Protocol == corev1.ProtocolTCP || p.Protocol == "") {
				return int(p.ContainerPort)
			}
		}
	}
	return 0
}
