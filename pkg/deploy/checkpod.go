package deploy

// A check pod runs one command in an image, on a node, before anything is deployed that depends on
// the image, or to list what the image holds. It is always removed: at once or, after kill -9, by
// the next devloop.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/watch"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/ptr"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	checkPodNamespace = "default" // if there is no other
	checkContainer    = "devloop" // its only container
	// unwatchedPodInterval is how often a pod is asked for that cannot be watched.
	unwatchedPodInterval = 100 * time.Millisecond
	// maxCheckPodOutput is how much of a command's output is read, in bytes.
	maxCheckPodOutput = 1 << 20
	// removeTimeout is for removing a pod after the work's own context has ended.
	removeTimeout = 10 * time.Second
	// nameLength is how much of an image's name goes into that of the pod, which has to be a DNS
	// label.
	nameLength = 30
)

// CheckPod is a command to run in an image.
type CheckPod struct {
	Image     string        // reference, as pods name it
	Name      string        // of the image in devloop.yaml
	Purpose   string        // one word: verify
	Setting   string        // where the user sets it: "verify in devloop.yaml"; "" for devloop's own
	Command   []string      // overrides the image's entrypoint; nil to keep it
	Args      []string      // of the command
	Namespace string        // "" for Near
	Near      string        // namespace that is preferred to default, if it accepts the pod
	Timeout   time.Duration // in all
}

// PurposeVerify is the purpose of the user's checks.
const PurposeVerify = "verify"

// setting returns a hint at the check's keys in the configuration, if it is from there.
func (t CheckPod) setting(hint string) string {
	if t.Setting == "" {
		return ""
	}
	return hint + ": " + t.Setting
}

// CheckPodError is the outcome of a command that did not exit with 0.
type CheckPodError struct {
	Code       int32  // exit code
	Reason     string // in the runtime's words: Error, OOMKilled, StartError
	NotStarted bool   // the command is not in the image, or not executable
	Output     string // last lines

	image, command, message string
	limit                   string // of memory, by the namespace's LimitRange, or ""
}

// Error has the command's last lines below the fact.
func (e *CheckPodError) Error() string {
	text := fmt.Sprintf("%s in image %s ended with exit code %d", e.command, e.image, e.Code)
	switch {
	case e.NotStarted:
		text = fmt.Sprintf("%s cannot be started in image %s", e.command, e.image)
	case e.Code == exitKilled && e.Reason != kube.ReasonOOMKilled && e.limit != "":
		text += " (SIGKILL; its memory limit is " + e.limit + ")"
	case e.Reason != "Error" && e.Reason != "":
		text += " (" + e.Reason + ")"
	}
	if e.message != "" {
		text += ": " + e.message
	}
	if e.Output != "" {
		text += "\n" + e.Output
	}
	return text
}

// Verify runs the checks concurrently, and tells passed of each that passes, maybe of several at
// the same time. The error has all that failed.
func (d *Deployer) Verify(ctx context.Context, sink event.Sink, checks []CheckPod, passed func(CheckPod)) error {
	stage := sink.Stage("verify")
	if err := d.RemoveCheckPods(ctx); err != nil { // left over from earlier failures
		return markBusy(err)
	}
	errs := make([]error, len(checks))
	var group sync.WaitGroup
	for i, t := range checks {
		group.Go(func() {
			errs[i] = stage.Step(ctx, event.ImageVerified, func(ctx context.Context) ([]any, error) {
				_, err := d.RunCheckPod(ctx, t)
				var failed *CheckPodError
				switch {
				case errors.As(err, &failed):
					return nil, event.WithHint(fmt.Errorf("verify: %w", err),
						"the platform was not touched: fix what the image is made from, or the command ("+t.Setting+"), and save")
				case err != nil:
					return nil, fmt.Errorf("verify image %s: %w", t.Image, err)
				}
				passed(t)
				return nil, nil
			}, t.Event())
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// Event is what events tell of the check.
func (t CheckPod) Event() event.Verification {
	return event.Verification{Image: event.Image{Name: event.Name(t.Name), Ref: event.Name(t.Image)},
		Command: t.commandSummary()}
}

// RunCheckPod runs one check and returns what its command printed. If it did not exit with 0, the
// error is a *CheckPodError.
func (d *Deployer) RunCheckPod(ctx context.Context, t CheckPod) (output string, err error) {
	timeout := fmt.Errorf("not done after %s", t.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, t.Timeout, timeout)
	defer cancel()
	pod, err := d.createCheckPod(ctx, t)
	if err != nil {
		return "", err
	}
	defer func() {
		removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		d.markRunning(podID(pod), false)
		err = errors.Join(err, d.removeCheckPod(removing, podID(pod)))
	}()
	changes := d.watchPod(ctx, pod)
	defer changes.stop()
	w := &waiter{Deployer: d}
	for {
		now, askErr := d.cluster.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(askErr):
			return "", event.Transient(fmt.Errorf("pod %s was deleted by someone else", podID(pod)))
		case askErr == nil:
			pod = now
			if ended := endedContainer(pod); ended != nil {
				return d.checkPodResult(ctx, t, pod, ended)
			}
			if err := w.checkPodTrouble(pod); err != nil {
				return "", err
			}
		}
		if err := changes.next(ctx); err != nil {
			if !errors.Is(err, timeout) {
				return "", err
			}
			report, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
			defer cancel()
			return "", d.checkPodTimeout(report, t, pod, errors.Join(err, askErr))
		}
	}
}

// podChanges tells when a pod changes. What it is then is read from the API server.
type podChanges struct {
	seen    chan struct{} // holds a token after a change
	watches atomic.Bool   // else the pod is polled
	stop    func()
}

// watchPod watches a pod until stop is called.
func (d *Deployer) watchPod(ctx context.Context, pod *corev1.Pod) *podChanges {
	ctx, cancel := context.WithCancel(ctx)
	c := &podChanges{seen: make(chan struct{}, 1)}
	var watching sync.WaitGroup
	watching.Go(func() {
		_ = event.Guard(func() error { // without it, the pod is polled
			defer c.watches.Store(false)
			return c.watch(ctx, d.cluster.Client.CoreV1().Pods(pod.Namespace), pod)
		})
	})
	c.stop = func() {
		cancel()
		watching.Wait()
	}
	return c
}

func (c *podChanges) watch(ctx context.Context, pods typedcorev1.PodInterface, pod *corev1.Pod) error {
	events, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name,
		ResourceVersion: pod.ResourceVersion})
	if err != nil {
		return err
	}
	defer events.Stop()
	c.watches.Store(true)
	for {
		select {
		case e, open := <-events.ResultChan():
			if !open || e.Type == watch.Error {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select {
		case c.seen <- struct{}{}:
		default: // one is there already
		}
	}
}

// next returns when it is time to ask for the pod again.
func (c *podChanges) next(ctx context.Context) error {
	interval := unwatchedPodInterval
	if c.watches.Load() {
		interval = missedChange
	}
	return awaitChange(ctx, c.seen, interval)
}

// checkPodTrouble returns why the pod will never run, or nil.
func (w *waiter) checkPodTrouble(pod *corev1.Pod) error {
	if pod.Status.Phase == corev1.PodFailed { // evicted, or rejected by the node
		return event.Transient(fmt.Errorf("pod %s: %s", podID(pod),
			strings.TrimSuffix(pod.Status.Reason+": "+pod.Status.Message, ": ")))
	}
	for _, t := range w.troubles(pod, false) {
		if w.lastsFor(t.key) >= t.grace {
			err := event.WithHint(errors.New(t.what), t.hint)
			if t.grace > noGrace { // a registry is away, a node is full
				err = event.Transient(err)
			}
			return err
		}
	}
	return nil
}

// endedContainer is how the pod's container ended, nil while it has not.
func endedContainer(pod *corev1.Pod) *corev1.ContainerStateTerminated {
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name == checkContainer {
			return status.State.Terminated
		}
	}
	return nil
}

func (d *Deployer) checkPodResult(ctx context.Context, t CheckPod, pod *corev1.Pod,
	ended *corev1.ContainerStateTerminated) (string, error) {
	var output string
	notStarted := couldNotStart(ended)
	if !notStarted {
		var err error
		if output, err = d.checkPodOutput(ctx, t, pod); err != nil && ended.ExitCode == 0 && t.Purpose != PurposeVerify {
			return "", markBusy(fmt.Errorf("read what pod %s printed: %w", podID(pod), err))
		}
	}
	if ended.ExitCode == 0 {
		return output, nil
	}
	return "", &CheckPodError{
		Code: ended.ExitCode, Reason: ended.Reason, NotStarted: notStarted, Output: lastOf(output),
		image: t.Image, command: t.commandSummary(), message: strings.TrimSpace(ended.Message),
		limit: memoryLimit(pod, checkContainer),
	}
}

// commandSummary is the command, shortened for an error.
func (t CheckPod) commandSummary() string {
	const room = 120
	shown := event.Printable(strings.Join(slices.Concat(t.Command, t.Args), " "))
	if len(shown) > room {
		shown = strings.ToValidUTF8(shown[:room], "") + "…"
	}
	return shown
}

// checkPodOutput reads what the command printed: all of it, or the last lines if it only has to
// succeed.
func (d *Deployer) checkPodOutput(ctx context.Context, t CheckPod, pod *corev1.Pod) (string, error) {
	limit, lines := int64(maxCheckPodOutput), int64(logTailLines)
	options := &corev1.PodLogOptions{Container: checkContainer, LimitBytes: &limit}
	if t.Purpose == PurposeVerify {
		options.TailLines = &lines
	}
	stream, err := d.cluster.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).Stream(ctx)
	if err != nil {
		return "", err
	}
	content, err := io.ReadAll(stream)
	_ = stream.Close() // only read
	return string(content), err
}

func lastOf(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.Join(lines[max(0, len(lines)-logTailLines):], "\n")
}

// checkPodTimeout returns the error of a check that timed out.
func (d *Deployer) checkPodTimeout(ctx context.Context, t CheckPod, pod *corev1.Pod, cause error) error {
	text, hint := t.commandSummary()+" in image "+t.Image, t.setting("give it more time, or have it end sooner")
	known := d.troubles(pod, false)
	if len(known) > 0 {
		text, hint = text+": "+known[0].what, known[0].hint
	} else if pod.Spec.NodeName == "" {
		text, hint = text+": pod "+podID(pod)+" is on no node yet", "look at the nodes: kubectl describe nodes"
	}
	output, _ := d.checkPodOutput(ctx, t, pod) // it may not have started
	err := fmt.Errorf("%s: %w", text, cause)
	if tail := lastOf(output); tail != "" {
		err = fmt.Errorf("%w\n%s", err, tail)
	}
	// Kubernetes had not started it yet: that says nothing about the image.
	if pod.Status.Phase == corev1.PodPending && len(known) == 0 {
		err = event.Transient(err)
	}
	return event.WithHint(err, hint)
}

// createCheckPod creates the pod, in the first namespace that accepts it.
func (d *Deployer) createCheckPod(ctx context.Context, t CheckPod) (*corev1.Pod, error) {
	namespaces := []string{cmp.Or(t.Namespace, t.Near, checkPodNamespace)}
	if t.Namespace == "" && namespaces[0] != checkPodNamespace {
		namespaces = append(namespaces, checkPodNamespace)
	}
	var refused error
	for _, namespace := range namespaces {
		pod, err := d.createCheckPodIn(ctx, t, namespace)
		if err == nil {
			return pod, nil
		}
		err = fmt.Errorf("a pod to try image %s in namespace %s: %w", t.Image, namespace, err)
		if !isRefused(err) {
			return nil, markBusy(err)
		}
		refused = event.WithHint(err, t.setting("name a namespace that takes it"))
	}
	return nil, refused
}

// isRefused tells that a namespace accepts no such pod: it does not exist yet, is being deleted, or
// has policies.
func isRefused(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) && !strings.Contains(err.Error(), startingUp)
}

func (d *Deployer) createCheckPodIn(ctx context.Context, t CheckPod, namespace string) (*corev1.Pod, error) {
	image := notLabel.Replace(t.Name)
	image = strings.Trim(image[max(0, len(image)-nameLength):], "-")
	pod := newCheckPod(t, namespace, fmt.Sprintf("devloop-%s-%s-%s", t.Purpose, image, rand.String(5)))
	pod.Labels[labelProject] = d.project
	d.markRunning(podID(pod), true)
	if err := d.journal.Record(journal.Pod, podID(pod)); err != nil {
		d.markRunning(podID(pod), false)
		return nil, err
	}
	made, err := d.cluster.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err == nil {
		return made, nil
	}
	d.markRunning(podID(pod), false)
	if isRefused(err) {
		return nil, errors.Join(err, d.journal.Forget(journal.Pod, podID(pod)))
	}
	removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout) // it may have been created
	defer cancel()
	return nil, errors.Join(err, d.removeCheckPod(removing, podID(pod)))
}

// markRunning marks a pod as running, or not: RemoveCheckPods leaves it alone meanwhile.
func (d *Deployer) markRunning(id string, is bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if is {
		d.checkPods[id] = true
	} else {
		delete(d.checkPods, id)
	}
}

// notLabel replaces what is allowed in an image's name but not in a DNS label.
var notLabel = strings.NewReplacer("/", "-", ".", "-", "_", "-")

func newCheckPod(t CheckPod, namespace, name string) *corev1.Pod {
	late := int64(math.Ceil((t.Timeout + removeTimeout).Seconds())) // in case devloop is killed
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{
			kube.LabelManagedBy: kube.FieldManager, kube.LabelCheckPod: t.Purpose, "sidecar.istio.io/inject": "false",
		}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, ActiveDeadlineSeconds: &late,
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			AutomountServiceAccountToken:  ptr.To(false), EnableServiceLinks: ptr.To(false),
			Containers: []corev1.Container{{
				Name: checkContainer, Image: t.Image, Command: t.Command, Args: t.Args, ImagePullPolicy: corev1.PullIfNotPresent,
				TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			}},
		},
	}
}

func podID(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

// RemoveCheckPods removes check pods that are not running: those of a devloop that was killed.
func (d *Deployer) RemoveCheckPods(ctx context.Context) error {
	var errs []error
	for _, id := range d.journal.Names(journal.Pod) {
		d.mu.Lock()
		busy := d.checkPods[id]
		d.mu.Unlock()
		if !busy {
			errs = append(errs, d.removeCheckPod(ctx, id))
		}
	}
	return errors.Join(errs...)
}

// removeCheckPod deletes a pod, which has no grace period.
func (d *Deployer) removeCheckPod(ctx context.Context, id string) error {
	namespace, name, _ := strings.Cut(id, "/")
	pods := d.cluster.Client.CoreV1().Pods(namespace)
	pod, err := pods.Get(ctx, name, metav1.GetOptions{})
	if err == nil && kube.IsCheckPod(pod) && pod.Labels[labelProject] == d.project { // otherwise someone else's
		err = pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0),
			PropagationPolicy: ptr.To(metav1.DeletePropagationBackground), Preconditions: onlyUID(pod.UID)})
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	return d.journal.Forget(journal.Pod, id)
}
