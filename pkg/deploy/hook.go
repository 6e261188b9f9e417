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
	failed bool // by us
}

// watchHooks runs a Helm write that runs those of the hooks that are for these events. A hook that
// cannot finish is made to fail at once, and the error shows what its pod printed.
func (d *Deployer) watchHooks(ctx context.Context, r Release, version int, hooks []*release.Hook,
	events []release.HookEvent, write func() error) error {
	if !slices.ContainsFunc(hooks, func(h *release.Hook) bool { return runsFor(h, events) }) {
		return event.Guard(write)
	}
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
	hooks, since := w.hooks(ctx)
	for len(hooks) > 0 {
		for _, h := range hooks {
			if w.inspect(ctx, h, since); w.failed {
				return // from now on its pod fails because of us
			}
		}
		if sleep(ctx, hookInterval) != nil {
			return
		}
	}
}

// hooks returns the hooks of the revision and when it was created, once Helm has written its
// record.
func (w *hookWatch) hooks(ctx context.Context) (hooks []hook, created metav1.Time) {
	for sleep(ctx, hookInterval) == nil {
		last, err := w.last(ctx, w.release)
		if err != nil || last.version != w.version {
			continue
		}
		record, err := w.record(ctx, w.release, w.version)
		if err != nil {
			continue
		}
		for _, h := range record.Hooks {
			if !runsFor(h, w.events) {
				continue
			}
			named, _ := parseObjects(h.Manifest, w.release.Namespace) // Helm has parsed it before
			for _, o := range named {
				hooks = append(hooks, hook{o, h.Path})
			}
		}
		return hooks, last.created
	}
	return nil, metav1.Time{}
}

// hook is an object of a hook, and the path of its template.
type hook struct {
	object
	path string
}

// inspect keeps what the pods of a hook report, and fails a hook that cannot finish. Objects
// created before since belong to an earlier revision.
func (w *hookWatch) inspect(ctx context.Context, hook hook, since metav1.Time) {
	about := fmt.Sprintf("hook %s of %s", hook.object, hook.path)
	options := metav1.ListOptions{FieldSelector: "metadata.name=" + hook.name}
	isJob := hook.kind.Kind == "Job"
	var uid types.UID // of the object to fail
	if isJob {
		job, err := w.cluster.Client.BatchV1().Jobs(hook.namespace).Get(ctx, hook.name, metav1.GetOptions{})
		if err != nil || job.CreationTimestamp.Before(&since) || !madeByHook(job, w.release, false) {
			return
		}
		uid = job.UID
		options = metav1.ListOptions{LabelSelector: batchv1.ControllerUidLabel + "=" + string(job.UID)}
		if job.Status.Active+job.Status.Failed+job.Status.Succeeded == 0 {
			message, _ := w.podCreationFailure(ctx, hook.namespace, job.UID)
			if message != "" && w.lastsFor(about+" not made") >= retryGrace {
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
		if pod.CreationTimestamp.Before(&since) || !isJob && !madeByHook(pod, w.release, false) {
			continue
		}
		if !isJob {
			uid = pod.UID
		}
		if w.inspectPod(ctx, about, pod, isJob) {
			w.fail(ctx, hook.object, uid)
			return
		}
	}
}

// inspectPod keeps what a pod reports, and tells whether it can never finish.
func (w *hookWatch) inspectPod(ctx context.Context, about string, pod *corev1.Pod, ofJob bool) bool {
	if pod.Status.Phase == corev1.PodFailed || crashed(pod) {
		if w.lastsFor(string(pod.UID)+" failed") == 0 {
			w.report = about + ": pod " + pod.Name + " failed" + w.evidence(ctx, pod, trouble{container: failedContainer(pod)})
			w.hint = "its last lines say why; fix the hook and save"
		}
	}
	for _, t := range w.troubles(pod, ofJob) {
		if w.lastsFor(pod.Name+" "+t.key) >= t.grace {
			w.report, w.hint = about+": "+t.what+w.evidence(ctx, pod, t), t.hint
			return true
		}
	}
	return false
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
	api, err := w.resource(o)
	if err == nil {
		_, err = api.Patch(ctx, o.name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	w.failed = err == nil // otherwise the next inspection tries again
}
