// Rollouts: waiting until what was applied runs, and saying why when it will not.
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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// forgetAfter is after how long something that is not seen any more has passed; what comes back then has its time again. A container that keeps
	// failing is in more than one state by turns.
	forgetAfter = 30 * time.Second
)

// Health is a set of deployments that has to be up before a run counts as done.
type Health struct {
	Namespace string
	Selector  string // label selector, "app.kubernetes.io/name=dask-gateway"
}

// workload is a thing that runs pods and can be waited for.
type workload struct {
	kind, namespace, name string
	release               int // its number among those that are waited for, -1 if it is nobody's
}

func (w workload) String() string { return w.kind + " " + w.namespace + "/" + w.name }

// rollout is what the API server says of a workload.
type rollout struct {
	missing  string    // what is still to come, "" when nothing is
	selector string    // label selector of the pods of the current template, "" while that is not known
	allPods  string    // that of all pods of a stateful set
	uid      types.UID // of the thing that makes these pods, whose events tell why it cannot
	failed   string    // what the cluster itself says of a rollout that it gave up
}

// Wait returns when every workload of the releases and of health runs its current template with all replicas available, or with
// the reason why one of them never will. Cancelling ctx ends the wait; an API server that is away is waited for. Revisions that are up
// are marked, for rollbacks; a release that wants to be is rolled back when it is not.
func (d *Deployer) Wait(ctx context.Context, sink event.Sink, releases []Release, health []Health, timeout time.Duration) error {
	stage := sink.For("deploy")
	var about []any
	if len(releases) == 1 && len(health) == 0 {
		about = []any{"release", event.Name(releases[0].Name)}
	}
	culprit := -1 // whose workload failed
	err := stage.Step(ctx, event.RolloutComplete, func(ctx context.Context) ([]any, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, event.Transient(fmt.Errorf("not ready after %s", timeout)))
		defer cancel()
		released, revisions, err := d.workloads(ctx, releases)
		if err != nil {
			return nil, markTransient(err)
		}
		w := &waiter{Deployer: d, stage: stage, foreign: map[int]bool{}}
		for i, last := range revisions {
			w.foreign[i] = !d.owns(releases[i], last)
		}
		for begin := time.Now(); ; {
			state, err := w.observe(ctx, released, health)
			culprit = state.waitsFor.release
			if err != nil {
				return nil, err
			}
			if state.waiting == "" {
				return []any{"workloads", state.workloads}, d.markGood(ctx, releases, revisions)
			}
			interval := pollInterval
			if time.Since(begin) < youngRollout {
				interval = youngPollInterval
			}
			if err := sleep(ctx, interval); err != nil {
				failure := fmt.Errorf("%s: %w", state.waiting, err)
				if event.IsTransient(err) { // the time is over: what is known of the pods may help
					report, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
					defer cancel()
					failure = w.timeoutReport(report, state, failure)
				}
				return nil, failure
			}
		}
	}, about...)
	if err != nil && ctx.Err() == nil && culprit >= 0 && releases[culprit].Rollback {
		return d.rollback(stage, releases[culprit], err) //nolint:contextcheck // a Helm write is never interrupted
	}
	return err
}

// reportTimeout is for the questions that a report of a failure asks.
const reportTimeout = 10 * time.Second

// workloads reads from Helm's records what the releases run, and which revisions they are.
func (d *Deployer) workloads(ctx context.Context, releases []Release) (found []workload, revisions []revision, err error) {
	revisions = make([]revision, len(releases))
	named := make([][]object, len(releases))
	group, groupCtx := event.NewGroup(ctx)
	for i, r := range releases {
		group.Go(func() (err error) {
			if revisions[i], err = d.last(groupCtx, r); err != nil {
				return err
			}
			if !revisions[i].exists() {
				return fmt.Errorf("release %s is gone", r.ID())
			}
			named[i], err = d.namedObjects(groupCtx, r, revisions[i].version)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	for i, objects := range named {
		for _, o := range objects {
			switch o.kind.GroupKind() {
			case schema.GroupKind{Group: "apps", Kind: "Deployment"}, schema.GroupKind{Group: "apps", Kind: "StatefulSet"},
				schema.GroupKind{Group: "apps", Kind: "DaemonSet"}, schema.GroupKind{Group: "batch", Kind: "Job"}:
				found = append(found, workload{strings.ToLower(o.kind.Kind), o.namespace, o.name, i})
			}
		}
	}
	return found, revisions, nil
}

// markGood notes on the revisions that they were up.
func (d *Deployer) markGood(ctx context.Context, releases []Release, revisions []revision) error {
	for i, now := range revisions {
		if now.good() || now.status != release.StatusDeployed || !d.owns(releases[i], now) {
			continue
		}
		if err := d.setLabel(ctx, releases[i], now.version, labelGood, strconv.Itoa(now.version)); err != nil {
			return markTransient(err)
		}
	}
	return nil
}

// waiter is one wait for workloads.
type waiter struct {
	*Deployer
	stage event.Stage
	mu    sync.Mutex
	seen  map[string]span   // when something was so
	first map[string]string // what was seen first

	foreign map[int]bool // releases that are not ours, by number: nothing of theirs is changed
}

// span is from when it was first seen until when last.
type span struct{ since, last time.Time }

// lastsFor tells for how long what key stands for is so, 0 at the first time.
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

// changedSinceStart tells whether a value is another one than when it was first asked for.
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

// observation is what one look at all workloads found.
type observation struct {
	workloads int
	waiting   string // what is still waited for, "" when all is well
	waitsFor  workload
	rollout   rollout // of that one
}

// observe looks at all workloads side by side; its error is final. Requests that fail are something to wait for, as an API server
// comes back.
func (w *waiter) observe(ctx context.Context, released []workload, health []Health) (observation, error) {
	all := slices.Clone(released)
	found := observation{waitsFor: workload{release: -1}}
	for _, h := range health {
		list, err := w.cluster.Client.AppsV1().Deployments(h.Namespace).List(ctx, metav1.ListOptions{LabelSelector: h.Selector})
		if err != nil {
			found.waiting = fmt.Sprintf("deployments in %s cannot be listed: %v", h.Namespace, err)
			return found, nil
		}
		if len(list.Items) == 0 {
			found.waiting = fmt.Sprintf("no deployment in %s has the labels %s", h.Namespace, h.Selector)
		}
		for _, deployment := range list.Items {
			isKnown := func(k workload) bool {
				return k.kind == "deployment" && k.namespace == deployment.Namespace && k.name == deployment.Name
			}
			if !slices.ContainsFunc(all, isKnown) {
				all = append(all, workload{"deployment", deployment.Namespace, deployment.Name, -1})
			}
		}
	}
	states, lacks, errs := make([]rollout, len(all)), make([]string, len(all)), make([]error, len(all))
	group := event.Group{Group: &errgroup.Group{}}
	group.SetLimit(maxRequests)
	for i := range all {
		group.Go(func() error {
			var err error
			if states[i], err = w.rollout(ctx, all[i]); err != nil {
				lacks[i] = fmt.Sprintf("cannot be read: %v", err)
				return nil
			}
			lacks[i], errs[i] = w.diagnose(ctx, all[i], states[i])
			return nil
		})
	}
	_ = group.Wait() // what went wrong is in errs
	found.workloads = len(all)
	for i := range all {
		if errs[i] != nil {
			return observation{waitsFor: all[i], rollout: states[i]}, errs[i]
		}
		if lacks[i] != "" && found.waitsFor.name == "" {
			found.waiting, found.waitsFor, found.rollout = fmt.Sprintf("%s: %s", all[i], lacks[i]), all[i], states[i]
		}
	}
	return found, nil
}

// rollout asks how far a workload is, by the same rules as kubectl rollout status, and for available replicas besides.
func (d *Deployer) rollout(ctx context.Context, w workload) (rollout, error) {
	apps := d.cluster.Client.AppsV1()
	switch w.kind {
	case "deployment":
		got, err := apps.Deployments(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
		if err != nil {
			return rollout{}, err
		}
		s := got.Status
		if s.ObservedGeneration < got.Generation {
			return rollout{missing: notObserved}, nil
		}
		selector, set, err := d.currentTemplate(ctx, got)
		state := rollout{missing: missingReplicas(wanted(got.Spec.Replicas), s.Replicas, s.UpdatedReplicas, s.AvailableReplicas), selector: selector, uid: set}
		if got.Spec.Paused {
			state.missing = "" // until somebody resumes it
		}
		for _, c := range s.Conditions {
			if c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded" {
				state.failed = c.Reason + ": " + c.Message
			}
		}
		return state, err
	case "statefulset":
		got, err := apps.StatefulSets(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
		if err != nil {
			return rollout{}, err
		}
		s := got.Status
		if s.ObservedGeneration < got.Generation {
			return rollout{missing: notObserved}, nil
		}
		want, updated := wanted(got.Spec.Replicas), s.UpdatedReplicas
		if got.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
			updated = want // the user replaces the pods when it suits them
		} else if rolling := got.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
			updated += min(*rolling.Partition, want) // so many stay as they are
		}
		selector := metav1.FormatLabelSelector(got.Spec.Selector) + "," + appsv1.ControllerRevisionHashLabelKey + "=" + s.UpdateRevision
		return rollout{missing: missingReplicas(want, s.Replicas, updated, s.AvailableReplicas), selector: selector, allPods: metav1.FormatLabelSelector(got.Spec.Selector), uid: got.UID}, nil
	case "job":
		return d.job(ctx, w)
	default:
		got, err := apps.DaemonSets(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
		if err != nil {
			return rollout{}, err
		}
		s := got.Status
		if s.ObservedGeneration < got.Generation {
			return rollout{missing: notObserved}, nil
		}
		updated := s.UpdatedNumberScheduled
		if got.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
			updated = s.DesiredNumberScheduled
		}
		selector, err := d.currentRevision(ctx, got)
		return rollout{missing: missingReplicas(s.DesiredNumberScheduled, s.CurrentNumberScheduled, updated, s.NumberAvailable), selector: selector, uid: got.UID}, err
	}
}

// job is the same for a job: it is done when it has succeeded. One that the cluster has removed since was done, too.
func (d *Deployer) job(ctx context.Context, w workload) (rollout, error) {
	got, err := d.cluster.Client.BatchV1().Jobs(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return rollout{}, nil
	}
	if err != nil {
		return rollout{}, err
	}
	state := rollout{missing: "it has not ended yet", selector: batchv1.ControllerUidLabel + "=" + string(got.UID), uid: got.UID}
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

func wanted(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

// notObserved is what a workload lacks right after a write: until then its status, and the pods it names, are of the template before.
const notObserved = "its new template was not seen by its controller yet"

// missingReplicas says in words what a rollout still lacks.
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

// currentTemplate returns the selector of the pods that the deployment's current template made, and the replica set that makes them.
func (d *Deployer) currentTemplate(ctx context.Context, deployment *appsv1.Deployment) (string, types.UID, error) {
	const revision = "deployment.kubernetes.io/revision" // set by the deployment controller on both
	selector := metav1.FormatLabelSelector(deployment.Spec.Selector)
	sets, err := d.cluster.Client.AppsV1().ReplicaSets(deployment.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return "", "", err
	}
	for _, set := range sets.Items {
		if metav1.IsControlledBy(&set, deployment) && set.Annotations[revision] == deployment.Annotations[revision] {
			const hash = appsv1.DefaultDeploymentUniqueLabelKey
			return selector + "," + hash + "=" + set.Labels[hash], set.UID, nil
		}
	}
	return "", "", nil // not made yet
}

// currentRevision is the same for a daemon set, whose templates are kept as controller revisions.
func (d *Deployer) currentRevision(ctx context.Context, set *appsv1.DaemonSet) (string, error) {
	selector := metav1.FormatLabelSelector(set.Spec.Selector)
	revisions, err := d.cluster.Client.AppsV1().ControllerRevisions(set.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
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
		return "", nil // not made yet
	}
	const hash = appsv1.ControllerRevisionHashLabelKey
	return selector + "," + hash + "=" + newest.Labels[hash], nil
}
