package deploy

// Diagnoses: whether a pod that is not up will ever be, and if not, a report with the resource, the
// decisive event, the container's last lines, and what most likely helps.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// maxRestarts is how often a failing container may restart: once may be due to a dependency that
	// was late.
	maxRestarts = 2
	// logTailLines is how many lines of a failed container's log are shown.
	logTailLines = 15
)

// How long a problem may last that a registry, a controller or another release may fix.
const (
	retryGrace    = 20 * time.Second // a node retries after 10 to 15 s, when a config map was late
	scheduleGrace = 30 * time.Second // for the scheduler: other pods end, volumes are created
	backoffGrace  = 60 * time.Second // for controllers with exponential backoff
	noGrace       = 0
	// eventsDelay is when events are first read: most rollouts are complete by then.
	eventsDelay = 2 * time.Second
)

// trouble keeps a pod from coming up.
type trouble struct {
	what      string // "container main of pod web-1: CrashLoopBackOff: back-off 10s restarting failed container"
	container string // whose log may tell more, or ""
	key       string // identifies the trouble over time
	grace     time.Duration
	hint      string
	image     podImage // that the container waits for, if it does
}

// diagnose returns what a workload still needs, "" when it is up, and after how long it may be up
// if nothing changes, 0 if it cannot. The error says why a pod of its current template cannot come
// up.
func (w *waiter) diagnose(
	ctx context.Context, of workload, state rollout,
) (missing string, again time.Duration, err error) {
	// For a moment, a deployment may still have the failure of its previous template.
	if state.failed != "" && (of.kind == "job" || w.lastsFor(of.String()+" has failed") >= retryGrace) {
		return state.missing, 0, w.failureReport(ctx, of, state, nil,
			trouble{what: state.failed, hint: "the lines above say why; fix it and save"})
	}
	if state.selector == "" {
		if state.missing == "" && state.ready > 0 {
			return notObserved, pollInterval, nil
		}
		return state.missing, 0, nil
	}
	pods, err := w.podsOf(ctx, of, state.selector)
	if err != nil {
		return "its pods cannot be listed: " + err.Error(), 0, nil //nolint:nilerr // retried at the next observation
	}
	missing = state.missing
	for i := range pods {
		pod := &pods[i]
		if pod.DeletionTimestamp != nil {
			continue
		}
		for _, t := range append(w.troubles(pod, of.kind == "job"), w.unmounted(ctx, pod)...) {
			if t.key == unschedulable && w.neverFits(ctx, pod) {
				t.grace = noGrace
			}
			if w.lastsFor(podID(pod)+" "+t.key) >= t.grace {
				return missing, 0, w.failureReport(ctx, of, state, pod, t)
			}
		}
	}
	if of.kind != "job" {
		var unsteady string
		if unsteady, again = w.unsteady(ctx, pods); missing == "" {
			missing = unsteady
		}
		if missing == "" {
			missing, again = w.notReady(ctx, of, state, pods), pollInterval
		}
	}
	if state.missing != "" && w.lastsFor(of.String()+" is not complete") >= eventsDelay {
		// An earlier failure may have been fixed since; the next attempt comes later, the longer it
		// failed.
		message, try := w.podCreationFailure(ctx, of.namespace, state.uid)
		limit := retryGrace
		if !w.changedSinceStart(of.String()+" not made", try) {
			limit = backoffGrace
		}
		if message != "" && w.lastsFor(of.String()+" not made") >= limit {
			return missing, 0, w.failureReport(ctx, of, state, nil, trouble{what: message, hint: hintNotMade(message)})
		}
		if state.replaced != "" && len(pods) == 0 {
			w.unblockStatefulSet(ctx, of, state)
		}
	}
	return missing, again, nil
}

// podsOf lists the pods of a workload that have the labels. Of those that have ended, only a job's
// count: others, such as evicted ones, are replaced.
func (d *Deployer) podsOf(ctx context.Context, of workload, selector string) ([]corev1.Pod, error) {
	list, err := d.cluster.Client.CoreV1().Pods(of.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		return of.kind != "job" && kube.HasEnded(&pod)
	}), nil
}

// unblockStatefulSet deletes a pod of an earlier revision that never came up: Kubernetes replaces
// the pods of a stateful set in order, and waits for this one forever, even after the cause was
// fixed (kubernetes#67250).
func (w *waiter) unblockStatefulSet(ctx context.Context, of workload, state rollout) {
	if of.release == nil || of.release.foreign || kube.MayWrite(ctx) != nil {
		return
	}
	pods, err := w.cluster.Client.CoreV1().Pods(of.namespace).List(ctx, metav1.ListOptions{LabelSelector: state.replaced})
	if err != nil {
		return // retried at the next observation
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		owner := metav1.GetControllerOf(pod)
		if pod.DeletionTimestamp != nil || owner == nil || owner.UID != state.uid {
			continue // someone else's with the same labels
		}
		for _, t := range troubles(pod, false) {
			w.stage.Note("pod of an earlier revision deleted, it never came up and blocks its successor",
				"pod", event.Name(pod.Name), "reason", t.what)
			_ = w.cluster.Client.CoreV1().Pods(of.namespace).Delete(ctx, pod.Name,
				metav1.DeleteOptions{Preconditions: onlyUID(pod.UID)})
			return
		}
	}
}

// unmounted returns the trouble of a pod whose volume does not exist: only its events tell.
func (w *waiter) unmounted(ctx context.Context, pod *corev1.Pod) []trouble {
	if pod.Spec.NodeName == "" || !slices.ContainsFunc(kube.ContainerStatuses(pod), kube.IsStarting) ||
		w.lastsFor(podID(pod)+" is being made") < eventsDelay {
		return nil
	}
	e := w.lastWarning(ctx, pod.Namespace, pod.UID)
	if e == nil || e.Reason != "FailedMount" || !strings.Contains(e.Message, "not found") {
		return nil
	}
	return []trouble{{what: fmt.Sprintf("pod %s: %s: %s", pod.Name, e.Reason, e.Message), key: "mount", grace: retryGrace,
		hint: "create the config map, secret or claim that it names, or correct the name in the chart's values"}}
}

const unschedulable = "unschedulable"

// troubles returns what keeps a pod from coming up, by its status. The pods of a job may crash:
// only the job counts.
func troubles(pod *corev1.Pod, ofJob bool) []trouble {
	var all []trouble
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			all = append(all, trouble{what: fmt.Sprintf("pod %s: Unschedulable: %s", pod.Name, c.Message), key: unschedulable,
				grace: scheduleGrace,
				hint: "lower its resources' requests, or correct its node selector, tolerations or volume; kubectl describe " +
					"node shows what is available"})
		}
	}
	for _, status := range kube.ContainerStatuses(pod) {
		waiting := status.State.Waiting
		if waiting == nil {
			continue
		}
		reason, message := waiting.Reason, waiting.Message
		if last := status.LastTerminationState.Terminated; couldNotStart(last) &&
			slices.Contains([]string{"RunContainerError", "CrashLoopBackOff"}, reason) {
			reason, message = "RunContainerError", last.Message // the two alternate
		}
		t := trouble{container: status.Name, key: status.Name + " " + reason,
			what: strings.TrimRight(fmt.Sprintf("container %s of pod %s: %s: %s", status.Name, pod.Name, reason, message), ": ")}
		switch reason {
		case "ErrImageNeverPull", "InvalidImageName":
			t.image, t.hint = imageOf(pod, status), hintImageName
		case "ErrImagePull", "ImagePullBackOff":
			t.key, t.image, t.hint = status.Name+" pull", imageOf(pod, status), hintImageName
			if !imageDoesNotExist(waiting.Message) {
				t.grace = retryGrace
			}
		case "CreateContainerConfigError":
			t.grace, t.hint = retryGrace,
				"create the config map or secret that it names, or correct the name or key in the chart's values"
		case "CreateContainerError", "RunContainerError":
			t.grace, t.hint = retryGrace, "correct the container's command, mounts or security context in the chart"
		case "CrashLoopBackOff":
			if status.RestartCount < maxRestarts || ofJob {
				continue
			}
			t.hint = hintLines
			if last := status.LastTerminationState.Terminated; last != nil {
				t.what += fmt.Sprintf(" (exit code %d, %s)", last.ExitCode, last.Reason)
				if message := strings.TrimSpace(last.Message); message != "" { // of the runtime, or the termination log
					t.what += ": " + message
				}
				t.hint = hintExit(last, memoryLimit(pod, status.Name))
			}
		default:
			continue
		}
		all = append(all, t)
	}
	return all
}

// couldNotStart tells whether the runtime could not start a container's process; it is its error.
func couldNotStart(ended *corev1.ContainerStateTerminated) bool {
	return ended != nil &&
		(ended.Reason == "StartError" || ended.Reason == "ContainerCannotRun") // containerd and CRI-O; Docker
}

// imageDoesNotExist tells whether a registry has said so, rather than not answered.
func imageDoesNotExist(message string) bool {
	for _, words := range []string{"not found", "manifest unknown", "does not exist", "name unknown"} {
		if strings.Contains(message, words) {
			return true
		}
	}
	return false
}

// hintImageName is about an image that devloop has not built.
const hintImageName = "correct the name or tag in the chart's values, or see the message for why its registry does " +
	"not give it; an image that devloop builds is {{ image \"name\" }} there"

// imageOf returns the image of a container, and whether the node always asks a registry for it.
func imageOf(pod *corev1.Pod, status corev1.ContainerStatus) podImage {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == status.Name {
			return podImage{c.Image, c.ImagePullPolicy == corev1.PullAlways}
		}
	}
	return podImage{status.Image, false}
}

// podImage is the image of a container that waits for it.
type podImage struct {
	name       string
	alwaysPull bool
}

// troubles returns what keeps a pod from coming up. Of an image that devloop has built, the cause
// is not its name.
func (d *Deployer) troubles(pod *corev1.Pod, ofJob bool) []trouble {
	all := troubles(pod, ofJob)
	for i, t := range all {
		switch {
		case t.image.name == "" || !d.isLoaded(t.image.name):
		case t.image.alwaysPull:
			all[i].hint = "devloop has given this image to the node and to no registry, and its container's " +
				"imagePullPolicy: Always asks one: make it IfNotPresent in the chart's values"
		default:
			all[i].hint = "devloop has built this image, and the node does not have it any more: run again (r), " +
				"which brings it back"
		}
	}
	return all
}

// SetLoaded names the images that the nodes were given, by their references.
func (d *Deployer) SetLoaded(images []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.loaded = map[string]bool{}
	for _, image := range images {
		d.loaded[fullImageName(image)] = true
	}
}

func (d *Deployer) isLoaded(image string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loaded[fullImageName(image)]
}

// fullImageName has the registry that a short name leaves out.
func fullImageName(image string) string {
	ref, err := name.ParseReference(image)
	if err != nil {
		return image
	}
	return ref.Name()
}

const hintLines = "its last lines say why; fix it and save"

// exitKilled is the exit code after SIGKILL. A memory kill is one, but the runtime may report it as
// Error instead of OOMKilled.
const exitKilled = 137

// memoryLimit returns that of a container, "" if it has none.
func memoryLimit(pod *corev1.Pod, container string) string {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if limit := c.Resources.Limits.Memory(); c.Name == container && !limit.IsZero() {
			return limit.String()
		}
	}
	return ""
}

func hintExit(last *corev1.ContainerStateTerminated, limit string) string {
	switch {
	case last.Reason == kube.ReasonOOMKilled:
		return "raise the container's memory limit, or have it use less"
	case last.ExitCode == exitKilled && limit != "":
		return "exit code 137 is SIGKILL, and its memory limit is " + limit +
			": if it reached that, raise the container's memory limit, or have it use less"
	case last.ExitCode == 127 || last.ExitCode == 126:
		return "its command is not in the image, or cannot be run: correct the command or the Dockerfile"
	}
	return hintLines
}

func hintNotMade(message string) string {
	switch {
	case strings.Contains(message, "exceeded quota"), strings.Contains(message, "failed quota"):
		return "raise the namespace's quota, or lower what the pods ask for: kubectl describe quota"
	case strings.Contains(message, "violates PodSecurity"):
		return "correct the pod's security context, or the namespace's pod-security label"
	case strings.Contains(message, "serviceaccount"):
		return "create the service account that the pods name, or correct its name in the chart's values"
	}
	return "fix the pod's template in the chart and save"
}

// neverFits tells whether a pod requests more than any node has in total.
func (w *waiter) neverFits(ctx context.Context, pod *corev1.Pod) bool {
	nodes, err := w.cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) == 0 {
		return false
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		var asked resource.Quantity
		for _, c := range pod.Spec.Containers {
			asked.Add(c.Resources.Requests[name])
		}
		if !slices.ContainsFunc(nodes.Items, func(n corev1.Node) bool {
			there := n.Status.Allocatable[name]
			return there.Cmp(asked) >= 0
		}) {
			return true
		}
	}
	return false
}

// podCreationFailure returns why pods cannot be created (quota, admission, a service account), and
// an ID of the last attempt.
func (d *Deployer) podCreationFailure(ctx context.Context, namespace string, uid types.UID) (message, try string) {
	if last := d.lastWarning(ctx, namespace, uid); last != nil && last.Reason == "FailedCreate" {
		return last.Reason + ": " + last.Message, last.Name + " " + last.ResourceVersion
	}
	return "", ""
}

// lastWarning returns the newest warning about an object, or nil.
func (d *Deployer) lastWarning(ctx context.Context, namespace string, uid types.UID) *corev1.Event {
	if uid == "" {
		return nil
	}
	list, err := d.cluster.Client.CoreV1().Events(namespace).List(ctx,
		metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.uid=" + string(uid)})
	if err != nil {
		return nil
	}
	return kube.NewestEvent(list.Items)
}

// failureReport returns a workload's error, with all that is needed to fix it. pod may be nil.
func (d *Deployer) failureReport(ctx context.Context, of workload, state rollout, pod *corev1.Pod, t trouble) error {
	text := fmt.Sprintf("%s: %s", of, t.what)
	if pod == nil && state.selector != "" { // for the log of one that failed
		if pods, err := d.podsOf(ctx, of, state.selector); err == nil && len(pods) > 0 {
			if pod, t.container = failedPod(pods); pod == nil {
				pod = &pods[len(pods)-1]
			}
		}
	}
	if pod != nil {
		text += d.evidence(ctx, pod, t)
	}
	return event.WithHint(errors.New(text), t.hint)
}

// evidence returns the decisive event and the container's last lines, each on lines of its own. An
// event from before the container started is not why it failed.
func (d *Deployer) evidence(ctx context.Context, pod *corev1.Pod, t trouble) string {
	text := ""
	e := d.lastWarning(ctx, pod.Namespace, pod.UID)
	if e != nil && !strings.Contains(t.what, e.Message) && !kube.EventTime(e).Before(lastStart(pod, t.container)) {
		text += fmt.Sprintf("\nevent: %s: %s", e.Reason, strings.TrimSpace(e.Message))
	}
	if t.container != "" {
		if tail := d.lastLines(ctx, pod, t.container); tail != "" {
			text += "\n" + tail
		}
	}
	return text
}

// lastStart is when a container last started, the zero time if never.
func lastStart(pod *corev1.Pod, name string) (start time.Time) {
	for _, status := range kube.ContainerStatuses(pod) {
		if status.Name != name {
			continue
		}
		for _, state := range []corev1.ContainerState{status.LastTerminationState, status.State} {
			if state.Terminated != nil {
				start = state.Terminated.StartedAt.Time
			}
			if state.Running != nil {
				start = state.Running.StartedAt.Time
			}
		}
	}
	return start
}

// failedContainer names the container of a pod whose log tells most.
func failedContainer(pod *corev1.Pod) string {
	statuses := kube.ContainerStatuses(pod)
	for _, status := range statuses {
		if ended := status.State.Terminated; ended != nil && ended.ExitCode != 0 {
			return status.Name
		}
	}
	for _, status := range statuses {
		if !status.Ready {
			return status.Name
		}
	}
	return ""
}

// failedPod returns the first pod with a container that failed or is not ready, and that container.
func failedPod(pods []corev1.Pod) (pod *corev1.Pod, container string) {
	for i := range pods {
		if container := failedContainer(&pods[i]); container != "" && pods[i].DeletionTimestamp == nil {
			return &pods[i], container
		}
	}
	return nil, ""
}

// timeoutReport adds to a timeout what is known of the pods that are not up.
func (w *waiter) timeoutReport(ctx context.Context, s observation, failure error) error {
	if s.rollout.selector == "" {
		return failure
	}
	pods, err := w.podsOf(ctx, s.waitsFor, s.rollout.selector)
	if err != nil {
		return failure
	}
	pod, container := failedPod(pods)
	if pod == nil {
		return failure
	}
	t := trouble{container: container, hint: "look at the pod: kubectl describe pod " + pod.Name + " -n " + pod.Namespace}
	if known := w.troubles(pod, s.waitsFor.kind == "job"); len(known) > 0 {
		t = known[0]
		failure = fmt.Errorf("%w\n%s", failure, t.what)
	}
	if facts := w.evidence(ctx, pod, t); facts != "" {
		failure = fmt.Errorf("%w%s", failure, facts)
	}
	return event.WithHint(failure, t.hint)
}

// lastLines returns the last lines that a container printed before it died, or "".
func (d *Deployer) lastLines(ctx context.Context, pod *corev1.Pod, container string) string {
	lines := int64(logTailLines)
	for _, previous := range []bool{true, false} {
		stream, err := d.cluster.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name,
			&corev1.PodLogOptions{Container: container, Previous: previous, TailLines: &lines}).Stream(ctx)
		if err != nil {
			continue
		}
		content, _ := io.ReadAll(io.LimitReader(stream, 16<<10)) // a part is better than nothing
		_ = stream.Close()
		if len(bytes.TrimSpace(content)) > 0 {
			return strings.TrimSpace(string(content))
		}
	}
	return ""
}
