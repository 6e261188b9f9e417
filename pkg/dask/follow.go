package dask

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// followQuiet lets changes that belong together arrive.
	followQuiet = 100 * time.Millisecond
	// retryGateways is when the gateways are looked for again after an error.
	retryGateways = 2 * time.Second
	// endGrace is how long the last lines of a scheduler may take to arrive.
	endGrace = time.Second
	// goneAgain is when a cluster that the watch has lost is looked for again, and kindGrace how long
	// a server that does not know the kind may still learn it.
	goneAgain = 2 * time.Second
	kindGrace = 20 * time.Second
	// keptLines is how many lines of a scheduler are kept, and keptLine how much of each, in bytes.
	keptLines = 20
	keptLine  = 1 << 10
)

// Scope is which clusters are followed.
type Scope struct {
	Namespaces []string // of the releases that may have gateways
	Routes     []Route
}

// Follower follows the clusters that the users of gateways start, and reports how they are. Others
// tell it of pods and of what these print: each is watched and read once.
type Follower struct {
	cluster    *kube.Cluster
	stage      event.Stage
	namespaces func(in []string, selector string)

	wake    chan struct{}  // holds a token if there is something to look at
	running sync.WaitGroup // all that was started

	mu       sync.Mutex
	scope    Scope
	rescoped bool                                  // the gateways have to be looked for
	objects  map[string]*unstructured.Unstructured // the clusters, by full name
	pods     map[types.UID]*corev1.Pod             // of clusters
	printed  map[string][]string                   // the last lines of schedulers, by namespace/pod
	died     map[string]string                     // how schedulers ended, by namespace/pod

	// Owned by run.
	gateways  []Gateway
	selector  string             // of the clusters that are watched, "" if none are
	stopWatch context.CancelFunc // nil if none are
	told      string             // the namespaces and the selector that were told
	known     map[string]*followed
}

// followed is a cluster as it was reported.
type followed struct {
	uid      types.UID
	reported event.DaskCluster
	up       bool
	warned   string // the kind of trouble that was warned about

	scheduler string    // namespace/pod
	ended     time.Time // zero while it is there

	trouble      string    // its name now, "" if there is none
	since        time.Time // when that began
	explained    time.Time // when reason and hint were looked for
	explainedFor int       // so many workers
	reason       string
	hint         string

	dashboard *dashboardCheck // nil while the scheduler is not ready
}

// dashboardCheck waits for a dashboard to answer.
type dashboardCheck struct {
	of     string // the scheduler and the routes that it is for
	cancel context.CancelFunc

	// Guarded by the follower's mu.
	done bool
	url  string
}

// NewFollower returns a Follower. It calls namespaces when the clusters are in other namespaces
// than before, with the selector of their pods, of which it has to be told.
func NewFollower(cluster *kube.Cluster, sink event.Sink, namespaces func(in []string, selector string)) *Follower {
	return &Follower{cluster: cluster, stage: sink.Stage("dask"), namespaces: namespaces,
		wake: make(chan struct{}, 1), objects: map[string]*unstructured.Unstructured{},
		pods: map[types.UID]*corev1.Pod{}, printed: map[string][]string{}, died: map[string]string{},
		known: map[string]*followed{}}
}

// Follow sets which clusters are followed, and has the gateways looked for again.
func (f *Follower) Follow(s Scope) { f.change(func() { f.scope, f.rescoped = s, true }) }

// PodSeen takes a pod that is new or has changed.
func (f *Follower) PodSeen(pod *corev1.Pod) {
	if pod.Labels[LabelCluster] == "" {
		return
	}
	f.change(func() {
		f.pods[pod.UID] = pod
		if pod.Labels[labelComponent] == componentScheduler && pod.DeletionTimestamp == nil {
			if _, why := podTrouble(pod, time.Now()); kube.HasEnded(pod) {
				f.died[pod.Namespace+"/"+pod.Name] = cmp.Or(why, "exit code 0")
			}
		}
	})
}

// PodGone takes a pod that was deleted.
func (f *Follower) PodGone(pod *corev1.Pod) {
	if pod.Labels[LabelCluster] != "" {
		f.change(func() { delete(f.pods, pod.UID) })
	}
}

// Line takes a line that a pod has printed.
func (f *Follower) Line(line event.LogLine) {
	if line.Container != componentScheduler {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	pod := string(line.Namespace + "/" + line.Pod)
	lines := append(f.printed[pod], strings.ToValidUTF8(line.Line[:min(len(line.Line), keptLine)], ""))
	f.printed[pod] = lines[max(0, len(lines)-keptLines):]
}

func (f *Follower) change(what func()) {
	f.mu.Lock()
	what()
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default: // already awake
	}
}

// Run reports the clusters until ctx ends and everything it started has stopped.
func (f *Follower) Run(ctx context.Context) {
	f.stage.Supervise(ctx, "Dask clusters", func(ctx context.Context) {
		ctx, end := context.WithCancel(ctx)
		defer f.running.Wait()
		defer end()
		f.stopWatch, f.selector = nil, ""
		for ctx.Err() == nil {
			again := f.findGateways(ctx)
			if next := f.reconcile(ctx); again == 0 || next > 0 && next < again {
				again = next
			}
			f.rest(ctx, again)
		}
	})
}

// rest waits until something has changed, or for as long as next, if that is not 0.
func (f *Follower) rest(ctx context.Context, next time.Duration) {
	var timeout <-chan time.Time
	if next > 0 {
		timeout = time.After(next)
	}
	select {
	case <-ctx.Done():
		return
	case <-timeout:
		return
	case <-f.wake:
	}
	select {
	case <-ctx.Done():
	case <-time.After(followQuiet):
	}
}

// findGateways looks for the gateways if the scope has changed, and watches their clusters. It
// returns when to try again, 0 if it is done.
func (f *Follower) findGateways(ctx context.Context) (again time.Duration) {
	f.mu.Lock()
	scope, rescoped := f.scope, f.rescoped
	f.rescoped = false
	f.mu.Unlock()
	if !rescoped {
		return 0
	}
	asked, cancel := context.WithTimeout(ctx, runningTimeout)
	defer cancel()
	var gateways []Gateway
	for _, namespace := range scope.Namespaces {
		found, err := gatewaysIn(asked, f.cluster, namespace)
		if err != nil {
			f.mu.Lock()
			f.rescoped = true
			f.mu.Unlock()
			return retryGateways
		}
		gateways = append(gateways, found...)
	}
	f.gateways = gateways
	if selector := selectorOf(gateways...); selector != f.selector {
		f.watch(ctx, selector)
	}
	return 0
}

// reconcile reports what has changed, and returns when to look again, 0 if only after a change.
func (f *Follower) reconcile(ctx context.Context) (next time.Duration) {
	later := func(d time.Duration) {
		if d > 0 && (next == 0 || d < next) {
			next = max(d, followQuiet)
		}
	}
	f.mu.Lock()
	objects, pods, routes := maps.Clone(f.objects), slices.Collect(maps.Values(f.pods)), f.scope.Routes
	f.mu.Unlock()
	clusters := make(map[string]event.DaskCluster, len(objects))
	owners := map[string]int{} // how many clusters each has
	for name, object := range objects {
		c := readCluster(object, pods)
		if clusters[name] = c; !isOver(c) {
			owners[c.Owner]++
		}
	}
	f.tellNamespaces(clusters)
	for _, name := range slices.Sorted(maps.Keys(f.known)) {
		k, object := f.known[name], objects[name]
		if object != nil && object.GetUID() == k.uid && !isOver(clusters[name]) {
			continue
		}
		if k.ended.IsZero() {
			k.ended = time.Now()
		}
		if left := endGrace - time.Since(k.ended); left > 0 {
			later(left)
			continue
		}
		if object == nil && !f.isGone(ctx, k) {
			later(goneAgain)
			continue
		}
		f.reportGone(name, k, object != nil && clusters[name].Phase == phaseFailed)
	}
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		object, c := objects[name], clusters[name]
		k := f.known[name]
		if isOver(c) || k != nil && k.uid != object.GetUID() {
			continue
		}
		if k == nil {
			k = &followed{uid: object.GetUID()}
			f.known[name] = k
		}
		later(f.look(ctx, k, owner{c, owners[c.Owner] == 1}, object, pods, routes))
	}
	return next
}

// tellNamespaces says where clusters are that have pods, if that has changed.
func (f *Follower) tellNamespaces(clusters map[string]event.DaskCluster) {
	var namespaces []string
	for _, c := range clusters {
		if !isOver(c) {
			namespaces = append(namespaces, string(c.Namespace))
		}
	}
	slices.Sort(namespaces)
	namespaces = slices.Compact(namespaces)
	if now := strings.Join(namespaces, " ") + f.selector; now != f.told && f.namespaces != nil {
		f.told = now
		f.namespaces(namespaces, LabelCluster+","+f.selector)
	}
}

// look finds out how a cluster is, and reports it. It returns when to look again, 0 if only after a
// change.
func (f *Follower) look(ctx context.Context, k *followed, who owner, object *unstructured.Unstructured,
	pods []*corev1.Pod, routes []Route) (again time.Duration) {
	c, scheduler := who.DaskCluster, schedulerOf(object, pods)
	if scheduler != nil {
		k.scheduler = scheduler.Namespace + "/" + scheduler.Name
	}
	settled := f.checkDashboard(ctx, k, c, object.GetLabels()[labelGateway], scheduler, routes)
	f.mu.Lock()
	if k.dashboard != nil {
		c.Dashboard = event.Name(k.dashboard.url)
	}
	f.mu.Unlock()
	again = f.explain(ctx, k, who, object, pods)
	c.Reason, c.Hint = k.reason, k.hint
	f.report(k, c, settled && scheduler != nil && kube.IsReady(scheduler))
	return again
}

// report reports how a cluster is, as far as that has changed.
func (f *Follower) report(k *followed, c event.DaskCluster, reachable bool) {
	before := k.reported
	k.reported = c
	switch {
	case c.Phase == phaseRunning && reachable && !k.up:
		k.up = true
		f.stage.Note(event.ClusterUp, c)
	case c.Reason != "" && k.warned != k.trouble:
	case before != c:
		f.stage.Detail(event.ClusterSeen, c)
	}
	switch {
	case c.Reason != "" && k.warned != k.trouble:
		k.warned = k.trouble
		f.stage.Warn(event.ClusterWaits, nil, c)
	case k.trouble == "":
		k.warned = ""
	}
}

// isGone looks for a cluster that the watch has lost. It may have been lost with the kind, which an
// API server that has just started does not know yet, or to another cluster that answers instead.
func (f *Follower) isGone(ctx context.Context, k *followed) bool {
	if f.selector == "" {
		return true // with its gateway
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	if f.cluster.Answers(ctx) != nil {
		return false
	}
	clusters, err := clusterClient(f.cluster)
	var object *unstructured.Unstructured
	if err == nil && clusters != nil {
		object, err = clusters.Namespace(string(k.reported.Namespace)).Get(ctx, string(k.reported.Name), metav1.GetOptions{})
	}
	noKind := clusters == nil || apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
	switch {
	case err == nil && object != nil:
		return object.GetUID() != k.uid || !slices.ContainsFunc(f.gateways, func(g Gateway) bool {
			return g.instance == object.GetLabels()[labelGateway]
		})
	case noKind && (err == nil || apierrors.IsNotFound(err)):
		return time.Since(k.ended) > kindGrace
	}
	return apierrors.IsNotFound(err)
}

func (f *Follower) reportGone(name string, k *followed, failed bool) {
	delete(f.known, name)
	if k.dashboard != nil {
		k.dashboard.cancel()
	}
	f.mu.Lock()
	lines, died := f.printed[k.scheduler], f.died[k.scheduler]
	delete(f.printed, k.scheduler)
	delete(f.died, k.scheduler)
	f.mu.Unlock()
	end := event.DaskClusterEnd{Namespace: k.reported.Namespace, Name: k.reported.Name, Owner: k.reported.Owner,
		Output: strings.Join(lines, "\n")}
	if !failed {
		f.stage.Note(event.ClusterGone, end)
		return
	}
	end.Reason = "its scheduler's pod is gone"
	if died != "" {
		end.Reason = "its scheduler ended: " + died
	}
	f.stage.Warn(event.ClusterGone, nil, end)
}

// checkDashboard has the dashboard of a cluster checked while its scheduler is ready. It returns
// whether that is over.
func (f *Follower) checkDashboard(ctx context.Context, k *followed, c event.DaskCluster, instance string,
	scheduler *corev1.Pod, routes []Route) (settled bool) {
	of := ""
	var leading []Route
	if c.Phase == phaseRunning && scheduler != nil && kube.IsReady(scheduler) {
		leading = routesTo(instance, f.gateways, routes)
		of = fmt.Sprint(scheduler.UID, leading)
	}
	if k.dashboard != nil && k.dashboard.of != of {
		k.dashboard.cancel()
		k.dashboard = nil
	}
	if of == "" || len(leading) == 0 {
		return of != ""
	}
	if k.dashboard == nil {
		check := &dashboardCheck{of: of}
		ctx, check.cancel = context.WithCancel(ctx)
		k.dashboard = check
		f.running.Go(func() {
			defer check.cancel()
			f.stage.Supervise(ctx, "dashboard of a Dask cluster", func(ctx context.Context) {
				url, err := awaitDashboard(ctx, c, leading)
				if err != nil && ctx.Err() == nil {
					f.stage.Detail("dashboard does not answer", "cluster", event.Name(c.FullName()), "reason", err.Error())
				}
				for ctx.Err() == nil {
					f.change(func() { check.done, check.url = true, url })
					if err == nil {
						return
					}
					select {
					case <-time.After(dashboardAgain):
						url, err = dashboardURL(ctx, c, leading)
					case <-ctx.Done():
					}
				}
			})
		})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return k.dashboard.done
}

// schedulerOf returns the pod of a cluster's scheduler, nil if there is none.
func schedulerOf(object *unstructured.Unstructured, pods []*corev1.Pod) *corev1.Pod {
	at := slices.IndexFunc(pods, func(pod *corev1.Pod) bool {
		return isPart(pod, object) && pod.Labels[labelComponent] == componentScheduler
	})
	if at < 0 {
		return nil
	}
	return pods[at]
}

// owner names a cluster in messages.
type owner struct {
	event.DaskCluster
	only bool // its owner has no other cluster
}

// shortName is how much of a cluster's name tells it from the owner's others.
const shortName = 8

func (o owner) String() string {
	name := string(o.Name[:min(len(o.Name), shortName)])
	switch {
	case o.Owner == "":
		return "cluster " + name
	case o.only:
		return o.Owner
	}
	return fmt.Sprintf("%s (%s)", o.Owner, name)
}
