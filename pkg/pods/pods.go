// Package pods follows the pods of releases, and those that users start through what was deployed,
// reads their logs without gaps, and runs commands in them.
package pods

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	apiwait "k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// logGrace is how long a container's log is still read once its pod is gone.
	logGrace = 5 * time.Second
	// reasonLength limits why a pod is not ready, in bytes.
	reasonLength = 300
	// phaseEnding is the phase of a pod that is being deleted; Kubernetes has no name for it.
	phaseEnding = "Ending"
)

// rewatch is the backoff of a lost watch. The reflector's default grows to half a minute.
var rewatch = apiwait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 4, Cap: time.Second, Jitter: 0.2}

// Scope is which pods are followed.
type Scope struct {
	Releases   []types.NamespacedName // their pods in the release's namespace, and in
	Namespaces []string               // others that have objects of releases
	Selectors  []Selector             // for pods that users start
}

// Selector selects pods by their labels.
type Selector struct {
	Namespace string
	Selector  string // "gateway.dask.org/cluster"; the label that it requires to exist groups the pods
}

// Observer sees all pods of the namespaces that are followed, in scope or not. It does not block,
// and does not modify a pod.
type Observer interface {
	PodSeen(*corev1.Pod) // it is new, or has changed
	PodGone(*corev1.Pod)
}

// Follow reports the pods in scope, and what they print, until ctx ends and everything it started
// has stopped. The newest value from scopes applies; before the first one nothing is followed. An
// API server that is away is waited for. replaced, which may be nil, is sent to without blocking
// when a pod in these namespaces comes, goes or changes its image. observer may be nil.
func Follow(ctx context.Context, client kubernetes.Interface, sink event.Sink, scopes <-chan Scope,
	replaced chan<- struct{}, observer Observer) {
	stage := sink.Stage(event.PodStage)
	var scope *Scope // the newest one
	stage.Supervise(ctx, "pods", func(ctx context.Context) {
		f := &follower{
			client: client, stage: stage, began: time.Now(), replaced: replaced, observer: observer,
			known: map[types.UID]*pod{}, watches: map[string]*podStore{}, updates: make(chan podUpdate),
		}
		ctx, end := context.WithCancel(ctx)
		defer f.running.Wait()
		defer end()
		if scope != nil {
			f.rescope(ctx, *scope)
		}
		f.run(ctx, scopes, &scope)
	})
}

// run follows what scopes says until ctx ends, and keeps the newest one in newest.
func (f *follower) run(ctx context.Context, scopes <-chan Scope, newest **Scope) {
	asked, traced := make(chan *corev1.Pod), make(chan tracedPod)
	f.keep(ctx, "origins", func(ctx context.Context) { traceAll(ctx, f.stage, f.client, asked, traced) })
	for {
		ask, next := asked, (*corev1.Pod)(nil)
		if len(f.untraced) > 0 {
			next = f.untraced[0]
		} else {
			ask = nil
		}
		select {
		case <-ctx.Done():
			return
		case scope, open := <-scopes:
			if !open {
				scopes = nil // the last one stays in force
				continue
			}
			*newest = &scope
			f.rescope(ctx, scope)
		case update := <-f.updates:
			f.update(ctx, update)
		case ask <- next:
			f.untraced = f.untraced[1:]
		case found := <-traced:
			p := f.known[found.uid]
			switch {
			case p == nil:
			case found.failed: // later
				f.untraced = append(f.untraced, p.object)
			default:
				p.origin, p.tracing = &found.origin, false
				f.reconcile(ctx, p)
			}
		}
	}
}

// keep runs a part of the follower in the background.
func (f *follower) keep(ctx context.Context, what string, work func(context.Context)) {
	f.running.Go(func() { f.stage.Supervise(ctx, what, work) })
}

// follower is owned by one goroutine; others send to it through channels.
type follower struct {
	client  kubernetes.Interface
	stage   event.Stage
	began   time.Time
	running sync.WaitGroup // all that was started

	replaced chan<- struct{}
	observer Observer

	scope     Scope
	selectors []podSelector
	watches   map[string]*podStore // by namespace
	updates   chan podUpdate
	known     map[types.UID]*pod // of all namespaces that are or were watched, in scope or not
	untraced  []*corev1.Pod      // whose origin is not known yet
}

// pod is a pod that exists.
type pod struct {
	object        *corev1.Pod
	startedBefore map[string]bool // IDs of containers that started before devloop, true for those that had ended
	origin        *origin         // nil until it is known
	tracing       bool            // its origin is being traced
	reported      *event.Pod      // as last reported, nil while it is out of scope
	images        []string
	containers    map[string]*container // that have started, by name
	followed      context.Context       // ends when it leaves the scope
	stop          context.CancelFunc    // ends followed
}

type podSelector struct {
	namespace string
	labels    labels.Selector
}

// rescope applies a scope.
func (f *follower) rescope(ctx context.Context, scope Scope) {
	wanted, selectors := scope.parse(f.stage)
	f.scope, f.selectors = scope, selectors
	for namespace, w := range f.watches {
		if !wanted[namespace] {
			w.stop()
			delete(f.watches, namespace)
		}
	}
	for namespace := range wanted {
		if f.watches[namespace] == nil {
			f.watches[namespace] = f.watch(ctx, namespace)
		}
	}
	for _, p := range f.known {
		f.reconcile(ctx, p)
		if p.origin != nil && *p.origin == (origin{}) { // Helm may have adopted its owner
			f.trace(p)
		}
	}
}

// parse returns the namespaces and the selectors of a scope. It warns of invalid ones.
func (s Scope) parse(stage event.Stage) (namespaces map[string]bool, selectors []podSelector) {
	namespaces = map[string]bool{}
	for _, r := range s.Releases {
		namespaces[r.Namespace] = true
	}
	for _, namespace := range s.Namespaces {
		namespaces[namespace] = true
	}
	for _, selector := range s.Selectors {
		parsed, err := labels.Parse(selector.Selector)
		if err != nil {
			stage.Warn("not a label selector", err, "selector", selector.Selector)
			continue
		}
		namespaces[selector.Namespace] = true
		selectors = append(selectors, podSelector{selector.Namespace, parsed})
	}
	return namespaces, selectors
}

// trace queues a pod for traceAll.
func (f *follower) trace(p *pod) {
	if !p.tracing {
		p.tracing = true
		f.untraced = append(f.untraced, p.object)
	}
}

// podUpdate is what a watch reports.
type podUpdate struct {
	from *podStore
	pods []*corev1.Pod
	all  bool // these are all pods
	gone bool // these pods were deleted
}

// podStore is the store of a reflector, the part of an informer that watches. It stores nothing,
// and passes updates on.
type podStore struct {
	namespace string
	stop      context.CancelFunc
	ended     <-chan struct{}
	updates   chan<- podUpdate
	listed    bool // owned by the receiver of the updates
}

// watch reports all pods of a namespace, whether that exists or not.
func (f *follower) watch(ctx context.Context, namespace string) *podStore {
	// Libraries must not log between our lines.
	silent := klog.Logger{}
	ctx, stop := context.WithCancel(klog.NewContext(ctx, silent))
	w := &podStore{namespace: namespace, stop: stop, ended: ctx.Done(), updates: f.updates}
	pods := f.client.CoreV1().Pods(namespace)
	away := false
	note := func(err error) {
		// the reflector lists again
		expired := apierrors.IsInvalid(err) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err)
		if err != nil && !expired && !away && ctx.Err() == nil {
			f.stage.Detail("pods cannot be watched, tried again", "namespace", event.Name(namespace),
				"reason", err.Error())
		}
		away = err != nil && !expired
	}
	asks := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := pods.List(ctx, o)
			note(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			watching, err := pods.Watch(ctx, o)
			note(err)
			return watching, err
		},
	}
	backoff := rewatch
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(asks, f.client), &corev1.Pod{}, w,
		cache.ReflectorOptions{Backoff: &backoff, Logger: &silent, Name: "pods"})
	f.keep(ctx, "watch of pods", reflector.RunWithContext)
	return w
}

func (w *podStore) send(u podUpdate, objects ...any) error {
	u.from = w
	for _, o := range objects {
		if p, ok := o.(*corev1.Pod); ok {
			p.ManagedFields = nil // half of its size
			u.pods = append(u.pods, p)
		}
	}
	select {
	case w.updates <- u:
		return nil
	case <-w.ended:
		return context.Canceled
	}
}

func (w *podStore) Add(o any) error                   { return w.send(podUpdate{}, o) }
func (w *podStore) Update(o any) error                { return w.send(podUpdate{}, o) }
func (w *podStore) Delete(o any) error                { return w.send(podUpdate{gone: true}, o) }
func (w *podStore) Replace(all []any, _ string) error { return w.send(podUpdate{all: true}, all...) }
func (w *podStore) Resync() error                     { return nil }

// update applies what a watch reports.
func (f *follower) update(ctx context.Context, u podUpdate) {
	if f.watches[u.from.namespace] != u.from {
		return // the scope has changed since
	}
	first := !u.from.listed
	u.from.listed = u.from.listed || u.all
	there := map[types.UID]bool{}
	for _, object := range u.pods {
		there[object.UID] = true
		p := f.known[object.UID]
		switch {
		case p == nil && u.gone:
			continue
		case p == nil:
			p = &pod{object: object, containers: map[string]*container{}}
			if first {
				p.startedBefore = startedBefore(object, f.began)
			}
			f.known[object.UID] = p
			f.trace(p)
		}
		p.object = object
		if images := imagesOf(object); u.gone || !slices.Equal(images, p.images) {
			p.images = images
			f.notifyReplaced(object)
		}
		if u.gone {
			f.gone(p)
		} else {
			if f.observer != nil {
				f.observer.PodSeen(object)
			}
			f.reconcile(ctx, p)
		}
	}
	if !u.all {
		return
	}
	for uid, p := range f.known {
		if p.object.Namespace == u.from.namespace && !there[uid] {
			f.notifyReplaced(p.object)
			f.gone(p)
		}
	}
}

// gone reports a pod that does not exist any more.
func (f *follower) gone(p *pod) {
	delete(f.known, p.object.UID)
	if f.observer != nil {
		f.observer.PodGone(p.object)
	}
	if p.reported == nil {
		return
	}
	f.updateContainers(p, true)
	f.stage.Detail(event.PodGone, refOf(p.object))
	time.AfterFunc(logGrace, p.stop)
}

// reconcile starts, updates or stops following a pod, as its scope and state require.
func (f *follower) reconcile(ctx context.Context, p *pod) {
	release, group, in := f.belongs(p)
	switch {
	case !in && p.reported == nil:
		return
	case !in:
		p.stop()
		p.reported = nil
		for _, c := range p.containers {
			c.followed = false
		}
		f.stage.Detail(event.PodGone, refOf(p.object))
		return
	}
	if p.reported == nil {
		p.followed, p.stop = context.WithCancel(ctx)
	}
	if now := describe(p.object, release, group); p.reported == nil || !reflect.DeepEqual(now, *p.reported) {
		p.reported = &now
		f.stage.Detail(event.PodChanged, now)
	}
	f.updateContainers(p, false)
}

// imagesOf returns the images of a pod's containers, and the runtime's IDs of the images and the
// containers that have started: one that is restarted has lost the files that were synced into it.
func imagesOf(object *corev1.Pod) (images []string) {
	for _, c := range slices.Concat(object.Spec.InitContainers, object.Spec.Containers) {
		images = append(images, c.Image)
	}
	for _, status := range kube.ContainerStatuses(object) {
		images = append(images, status.ImageID, status.ContainerID)
	}
	return images
}

// notifyReplaced is for all pods, in scope or not, except for devloop's own check pods.
func (f *follower) notifyReplaced(object *corev1.Pod) {
	if kube.IsCheckPod(object) {
		return
	}
	select {
	case f.replaced <- struct{}{}:
	default: // already notified
	}
}

// updateContainers passes the states of a pod's containers to those that follow them.
func (f *follower) updateContainers(p *pod, gone bool) {
	for _, status := range allContainers(p.object) {
		c := p.containers[status.Name]
		if c == nil {
			if len(starts(status)) == 0 {
				continue
			}
			c = newContainer(f.client, f.stage, p.object, status.Name, p.startedBefore)
			p.containers[status.Name] = c
		}
		c.setState(containerState{status: status, ending: p.object.DeletionTimestamp != nil, gone: gone})
		if !c.followed {
			c.followed = true
			c.follow(p.followed, &f.running)
		}
	}
}

// startedBefore returns the IDs of containers that started before a time, true for those that have
// ended.
func startedBefore(object *corev1.Pod, then time.Time) map[string]bool {
	before := map[string]bool{}
	for _, status := range allContainers(object) {
		for _, s := range starts(status) {
			if !s.at.After(then) {
				before[s.id] = s.ended != nil
			}
		}
	}
	return before
}

// belongs tells whether a pod is in scope, and its release and group.
func (f *follower) belongs(p *pod) (release, group string, in bool) {
	if w := f.watches[p.object.Namespace]; p.origin == nil || w == nil || !w.listed { // its state may be outdated
		return "", "", false
	}
	return belongs(p.object, *p.origin, f.scope.Releases, f.selectors)
}

func belongs(object *corev1.Pod, from origin, releases []types.NamespacedName, selectors []podSelector) (
	release, group string, in bool) {
	for _, s := range selectors {
		if s.namespace == object.Namespace && s.labels.Matches(labels.Set(object.Labels)) {
			in = true
			if group == "" {
				group = groupOf(object, s.labels)
			}
		}
	}
	if in && !from.sure {
		return "", group, true
	}
	for _, r := range releases {
		switch {
		case from.release == r.String():
			return r.Name, group, true
		case from.hook != "" && object.Namespace == r.Namespace && strings.HasPrefix(from.hook+"-", r.Name+"-") &&
			len(r.Name) > len(release):
			release, in = r.Name, true // a hook without labels has only its name
		}
	}
	return release, group, in
}

// groupOf is the value of the label that a selector requires to exist.
func groupOf(object *corev1.Pod, selector labels.Selector) string {
	requirements, _ := selector.Requirements()
	for _, r := range requirements {
		if r.Operator() == selection.Exists {
			return object.Labels[r.Key()]
		}
	}
	return ""
}

var errNotWalked = errors.New("not of a kind that Kubernetes itself makes pods with")

// describe returns a pod as events have it.
func describe(object *corev1.Pod, release, group string) event.Pod {
	phase, restarts, ready := string(object.Status.Phase), 0, kube.IsReady(object)
	if object.DeletionTimestamp != nil {
		phase = phaseEnding
	}
	ids := map[string]string{}
	for _, status := range allContainers(object) {
		restarts += int(status.RestartCount)
		ids[status.Name] = status.ImageID
	}
	var containers event.Containers
	add := func(name, image string) {
		containers = append(containers,
			event.Container{Name: event.Name(name), Image: event.Name(image), ImageID: event.Name(ids[name])})
	}
	for _, c := range object.Spec.InitContainers {
		add(c.Name, c.Image)
	}
	for _, c := range object.Spec.Containers {
		add(c.Name, c.Image)
	}
	for _, c := range object.Spec.EphemeralContainers {
		add(c.Name, c.Image)
	}
	reason := ""
	if !ready {
		reason = unready(object)
	}
	if len(reason) > reasonLength {
		reason = strings.ToValidUTF8(reason[:reasonLength], "") + " …"
	}
	return event.Pod{PodRef: refOf(object), Release: event.Name(release), Group: event.Name(group),
		Node: event.Name(object.Spec.NodeName), Phase: event.Name(phase), Ready: ready, Reason: reason,
		Restarts: restarts, Created: object.CreationTimestamp.Time, Containers: containers}
}

func refOf(object *corev1.Pod) event.PodRef {
	return event.PodRef{Pod: event.Name(object.Name), Namespace: event.Name(object.Namespace)}
}

// allContainers returns the statuses of all containers of a pod, ephemeral ones included.
func allContainers(object *corev1.Pod) []corev1.ContainerStatus {
	return append(kube.ContainerStatuses(object), object.Status.EphemeralContainerStatuses...)
}

// unready says briefly why a pod is not ready, "" where nothing is wrong.
func unready(object *corev1.Pod) string {
	switch {
	case object.Status.Phase == corev1.PodSucceeded:
		return ""
	case object.Status.Reason != "": // Evicted
		return strings.TrimSuffix(object.Status.Reason+": "+event.Printable(object.Status.Message), ": ")
	}
	for _, c := range object.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return strings.TrimSuffix(c.Reason+": "+event.Printable(c.Message), ": ")
		}
	}
	wrong, starting := "", "" // the first of each
	for _, status := range kube.ContainerStatuses(object) {
		about := ""
		if len(object.Spec.Containers)+len(object.Spec.InitContainers) > 1 {
			about = status.Name + ": "
		}
		waiting, ended := status.State.Waiting, status.State.Terminated
		switch {
		case kube.IsStarting(status):
			if starting == "" {
				starting = waiting.Reason
			}
		case waiting != nil && wrong == "":
			message := event.Printable(waiting.Message)
			if last := status.LastTerminationState.Terminated; last != nil && waiting.Reason == "CrashLoopBackOff" {
				message = deathReason(last) // its own message varies
			}
			wrong = about + strings.TrimSuffix(waiting.Reason+": "+message, ": ")
		case ended != nil && ended.ExitCode != 0 && wrong == "":
			wrong = about + deathReason(ended)
		case status.State.Running != nil && !status.Ready && starting == "":
			starting = fmt.Sprintf("container %s is not ready", status.Name)
		}
	}
	if wrong != "" {
		return wrong
	}
	return starting
}
