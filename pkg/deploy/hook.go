// Helm's hooks, watched from beside: Helm waits for a hook until its time is over, also for one that can never end, and says no more
// of it than that it failed.
package deploy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
)

// hookInterval is how often the pods of hooks are looked at while Helm writes.
const hookInterval = 500 * time.Millisecond

// hookWatch looks at the hooks of one revision while it is written.
type hookWatch struct {
	*Deployer
	release Release
	version int
	seen    map[string]time.Time

	report string // of the hook that failed
	hint   string
}

// watchHooks runs a Helm write. A hook that cannot come to its end is made to fail at once, and the error tells what its pod said.
func (d *Deployer) watchHooks(r Release, version int, write func() error) error {
	w := &hookWatch{Deployer: d, release: r, version: version, seen: map[string]time.Time{}}
	ctx, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { w.watch(ctx) })
	err := write()
	stop()
	watching.Wait()
	if err == nil || w.report == "" {
		return err
	}
	return event.WithHint(fmt.Errorf("%w\n%s", plain(err), w.report), w.hint)
}

func (w *hookWatch) watch(ctx context.Context) {
	var hooks []*release.Hook
	for known := false; sleep(ctx, hookInterval) == nil; {
		if !known {
			last, err := w.last(ctx, w.release)
			if err != nil || last.version != w.version {
				continue // not written yet
			}
			helm, err := w.helm(ctx, w.release.Namespace)
			if err != nil {
				continue
			}
			made, err := helm.Releases.Get(w.release.Name, w.version)
			if err != nil {
				continue
			}
			if hooks, known = made.Hooks, true; len(hooks) == 0 {
				return
			}
		}
		for _, hook := range hooks {
			w.look(ctx, hook)
		}
	}
}

// look keeps what a hook's pod says, and ends a hook that never will by itself.
func (w *hookWatch) look(ctx context.Context, hook *release.Hook) {
	objects, err := parse(hook.Manifest, w.release.Namespace)
	if err != nil || len(objects) == 0 {
		return
	}
	o := objects[0]
	options := metav1.ListOptions{LabelSelector: "job-name=" + o.name}
	switch o.kind.Kind {
	case "Job":
	case "Pod":
		options = metav1.ListOptions{FieldSelector: "metadata.name=" + o.name}
	default:
		return
	}
	pods, err := w.cluster.Client.CoreV1().Pods(o.namespace).List(ctx, options)
	if err != nil {
		return
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		about := fmt.Sprintf("hook %s of %s", o, hook.Path)
		if container := failedContainer(pod); pod.Status.Phase == corev1.PodFailed || crashed(pod) {
			if _, known := w.seen[string(pod.UID)+" failed"]; !known {
				w.seen[string(pod.UID)+" failed"] = time.Now()
				w.report = about + ": pod " + pod.Name + " failed" + w.facts(ctx, pod, trouble{container: container})
				w.hint = "its last lines say why; mend the hook and save"
			}
		}
		for _, t := range troubles(pod, false) {
			key := pod.Name + " " + t.key
			if _, known := w.seen[key]; !known {
				w.seen[key] = time.Now()
			}
			if time.Since(w.seen[key]) < t.patience {
				continue
			}
			w.report, w.hint = about+": "+t.what+w.facts(ctx, pod, t), t.hint
			w.end(ctx, o)
		}
	}
}

// crashed tells whether a container of the pod ended badly.
func crashed(pod *corev1.Pod) bool {
	for _, status := range pod.Status.ContainerStatuses {
		for _, ended := range []*corev1.ContainerStateTerminated{status.State.Terminated, status.LastTerminationState.Terminated} {
			if ended != nil && ended.ExitCode != 0 {
				return true
			}
		}
	}
	return false
}

// end lets the cluster fail the hook, which Helm waits for. To delete it would not do: Helm takes that for success.
func (w *hookWatch) end(ctx context.Context, o object) {
	patch := []byte(`{"spec":{"activeDeadlineSeconds":1}}`)
	if o.kind.Kind == "Job" { // an error is no matter: it is tried again at the next look
		_, _ = w.cluster.Client.BatchV1().Jobs(o.namespace).Patch(ctx, o.name, types.MergePatchType, patch, metav1.PatchOptions{})
	} else {
		_, _ = w.cluster.Client.CoreV1().Pods(o.namespace).Patch(ctx, o.name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
}
