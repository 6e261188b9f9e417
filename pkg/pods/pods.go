// Pods: which of the cluster's are ours, since a release made them or users started them by what was deployed, and what becomes of each.
// What they print is read by logs.go.
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
	// logGrace is for how long a container's log is still read once its pod is gone.
	logGrace = 5 * time.Second
	// reasonLength is how much is said of why a pod is not ready, in bytes.
	reasonLength = 300
	// phaseEnding is the phase of a pod that is being deleted, which Kubernetes has no word for.
	phaseEnding = "Ending"
)

// rewatch is how soon a watch that was lost is tried again. The reflector's own default grows to half a minute.
var rewatch = apiwait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 4, Cap: time.Second, Jitter: 0.2}

// Scope is which pods are followed.
type Scope struct {
	Releases  []types.NamespacedName // their pods, as far as they are in the release's namespace
	Selectors []Selector             // and those that users start
}

// Selector names pods by their labels.
type Selector struct {
	Namespace string
	Selector  string // label selector: "gateway.dask.org/cluster"; what it asks to exist groups the pods by its value
}

// Follow tells what becomes of the pods in scope, and what they print, until ctx ends. The newest value received from scopes is in
// force; before the first one nothing is followed. It returns when nothing is followed any more. An API server that is away is waited for.
// replaced is sent to when any pod in these namespaces comes or goes, or one of its images becomes another, if it has room; nil if nobody wants to know.
func Follow(ctx context.Context, client kubernetes.Interface, sink event.Sink, scopes <-chan Scope, replaced chan<- struct{}) {
	stage := sink.For(event.PodStage)
	var scope *Scope // the newest one
	stage.Keep(ctx, "pods", func(ctx context.Context) {
		f := &follower{
			client: client, stage: stage, began: time.Now(), replaced: replaced,
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

// run follows what scopes says until ctx ends, and puts the newest of them into newest.
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
			case found.failed: // after the others
				f.untraced = append(f.untraced, p.object)
			default:
				p.origin, p.tracing = &found.origin, false
				f.reconcile(ctx, p)
			}
		}
	}
}

// keep has a part of the follower run beside it.
func (f *follower) keep(ctx context.Context, what string, work func(context.Context)) {
	f.running.Go(func() { f.stage.Keep(ctx, what, work) })
}

// follower belongs to one goroutine, which is told by the others through channels.
type follower struct {
	client  kubernetes.Interface
	stage   event.Stage
	began   time.Time
	running sync.WaitGroup // whatever was started

	replaced chan<- struct{}

	scope     Scope
	selectors []podSelector
	watches   map[string]*podStore // by namespace
	updates   chan podUpdate
	known     map[types.UID]*pod // of all namespaces that are watched or were, in scope or not
	untraced  []*corev1.Pod      // whose origin is to be asked for
}

// pod is one that is there.
type pod struct {
	object        *corev1.Pod
	startedBefore map[string]bool // IDs of containers that started before all this, true for those that had ended
	origin        *origin         // nil until it is known
	tracing       bool            // its origin is being asked for
	reported      []any           // what was said of it last, nil while it is out of scope
	images        string
	containers    map[string]*container // that have started, by name
	followed      context.Context       // ends when it leaves the scope
	stop          context.CancelFunc    // ends followed
}

type podSelector struct {
	namespace string
	labels    labels.Selector
}

// rescope puts a scope in force.
func (f *follower) rescope(ctx context.Context, scope Scope) {
	f.scope, f.selectors = scope, nil
	wanted := map[string]bool{}
	for _, r := range scope.Releases {
		wanted[r.Namespace] = true
	}
	for _, s := range scope.Selectors {
		parsed, err := labels.Parse(s.Selector)
		if err != nil {
			f.stage.Warn("not a label selector", err, "selector", s.Selector)
			continue
		}
		wanted[s.Namespace] = true
		f.selectors = append(f.selectors, podSelector{s.Namespace, parsed})
	}
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
		if p.origin != nil && *p.origin == (origin{}) { // Helm may have taken over what made it
			f.trace(p)
		}
	}
}

// trace has the origin of a pod asked for.
func (f *follower) trace(p *pod) {
	if !p.tracing {
		p.tracing = true
		f.untraced = append(f.untraced, p.object)
	}
}

// podUpdate is what a watch says.
type podUpdate struct {
	from *podStore
	pods []*corev1.Pod
	all  bool // there are no others
	gone bool // they are
}

// podStore is the store of a reflector, which is the part of an informer that watches. It keeps nothing and hands on what it is given.
type podStore struct {
	namespace string
	stop      context.CancelFunc
	ended     <-chan struct{}
	updates   chan<- podUpdate
	listed    bool // for who receives the updates
}

// watch tells of all pods of a namespace, whether it exists or not.
func (f *follower) watch(ctx context.Context, namespace string) *podStore {
	// Libraries that log by themselves would write between our lines.
	silent := klog.Logger{}
	ctx, stop := context.WithCancel(klog.NewContext(ctx, silent))
	w := &podStore{namespace: namespace, stop: stop, ended: ctx.Done(), updates: f.updates}
	pods := f.client.CoreV1().Pods(namespace)
	away := false
	heard := func(err error) {
		expired := apierrors.IsInvalid(err) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) // the reflector asks in another way
		if err != nil && !expired && !away && ctx.Err() == nil {
			f.stage.Detail("pods cannot be watched, tried again", "namespace", event.Name(namespace),
				"reason", err.Error())
		}
		away = err != nil && !expired
	}
	asks := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := pods.List(ctx, o)
			heard(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			told, err := pods.Watch(ctx, o)
			heard(err)
			return told, err
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

// update takes in what a watch says.
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
		if images := imagesOf(object); u.gone || images != p.images {
			p.images = images
			f.notifyReplaced(object)
		}
		if u.gone {
			f.gone(p)
		} else {
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

// gone takes leave of a pod that is not there any more.
func (f *follower) gone(p *pod) {
	delete(f.known, p.object.UID)
	if p.reported == nil {
		return
	}
	f.updateContainers(p, true)
	f.stage.Detail(event.PodGone, "pod", event.Name(p.object.Name), "namespace", event.Name(p.object.Namespace))
	time.AfterFunc(logGrace, p.stop)
}

// reconcile does for a pod what the scope and its state ask for.
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
		f.stage.Detail(event.PodGone, "pod", event.Name(p.object.Name), "namespace", event.Name(p.object.Namespace))
		return
	}
	if p.reported == nil {
		p.followed, p.stop = context.WithCancel(ctx)
	}
	if fields := podFields(p.object, release, group); !reflect.DeepEqual(fields, p.reported) {
		p.reported = fields
		f.stage.Detail(event.PodChanged, fields...)
	}
	f.updateContainers(p, false)
}

// imagesOf are the images of a pod's containers, and what the runtime calls those that have started.
func imagesOf(object *corev1.Pod) string {
	var images strings.Builder
	for _, c := range slices.Concat(object.Spec.InitContainers, object.Spec.Containers) {
		images.WriteString(c.Image + " ")
	}
	for _, status := range kube.ContainerStatuses(object) {
		images.WriteString(status.ImageID + " ")
	}
	return images.String()
}

// notifyReplaced is for pods of all kinds, in scope or not, but for those that come and go by devloop's own doing.
func (f *follower) notifyReplaced(object *corev1.Pod) {
	if kube.IsCheckPod(object) {
		return
	}
	select {
	case f.replaced <- struct{}{}:
	default: // they know, or do not want to
	}
}

// updateContainers tells those who follow the containers of a pod how these are.
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

// startedBefore returns the IDs of a pod's containers that started before a time, and whether they have ended.
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

// belongs tells whether a pod is in scope, and whose it is.
func (f *follower) belongs(p *pod) (release, group string, in bool) {
	if w := f.watches[p.object.Namespace]; p.origin == nil || w == nil || !w.listed { // what was known of it may be old
		return "", "", false
	}
	for _, s := range f.selectors {
		if s.namespace == p.object.Namespace && s.labels.Matches(labels.Set(p.object.Labels)) {
			in = true
			if group == "" {
				group = groupOf(p.object, s.labels)
			}
		}
	}
	if in && !p.origin.sure {
		return "", group, true
	}
	for _, r := range f.scope.Releases {
		switch {
		case p.origin.release == r.String():
			return r.Name, group, true
		case p.origin.hook != "" && p.object.Namespace == r.Namespace && strings.HasPrefix(p.origin.hook+"-", r.Name+"-") && len(r.Name) > len(release):
			release, in = r.Name, true // hooks have no more than their name where the chart gives them no labels
		}
	}
	return release, group, in
}

// groupOf is the value of the label that a selector asks to be there.
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

// podFields is what there is to say of a pod: alternating keys and values.
func podFields(object *corev1.Pod, release, group string) []any {
	phase, restarts, ready := string(object.Status.Phase), 0, false
	if object.DeletionTimestamp != nil {
		phase = phaseEnding
	}
	for _, c := range object.Status.Conditions {
		ready = ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	ids := map[string]string{}
	for _, status := range allContainers(object) {
		restarts += int(status.RestartCount)
		ids[status.Name] = status.ImageID
	}
	var containers []string
	add := func(name, image string) {
		containers = append(containers, strings.TrimSpace(name+" "+image+" "+ids[name]))
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
	return []any{"pod", event.Name(object.Name), "namespace", event.Name(object.Namespace),
		"release", event.Name(release), "group", event.Name(group), "node", event.Name(object.Spec.NodeName),
		"phase", event.Name(phase), "ready", ready, "reason", reason, "restarts", restarts,
		"created", object.CreationTimestamp.Time, "containers", event.Names(containers)}
}

// allContainers are what is said of all containers of a pod, those for looking into it included.
func allContainers(object *corev1.Pod) []corev1.ContainerStatus {
	return append(kube.ContainerStatuses(object), object.Status.EphemeralContainerStatuses...)
}

// unready says in a few words why a pod is not ready, "" where nothing is wrong.
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
			said := event.Printable(waiting.Message)
			if last := status.LastTerminationState.Terminated; last != nil && waiting.Reason == "CrashLoopBackOff" {
				said = deathReason(last) // its message counts seconds and names the pod
			}
			wrong = about + strings.TrimSuffix(waiting.Reason+": "+said, ": ")
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
