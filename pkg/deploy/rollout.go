package deploy

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"helm.sh/helm/v3/pkg/release"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// forgetAfter is how long something has to be unseen to count as over. A container that keeps
// failing alternates between states.
const forgetAfter = 30 * time.Second

// upInterval is how often a workload is inspected again that was up, while others are not.
const upInterval = 5 * time.Second

// reportTimeout limits the requests for a report of a failure.
const reportTimeout = 10 * time.Second

// Health is a set of deployments that has to be up before a run counts as done.
type Health struct {
	Namespace string
	Selector  string // label selector, "app.kubernetes.io/name=dask-gateway"
}

// deployed is a release with its last revision.
type deployed struct {
	Release
	last    revision
	foreign bool // not ours, so nothing of it is changed
}

// workload runs pods, and its rollout can be awaited.
type workload struct {
	kind, namespace, name string
	release               *deployed // that it belongs to, nil if it is only watched for health
}

func (w workload) String() string { return w.kind + " " + w.namespace + "/" + w.name }

// rollout is the progress of a workload, as reported by the API server.
type rollout struct {
	missing  string // what is still missing by its status, "" when it is complete
	selector string // label selector of the pods of the current template, "" while that is not known
	ready    int32  // how many pods of the current template have to be ready
	// sameGeneration is the label selector of a daemon set's pods that its controller counts as of the
	// current template, whatever their revision; "" for none.
	sameGeneration string
	replaced       string    // label selector of all pods of a stateful set whose old ones are all to be replaced
	uid            types.UID // of what creates these pods, whose events tell why it cannot
	failed         string    // why the cluster itself gave up
}

// Wait returns when every workload of the releases and of health runs its current template with all
// replicas available, or with the reason why one of them never will. An API server that is away is
// waited for. Revisions that are up are marked, for rollbacks; a release with Rollback that fails
// is rolled back.
func (d *Deployer) Wait(
	ctx context.Context, sink event.Sink, releases []Release, health []Health, timeout time.Duration,
) error {
	stage := sink.Stage("deploy")
	var about event.Rollout
	if len(releases) == 1 && len(health) == 0 {
		about.Release = event.Name(releases[0].Name)
	}
	var culprit *deployed // whose workload failed
	err := stage.Step(ctx, event.RolloutComplete, func(ctx context.Context) ([]any, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, event.Transient(fmt.Errorf("not ready after %s", timeout)))
		defer cancel()
		current, workloads, err := d.workloads(ctx, releases)
		if err != nil {
			return nil, markBusy(err)
		}
		w := &waiter{Deployer: d, stage: stage}
		changed := d.newChanges(ctx, stage)
		defer changed.close()
		for {
			now, err := w.observe(ctx, workloads, health, changed)
			culprit = now.waitsFor.release
			if err != nil {
				return nil, err
			}
			if now.waiting == "" {
				return []any{"workloads", now.workloads}, d.markGood(ctx, current)
			}
			changed.follow(now.missing)
			if err := changed.next(ctx, now.again); err != nil {
				failure := fmt.Errorf("%s: %w", now.waiting, err)
				if event.IsTransient(err) { // it timed out
					report, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
					defer cancel()
					failure = w.timeoutReport(report, now, failure)
				}
				return nil, failure
			}
		}
	}, about)
	if err != nil && ctx.Err() == nil && culprit != nil && culprit.Rollback {
		return d.rollback(stage, culprit.Release, err) //nolint:contextcheck // a Helm write is never interrupted
	}
	return err
}

// workloads reads the releases' current revisions, and what these run, from Helm's records.
func (d *Deployer) workloads(ctx context.Context, releases []Release) ([]deployed, []workload, error) {
	current, named := make([]deployed, len(releases)), make([][]object, len(releases))
	group, ctx := event.NewGroup(ctx)
	for i, r := range releases {
		group.Go(func() error {
			last, err := d.last(ctx, r)
			if err != nil {
				return err
			}
			if !last.exists() {
				return fmt.Errorf("release %s is gone", r.ID())
			}
			current[i] = deployed{r, last, !d.owns(r, last)}
			made, err := d.contentsOf(ctx, r, last.version)
			named[i] = made.objects
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	var found []workload
	for i, objects := range named {
		for _, o := range objects {
			switch o.kind.GroupKind().String() {
			case "Deployment.apps", "StatefulSet.apps", "DaemonSet.apps", "Job.batch":
				found = append(found, workload{strings.ToLower(o.kind.Kind), o.namespace, o.name, &current[i]})
			}
		}
	}
	return current, found, nil
}

// markGood marks the revisions whose pods came up.
func (d *Deployer) markGood(ctx context.Context, current []deployed) error {
	group, ctx := event.NewGroup(ctx)
	group.SetLimit(maxRequests)
	for _, r := range current {
		if r.last.good() || r.last.status != release.StatusDeployed || r.foreign || kube.MayWrite(ctx) != nil {
			continue
		}
		group.Go(func() error {
			return d.setLabel(ctx, r.Release, r.last.version, labelGood, strconv.Itoa(r.last.version))
		})
	}
	return markBusy(group.Wait())
}

// waiter remembers what it has seen during one wait.
type waiter struct {
	*Deployer
	stage event.Stage

	mu    sync.Mutex
	seen  map[string]span   // by what was seen
	first map[string]string // the values that were seen first

	states map[workload]state // as last inspected
}

// state is what a workload needed when it was inspected.
type state struct {
	at time.Time
	rollout
	missing string        // "" when it was up
	again   time.Duration // after which it may be up if nothing changes, 0 if that cannot be
	err     error
}

// dueIn returns after how long a workload is to be inspected again if nothing tells of a change.
func (s state) dueIn(interval time.Duration) time.Duration {
	switch {
	case s.missing == "":
		interval = upInterval
	case s.again > 0:
		interval = min(interval, s.again)
	}
	return interval - time.Since(s.at)
}

// span is when something was seen first and last.
type span struct{ since, last time.Time }

// lastsFor returns how long what the key stands for has lasted, 0 at the first call.
func (w *waiter) lastsFor(key string) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen = map[string]span{}
	}
	now := time.Now()
	seen, known := w.seen[key]
	if !known || now.Sub(seen.last) > forgetAfter {
		seen.since = now
	}
	seen.last = now
	w.seen[key] = seen
	return now.Sub(seen.since)
}

// changedSinceStart tells whether a value differs from that of the first call with the key.
func (w *waiter) changedSinceStart(key, value string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first == nil {
		w.first = map[string]string{}
	}
	if _, known := w.first[key]; !known {
		w.first[key] = value
	}
	return w.first[key] != value
}

// observation is the state of all workloads at one time.
type observation struct {
	workloads int
	waiting   string        // what is still missing, "" when all are up
	waitsFor  workload      // the first one that is not up
	rollout   rollout       // of that one
	missing   []workload    // all that are not up
	again     time.Duration // after which nothing has to change for something to be up
}

// observe inspects the workloads concurrently that have changed, or were not inspected for a while.
// Its error is final; a request that fails is reason to wait, since an API server comes back. All
// count as up only if all were inspected just now.
func (w *waiter) observe(
	ctx context.Context, all []workload, health []Health, changed *changes,
) (observation, error) {
	interval := changed.interval()
	found := observation{again: interval}
	all, found.waiting = w.withHealth(ctx, all, health)
	if found.waiting != "" {
		found.again = youngPollInterval
	}
	found.workloads = len(all)
	hasChanged := changed.take()
	asked := slices.DeleteFunc(slices.Clone(all), func(of workload) bool {
		last, known := w.states[of]
		return known && !hasChanged(of) && last.dueIn(interval) > 0
	})
	w.inspect(ctx, asked)
	for _, of := range all {
		s := w.states[of]
		if s.err != nil {
			return observation{waitsFor: of, rollout: s.rollout}, s.err
		}
		if s.missing == "" {
			continue
		}
		if len(found.missing) == 0 {
			found.waiting = fmt.Sprintf("%s: %s", of, s.missing)
			found.waitsFor, found.rollout = of, s.rollout
		}
		found.again = min(found.again, s.dueIn(interval))
		found.missing = append(found.missing, of)
	}
	if found.waiting == "" && len(asked) < len(all) {
		w.states = nil
		return w.observe(ctx, all, nil, changed)
	}
	return found, nil
}

// inspect asks what workloads need.
func (w *waiter) inspect(ctx context.Context, workloads []workload) {
	states := make([]state, len(workloads))
	group := event.Group{Group: &errgroup.Group{}}
	group.SetLimit(maxRequests)
	for i, of := range workloads {
		group.Go(func() error {
			s := &states[i]
			var err error
			if s.rollout, err = w.rollout(ctx, of); err != nil {
				s.missing = fmt.Sprintf("cannot be read: %v", err)
				return nil
			}
			s.missing, s.again, s.err = w.diagnose(ctx, of, s.rollout)
			return nil
		})
	}
	_ = group.Wait() // errors are in states
	if w.states == nil {
		w.states = map[workload]state{}
	}
	now := time.Now() // for all of them: however long that took, there is a pause before the next time
	for i, of := range workloads {
		states[i].at = now
		w.states[of] = states[i]
	}
}

// withHealth adds the deployments that health names, and says why that is impossible.
func (w *waiter) withHealth(ctx context.Context, all []workload, health []Health) (_ []workload, missing string) {
	all = slices.Clone(all)
	for _, h := range health {
		options := metav1.ListOptions{LabelSelector: h.Selector}
		list, err := w.cluster.Client.AppsV1().Deployments(h.Namespace).List(ctx, options)
		if err != nil {
			return all, fmt.Sprintf("deployments in %s cannot be listed: %v", h.Namespace, err)
		}
		if len(list.Items) == 0 {
			missing = fmt.Sprintf("no deployment in %s has the labels %s", h.Namespace, h.Selector)
		}
		for _, deployment := range list.Items {
			isKnown := func(k workload) bool {
				return k.kind == "deployment" && k.namespace == deployment.Namespace && k.name == deployment.Name
			}
			if !slices.ContainsFunc(all, isKnown) {
				all = append(all, workload{"deployment", deployment.Namespace, deployment.Name, nil})
			}
		}
	}
	return all, missing
}

// rollout asks how far a workload is, by the rules of kubectl rollout status; in addition, all
// replicas have to be available.
func (d *Deployer) rollout(ctx context.Context, w workload) (rollout, error) {
	switch w.kind {
	case "deployment":
		return d.deploymentRollout(ctx, w)
	case "statefulset":
		return d.statefulSetRollout(ctx, w)
	case "job":
		return d.jobRollout(ctx, w)
	default:
		return d.daemonSetRollout(ctx, w)
	}
}

func (d *Deployer) deploymentRollout(ctx context.Context, w workload) (rollout, error) {
	got, err := d.cluster.Client.AppsV1().Deployments(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
	if err != nil {
		return rollout{}, err
	}
	s, state := got.Status, rollout{}
	for _, c := range s.Conditions {
		if c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse {
			switch c.Reason {
			case "ProgressDeadlineExceeded", "ReplicaSetCreateError": // of pkg/controller/deployment in Kubernetes
				state.failed = c.Reason + ": " + c.Message
			}
		}
	}
	if s.ObservedGeneration < got.Generation { // which stays so while it cannot create the replica set
		state.missing = notObserved
		return state, nil
	}
	if !got.Spec.Paused {
		state.ready = ptr.Deref(got.Spec.Replicas, 1)
		state.missing = missingReplicas(state.ready, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
	}
	state.selector, state.uid, err = d.currentTemplate(ctx, got)
	return state, err
}

func (d *Deployer) statefulSetRollout(ctx context.Context, w workload) (rollout, error) {
	got, err := d.cluster.Client.AppsV1().StatefulSets(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
	if err != nil {
		return rollout{}, err
	}
	s := got.Status
	if s.ObservedGeneration < got.Generation {
		return rollout{missing: notObserved}, nil
	}
	want, stay := ptr.Deref(got.Spec.Replicas, 1), int32(0)
	if got.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		stay = want // the user replaces the pods
	} else if rolling := got.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
		stay = min(*rolling.Partition, want)
	}
	all := metav1.FormatLabelSelector(got.Spec.Selector)
	state := rollout{
		missing: missingReplicas(want, s.Replicas, stay+s.UpdatedReplicas, s.AvailableReplicas),
		ready:   want - stay, uid: got.UID,
		selector: all + "," + appsv1.ControllerRevisionHashLabelKey + "=" + s.UpdateRevision,
	}
	if stay == 0 {
		state.replaced = all
	}
	return state, nil
}

func (d *Deployer) daemonSetRollout(ctx context.Context, w workload) (rollout, error) {
	got, err := d.cluster.Client.AppsV1().DaemonSets(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
	if err != nil {
		return rollout{}, err
	}
	s := got.Status
	if s.ObservedGeneration < got.Generation {
		return rollout{missing: notObserved}, nil
	}
	want, stay := s.DesiredNumberScheduled, int32(0)
	if got.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		stay = want // the user replaces the pods
	}
	missing := missingReplicas(want, s.CurrentNumberScheduled, stay+s.UpdatedNumberScheduled, s.NumberAvailable)
	state := rollout{missing: missing, ready: want - stay, uid: got.UID}
	if generation := got.Annotations[appsv1.DeprecatedTemplateGeneration]; generation != "" {
		const label = "pod-template-generation" // which the daemon set controller compares, too
		state.sameGeneration = metav1.FormatLabelSelector(got.Spec.Selector) + "," + label + "=" + generation
	}
	state.selector, err = d.currentRevision(ctx, got)
	return state, err
}

// jobRollout is complete when the job has succeeded. A job that does not exist any more has, too:
// the cluster has removed it.
func (d *Deployer) jobRollout(ctx context.Context, w workload) (rollout, error) {
	got, err := d.cluster.Client.BatchV1().Jobs(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return rollout{}, nil
	}
	if err != nil {
		return rollout{}, err
	}
	state := rollout{
		missing: "it has not ended yet", selector: batchv1.ControllerUidLabel + "=" + string(got.UID), uid: got.UID,
	}
	if got.Spec.Suspend != nil && *got.Spec.Suspend {
		state.missing = ""
	}
	for _, c := range got.Status.Conditions {
		switch {
		case c.Status != corev1.ConditionTrue:
		case c.Type == batchv1.JobComplete:
			state.missing = ""
		case c.Type == batchv1.JobFailed:
			state.failed = c.Reason + ": " + c.Message
		}
	}
	return state, nil
}

// notObserved is what is missing right after a write: until then, a workload's status and pods are
// of the previous template.
const notObserved = "its controller has not seen the new template yet"

// missingReplicas describes what a rollout still needs, "" when it is complete.
func missingReplicas(want, all, updated, available int32) string {
	switch {
	case updated < want:
		return fmt.Sprintf("%d of %d replicas updated", updated, want)
	case all > want:
		return fmt.Sprintf("%d old replicas are ending", all-want)
	case available < want:
		return fmt.Sprintf("%d of %d replicas available", available, want)
	}
	return ""
}

// notReady describes what a workload still needs although its status says that it is complete, ""
// for nothing. Each controller counts what it has seen: for a moment, a status may count pods
// that are being deleted, even those of an earlier template.
func (w *waiter) notReady(ctx context.Context, of workload, state rollout, pods []corev1.Pod) string {
	ready := countReady(pods, state.uid)
	if ready < state.ready && state.sameGeneration != "" {
		same, err := w.podsOf(ctx, of, state.sameGeneration)
		if err != nil {
			return "its pods cannot be listed: " + err.Error()
		}
		ready = max(ready, countReady(same, state.uid))
	}
	if ready >= state.ready {
		return ""
	}
	return fmt.Sprintf("%d of %d pods ready", ready, state.ready)
}

// countReady returns how many pods are ready, are not being deleted, and are controlled by the
// object with the UID.
func countReady(pods []corev1.Pod, uid types.UID) (ready int32) {
	for i := range pods {
		owner := metav1.GetControllerOf(&pods[i])
		if pods[i].DeletionTimestamp == nil && owner != nil && owner.UID == uid && kube.IsReady(&pods[i]) {
			ready++
		}
	}
	return ready
}

// currentTemplate returns the selector of the pods of a deployment's current template, and their
// replica set, both "" if that does not exist yet. The controller may report a template as observed
// before it creates the replica set, such as when it has to scale another one first.
func (d *Deployer) currentTemplate(ctx context.Context, deployment *appsv1.Deployment) (string, types.UID, error) {
	const hash = appsv1.DefaultDeploymentUniqueLabelKey
	selector := metav1.FormatLabelSelector(deployment.Spec.Selector)
	sets, err := d.cluster.Client.AppsV1().ReplicaSets(deployment.Namespace).List(ctx,
		metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return "", "", err
	}
	template := func(of *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
		of = of.DeepCopy()
		delete(of.Labels, hash) // which the controller sets
		return of
	}
	var current *appsv1.ReplicaSet
	for i := range sets.Items {
		set := &sets.Items[i]
		same := equality.Semantic.DeepEqual(template(&set.Spec.Template), template(&deployment.Spec.Template))
		if !same || !metav1.IsControlledBy(set, deployment) {
			continue
		}
		const revision = "deployment.kubernetes.io/revision" // set by the deployment controller on both
		if current == nil || set.Annotations[revision] == deployment.Annotations[revision] {
			current = set
		}
	}
	switch {
	case current == nil:
		return "", "", nil
	case current.Labels[hash] != "": // a set that the deployment adopted has none
		selector += "," + hash + "=" + current.Labels[hash]
	}
	return selector, current.UID, nil
}

// currentRevision is the same for a daemon set, which keeps its templates as controller revisions.
func (d *Deployer) currentRevision(ctx context.Context, set *appsv1.DaemonSet) (string, error) {
	selector := metav1.FormatLabelSelector(set.Spec.Selector)
	revisions, err := d.cluster.Client.AppsV1().ControllerRevisions(set.Namespace).List(ctx,
		metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return "", err
	}
	var newest *appsv1.ControllerRevision
	for i := range revisions.Items {
		revision := &revisions.Items[i]
		if metav1.IsControlledBy(revision, set) && (newest == nil || revision.Revision > newest.Revision) {
			newest = revision
		}
	}
	if newest == nil {
		return "", nil // not created yet
	}
	const hash = appsv1.ControllerRevisionHashLabelKey
	return selector + "," + hash + "=" + newest.Labels[hash], nil
}
