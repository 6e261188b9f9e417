package deploy

// Helm waits for a hook until its timeout, even if it can never finish, and then says only that it
// failed. So hooks are watched on the side.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/release"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
)

// hookInterval is how often the pods of hooks are inspected while Helm writes.
const hookInterval = 500 * time.Millisecond

// The events of Helm's actions.
var (
	installHooks   = []release.HookEvent{release.HookPreInstall, release.HookPostInstall}
	upgradeHooks   = []release.HookEvent{release.HookPreUpgrade, release.HookPostUpgrade}
	rollbackHooks  = []release.HookEvent{release.HookPreRollback, release.HookPostRollback}
	uninstallHooks = []release.HookEvent{release.HookPreDelete, release.HookPostDelete}
)

// hasRun tells whether a hook was run in its revision.
func hasRun(h *release.Hook) bool { return !h.LastRun.StartedAt.IsZero() }

// runsFor tells whether a hook runs for one of the events.
func runsFor(h *release.Hook, events []release.HookEvent) bool {
	return slices.ContainsFunc(h.Events, func(e release.HookEvent) bool { return slices.Contains(events, e) })
}

// hookWatch watches the hooks of one revision while it is written.
type hookWatch struct {
	*waiter
	release Release
	version int
	events  []release.HookEvent

	report string // on the hook that failed
	hint   string
	ended  bool // by us
}

// watchHooks runs a Helm write that runs hooks of these events. A hook that cannot finish is made
// to fail at once, and the error shows what its pod printed.
func (d *Deployer) watchHooks(ctx context.Context, r Release, version int, events []release.HookEvent,
	write func() error) error {
	w := &hookWatch{waiter: &waiter{Deployer: d}, release: r, version: version, events: events}
	ctx, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	var watchErr error
	watching.Go(func() {
		watchErr = event.Guard(func() error {
			w.watch(ctx)
			return nil
		})
	})
	err := event.Guard(write)
	stop()
	watching.Wait()
	err = errors.Join(err, watchErr)
	if err == nil || w.report == "" {
		return err
	}
	return event.WithHint(fmt.Errorf("%w\n%s", withoutListFrame(err), w.report), w.hint)
}

func (w *hookWatch) watch(ctx context.Context) {
	var hooks []hook
	var begun metav1.Time
	for known := false; sleep(ctx, hookInterval) == nil; {
		if !known {
			last, err := w.last(ctx, w.release)
			if err != nil || last.version != w.version {
				continue // not written yet
			}
			record, err := w.record(ctx, w.release, w.version)
			if err != nil {
				continue
			}
			known, begun = true, last.created
			for _, h := range record.Hooks {
				if !runsFor(h, w.events) {
					continue
				}
				named, _ := parse(h.Manifest, w.release.Namespace) // Helm has parsed it before
				for _, o := range named {
					hooks = append(hooks, hook{o, h.Path})
				}
			}
			if len(hooks) == 0 {
				return
			}
		}
		for _, h := range hooks {
			w.inspect(ctx, h, begun)
		}
	}
}

// hook is an object of a hook, and the path of its template.
type hook struct {
	object
	path string
}

// inspect keeps what the pods of a hook report, and fails a hook that cannot finish. Objects older
// than the revision belong to an earlier one.
func (w *hookWatch) inspect(ctx context.Context, hook hook, begun metav1.Time) {
	if w.ended {
		return // its pod fails because of us from now on
	}
	about := fmt.Sprintf("hook %s of %s", hook.object, hook.path)
	options := metav1.ListOptions{FieldSelector: "metadata.name=" + hook.name}
	var uid types.UID // of the object to fail
	if hook.kind.Kind == "Job" {
		job, err := w.cluster.Client.BatchV1().Jobs(hook.namespace).Get(ctx, hook.name, metav1.GetOptions{})
		if err != nil || job.CreationTimestamp.Before(&begun) || !madeByHook(job, w.release, false) {
			return
		}
		uid = job.UID
		options = metav1.ListOptions{LabelSelector: batchv1.ControllerUidLabel + "=" + string(job.UID)}
		if job.Status.Active+job.Status.Failed+job.Status.Succeeded == 0 {
			if message, _ := w.podCreationFailure(ctx, hook.namespace, job.UID); message != "" &&
				w.lastsFor(about+" not made") >= retryGrace {
				w.report, w.hint = about+": "+message, hintNotMade(message)
				w.fail(ctx, hook.object, uid)
				return
			}
		}
	} else if hook.kind.Kind != "Pod" {
		return
	}
	pods, err := w.cluster.Client.CoreV1().Pods(hook.namespace).List(ctx, options)
	if err != nil {
		return
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.CreationTimestamp.Before(&begun) {
			continue
		}
		if hook.kind.Kind == "Pod" {
			if !madeByHook(pod, w.release, false) {
				continue
			}
			uid = pod.UID
		}
		if pod.Status.Phase == corev1.PodFailed || crashed(pod) {
			if w.lastsFor(string(pod.UID)+" failed") == 0 {
				w.report = about + ": pod " + pod.Name + " failed" + w.evidence(ctx, pod, trouble{container: failedContainer(pod)})
				w.hint = "its last lines say why; fix the hook and save"
			}
		}
		for _, t := range troubles(pod, hook.kind.Kind == "Job") {
			if w.lastsFor(pod.Name+" "+t.key) >= t.grace {
				w.report, w.hint = about+": "+t.what+w.evidence(ctx, pod, t), t.hint
				w.fail(ctx, hook.object, uid)
				return
			}
		}
	}
}

// crashed tells whether a container of the pod failed.
func crashed(pod *corev1.Pod) bool {
	for _, status := range pod.Status.ContainerStatuses {
		for _, ended := range []*corev1.ContainerStateTerminated{status.State.Terminated,
			status.LastTerminationState.Terminated} {
			if ended != nil && ended.ExitCode != 0 {
				return true
			}
		}
	}
	return false
}

// fail makes the cluster fail the hook that Helm waits for. Deleting it would not do: Helm takes
// that for success.
func (w *hookWatch) fail(ctx context.Context, o object, uid types.UID) {
	// The UID makes the API server refuse the patch for another object of that name.
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"activeDeadlineSeconds":1}}`, uid)
	var err error
	if o.kind.Kind == "Job" {
		_, err = w.cluster.Client.BatchV1().Jobs(o.namespace).Patch(ctx, o.name, types.MergePatchType, patch,
			metav1.PatchOptions{})
	} else {
		_, err = w.cluster.Client.CoreV1().Pods(o.namespace).Patch(ctx, o.name, types.MergePatchType, patch,
			metav1.PatchOptions{})
	}
	w.ended = err == nil // otherwise the next inspection tries again
}
