// Rollouts: waiting until what was applied runs, and saying why when it will not.
package deploy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/releaseutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// pollInterval is how often a rollout is looked at: small beside the second that the fastest pod takes.
	pollInterval = 200 * time.Millisecond
	// crashes is after how many restarts a container that keeps failing is given up: once may be a dependency that was late.
	crashes = 2
	// logTail is how many lines of a failed container's log are shown.
	logTail = 15
)

// patience is how long a container may wait for a reason before it is given up: none for what no waiting mends, some for what may
// pass by itself, as an image that a registry gives at the second try or a secret that comes a moment later.
var patience = map[string]time.Duration{
	"ErrImageNeverPull":          0,
	"InvalidImageName":           0,
	"ImagePullBackOff":           15 * time.Second,
	"CreateContainerConfigError": 15 * time.Second,
	"CreateContainerError":       15 * time.Second,
	"RunContainerError":          15 * time.Second,
}

// Health is a set of deployments that has to be up before a run counts as done.
type Health struct {
	Namespace string
	Selector  string // label selector, "app.kubernetes.io/name=dask-gateway"
}

// workload is a thing that runs pods and can be waited for.
type workload struct{ kind, namespace, name string }

func (w workload) String() string { return w.kind + " " + w.namespace + "/" + w.name }

// rollout is what the API server says of a workload.
type rollout struct {
	lacks    string // what is still to come, "" when nothing is
	selector string // label selector of the pods of the current template, "" while that is not known
}

// Wait returns when every workload of the releases and of health runs its current template with all replicas available, or with
// the reason why one of them never will. Cancelling ctx ends the wait; an API server that is away is waited for.
func (d *Deployer) Wait(ctx context.Context, sink event.Sink, releases []Release, health []Health, timeout time.Duration) error {
	say := sink.For("deploy")
	return say.Step(ctx, "rollout complete", func(ctx context.Context) ([]any, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, event.Transient(fmt.Errorf("not ready after %s", timeout)))
		defer cancel()
		released, err := d.workloads(releases)
		if err != nil {
			return nil, passing(err)
		}
		seen := map[string]time.Time{}
		for {
			count, waiting, err := d.look(ctx, released, health, seen)
			if err != nil {
				return nil, err
			}
			if waiting == "" {
				return []any{"workloads", count}, nil
			}
			if err := sleep(ctx, pollInterval); err != nil {
				return nil, fmt.Errorf("%s: %w", waiting, err)
			}
		}
	})
}

// workloads reads from Helm's records what the releases run.
func (d *Deployer) workloads(releases []Release) ([]workload, error) {
	var found []workload
	for _, r := range releases {
		helm, err := d.helm(r.Namespace)
		if err != nil {
			return nil, err
		}
		last, err := helm.Releases.Last(r.Name)
		if err != nil {
			return nil, fmt.Errorf("release %s: read Helm's record: %w", r.ID(), err)
		}
		for _, document := range releaseutil.SplitManifests(last.Manifest) {
			var object metav1.PartialObjectMetadata
			if err := yaml.Unmarshal([]byte(document), &object); err != nil {
				return nil, fmt.Errorf("release %s: read its manifest: %w", r.ID(), err)
			}
			if object.Kind != "Deployment" && object.Kind != "StatefulSet" && object.Kind != "DaemonSet" {
				continue
			}
			namespace := object.Namespace
			if namespace == "" {
				namespace = r.Namespace
			}
			found = append(found, workload{strings.ToLower(object.Kind), namespace, object.Name})
		}
	}
	return found, nil
}

// look returns how many workloads there are and what is still waited for ("" when all is well); its error is final. Requests that
// fail are something to wait for, as an API server comes back.
func (d *Deployer) look(ctx context.Context, released []workload, health []Health, seen map[string]time.Time) (count int, waiting string, err error) {
	all := slices.Clone(released)
	for _, h := range health {
		list, err := d.cluster.Client.AppsV1().Deployments(h.Namespace).List(ctx, metav1.ListOptions{LabelSelector: h.Selector})
		if err != nil {
			return 0, fmt.Sprintf("deployments in %s cannot be listed: %v", h.Namespace, err), nil
		}
		if len(list.Items) == 0 {
			waiting = fmt.Sprintf("no deployment in %s has the labels %s", h.Namespace, h.Selector)
		}
		for _, deployment := range list.Items {
			if w := (workload{"deployment", deployment.Namespace, deployment.Name}); !slices.Contains(all, w) {
				all = append(all, w)
			}
		}
	}
	for _, w := range all {
		state, err := d.rollout(ctx, w)
		if err != nil {
			return 0, fmt.Sprintf("%s cannot be read: %v", w, err), nil
		}
		if state.lacks == "" {
			continue
		}
		waiting = fmt.Sprintf("%s: %s", w, state.lacks)
		if err := d.verdict(ctx, w, state.selector, seen); err != nil {
			return 0, "", err
		}
	}
	return len(all), waiting, nil
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
			return rollout{lacks: unseen}, nil
		}
		selector, err := d.currentTemplate(ctx, got)
		return rollout{lacking(wanted(got.Spec.Replicas), s.Replicas, s.UpdatedReplicas, s.AvailableReplicas), selector}, err
	case "statefulset":
		got, err := apps.StatefulSets(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
		if err != nil {
			return rollout{}, err
		}
		s := got.Status
		if s.ObservedGeneration < got.Generation {
			return rollout{lacks: unseen}, nil
		}
		want, updated := wanted(got.Spec.Replicas), s.UpdatedReplicas
		if got.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
			updated = want // the user replaces the pods when it suits them
		} else if rolling := got.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
			updated += min(*rolling.Partition, want) // so many stay as they are
		}
		selector := metav1.FormatLabelSelector(got.Spec.Selector) + "," + appsv1.ControllerRevisionHashLabelKey + "=" + s.UpdateRevision
		return rollout{lacking(want, s.Replicas, updated, s.AvailableReplicas), selector}, nil
	default:
		got, err := apps.DaemonSets(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
		if err != nil {
			return rollout{}, err
		}
		s := got.Status
		if s.ObservedGeneration < got.Generation {
			return rollout{lacks: unseen}, nil
		}
		updated := s.UpdatedNumberScheduled
		if got.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
			updated = s.DesiredNumberScheduled
		}
		selector, err := d.currentRevision(ctx, got)
		return rollout{lacking(s.DesiredNumberScheduled, s.CurrentNumberScheduled, updated, s.NumberAvailable), selector}, err
	}
}

func wanted(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

// unseen is what a workload lacks right after a write: until then its status, and the pods it names, are of the template before.
const unseen = "its new template was not seen by its controller yet"

// lacking says in words what a rollout still lacks.
func lacking(want, all, updated, available int32) string {
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

// currentTemplate returns the selector of the pods that the deployment's current template made.
func (d *Deployer) currentTemplate(ctx context.Context, deployment *appsv1.Deployment) (string, error) {
	const revision = "deployment.kubernetes.io/revision" // set by the deployment controller on both
	selector := metav1.FormatLabelSelector(deployment.Spec.Selector)
	sets, err := d.cluster.Client.AppsV1().ReplicaSets(deployment.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return "", err
	}
	for _, set := range sets.Items {
		if metav1.IsControlledBy(&set, deployment) && set.Annotations[revision] == deployment.Annotations[revision] {
			const hash = appsv1.DefaultDeploymentUniqueLabelKey
			return selector + "," + hash + "=" + set.Labels[hash], nil
		}
	}
	return "", nil // not made yet
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

// verdict returns an error if a pod of the workload's current template cannot come up, with what its container said. In seen it
// remembers since when containers wait.
func (d *Deployer) verdict(ctx context.Context, w workload, selector string, seen map[string]time.Time) error {
	if selector == "" {
		return nil
	}
	pods, err := d.cluster.Client.CoreV1().Pods(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil //nolint:nilerr // asked again at the next look
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.DeletionTimestamp != nil {
			continue
		}
		for _, status := range append(slices.Clone(pod.Status.InitContainerStatuses), pod.Status.ContainerStatuses...) {
			waiting := status.State.Waiting
			if waiting == nil {
				continue
			}
			key := pod.Name + " " + status.Name + " " + waiting.Reason
			if _, ok := seen[key]; !ok {
				seen[key] = time.Now()
			}
			limit, bad := patience[waiting.Reason]
			bad = bad && time.Since(seen[key]) >= limit
			if !bad && (waiting.Reason != "CrashLoopBackOff" || status.RestartCount < crashes) {
				continue
			}
			failure := fmt.Errorf("%s: container %s of pod %s: %s: %s", w, status.Name, pod.Name, waiting.Reason, waiting.Message)
			if tail := d.tail(ctx, pod, status.Name); tail != "" {
				failure = fmt.Errorf("%w\n%s", failure, tail)
			}
			return event.WithHint(failure, "mend it and save; pods of the version before keep running")
		}
	}
	return nil
}

// tail returns the last lines that a container printed before it died, or "" where there are none.
func (d *Deployer) tail(ctx context.Context, pod *corev1.Pod, container string) string {
	lines := int64(logTail)
	for _, previous := range []bool{true, false} {
		stream, err := d.cluster.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name,
			&corev1.PodLogOptions{Container: container, Previous: previous, TailLines: &lines}).Stream(ctx)
		if err != nil {
			continue
		}
		content, _ := io.ReadAll(io.LimitReader(stream, 16<<10)) // what came is better than nothing
		_ = stream.Close()
		if len(bytes.TrimSpace(content)) > 0 {
			return strings.TrimSpace(string(content))
		}
	}
	return ""
}
