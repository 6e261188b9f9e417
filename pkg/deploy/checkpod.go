// Trials: a command in an image, in a short pod of its own on a node. So an image is tried before anything is deployed that depends on it, and
// asked for what it holds. The pod is removed whatever happens: at once, or, after kill -9, by the next devloop.
package deploy

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
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	checkPodNamespace = "default" // namespace, where no other is there
	checkPodInterval  = youngPollInterval
	// checkPodOutput is how much of a command's output is read, in bytes.
	maxCheckPodOutput = 1 << 20
	// removeTimeout is for a pod to be removed after the work's own context has ended.
	removeTimeout = 10 * time.Second
	// nameLength is how much of an image's name is in its pod's: the whole has to be a DNS label.
	nameLength = 30
)

// Trial is a command that is run in an image.
type Trial struct {
	Image     string        // reference, as pods name it
	Name      string        // of the image in devloop.yaml
	Purpose   string        // one word: verify
	Command   []string      // in place of the image's entrypoint, nil to keep that
	Args      []string      // behind it
	Namespace string        // "" for Near
	Near      string        // where it runs if that namespace is there and takes it, else in default
	Timeout   time.Duration // in all
}

// PurposeVerify is that of the trials that devloop.yaml asks for.
const PurposeVerify = "verify"

// setting is what a user can do by a key of devloop.yaml, where the trial is from there.
func (t Trial) setting(hint string) string {
	if t.Purpose != PurposeVerify {
		return ""
	}
	return hint + ": verify in devloop.yaml"
}

// TrialError is what came of a trial whose command did not end with 0.
type TrialError struct {
	Code       int32  // that the command ended with
	Reason     string // in the runtime's words: Error, OOMKilled, StartError
	NotStarted bool   // the command is not in the image, or cannot be run
	Output     string // last lines

	image, command, message string
	limit                   string // of the pod's memory, as the namespace's LimitRange gives one; "" if there is none
}

// Error has the command's last lines below the fact.
func (e *TrialError) Error() string {
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

// Verify runs the trials side by side; those that this Deployer has seen succeed are not run again. The error has all that failed.
func (d *Deployer) Verify(ctx context.Context, sink event.Sink, trials []Trial) error {
	stage := sink.For("verify")
	if err := d.RemoveTrials(ctx); err != nil { // which could not be removed at their end
		return event.Transient(err)
	}
	errs := make([]error, len(trials))
	var group sync.WaitGroup
	for i, t := range trials {
		key := fmt.Sprintf("%s %s %q %q", t.Image, t.Namespace, t.Command, t.Args)
		d.mu.Lock()
		known := d.verified[key]
		d.mu.Unlock()
		if known {
			continue
		}
		group.Go(func() {
			errs[i] = stage.Step(ctx, event.ImageVerified, func(ctx context.Context) ([]any, error) {
				_, err := d.RunPod(ctx, t)
				var failed *TrialError
				switch {
				case errors.As(err, &failed):
					return nil, event.WithHint(fmt.Errorf("verify: %w", err), "the platform was not touched: fix what the image is made from, or the command under verify in devloop.yaml, and save")
				case err != nil:
					return nil, fmt.Errorf("verify image %s: %w", t.Image, err)
				}
				d.mu.Lock()
				d.verified[key] = true
				d.mu.Unlock()
				return nil, nil
			}, "image", event.Name(t.Image), "command", t.commandSummary())
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// RunPod runs one trial and returns what its command printed. If that did not end with 0, the error is a *TrialError.
func (d *Deployer) RunPod(ctx context.Context, t Trial) (output string, err error) {
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
		if err := sleep(ctx, checkPodInterval); err != nil {
			if !errors.Is(err, timeout) {
				return "", err
			}
			report, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
			defer cancel()
			return "", d.checkPodTimeout(report, t, pod, errors.Join(err, askErr))
		}
	}
}

// checkPodTrouble returns why the pod will never run, or nil.
func (w *waiter) checkPodTrouble(pod *corev1.Pod) error {
	if pod.Status.Phase == corev1.PodFailed { // evicted, or refused by the node
		return event.Transient(fmt.Errorf("pod %s: %s", podID(pod), strings.TrimSuffix(pod.Status.Reason+": "+pod.Status.Message, ": ")))
	}
	for _, t := range troubles(pod, false) {
		if w.lastsFor(t.key) >= t.grace {
			err := event.WithHint(errors.New(t.what), t.hint)
			if t.grace > noGrace { // a registry that is away, a node that is full
				err = event.Transient(err)
			}
			return err
		}
	}
	return nil
}

// endedContainer is the end of the pod's one command, nil before it.
func endedContainer(pod *corev1.Pod) *corev1.ContainerStateTerminated {
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name == kube.FieldManager {
			return status.State.Terminated
		}
	}
	return nil
}

func (d *Deployer) checkPodResult(ctx context.Context, t Trial, pod *corev1.Pod, ended *corev1.ContainerStateTerminated) (string, error) {
	var output string
	notStarted := ended.Reason == "StartError" || ended.Reason == "ContainerCannotRun" // of containerd and CRI-O, and of Docker
	if !notStarted {
		var err error
		if output, err = d.checkPodOutput(ctx, t, pod); err != nil && ended.ExitCode == 0 && t.Purpose != PurposeVerify {
			return "", fmt.Errorf("read what pod %s printed: %w", podID(pod), err)
		}
	}
	if ended.ExitCode == 0 {
		return output, nil
	}
	return "", &TrialError{
		Code: ended.ExitCode, Reason: ended.Reason, NotStarted: notStarted, Output: lastOf(output),
		image: t.Image, command: t.commandSummary(), message: strings.TrimSpace(ended.Message),
		limit: memoryLimit(pod, kube.FieldManager),
	}
}

// commandSummary is as much of a command as an error has room for.
func (t Trial) commandSummary() string {
	const room = 120
	shown := event.Printable(strings.Join(slices.Concat(t.Command, t.Args), " "))
	if len(shown) > room {
		shown = strings.ToValidUTF8(shown[:room], "") + "…"
	}
	return shown
}

// checkPodOutput reads what the command printed, of one that is only to succeed the last lines.
func (d *Deployer) checkPodOutput(ctx context.Context, t Trial, pod *corev1.Pod) (string, error) {
	limit, lines := int64(maxCheckPodOutput), int64(logTailLines)
	options := &corev1.PodLogOptions{Container: kube.FieldManager, LimitBytes: &limit}
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

// lastOf are the last lines of an output.
func lastOf(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.Join(lines[max(0, len(lines)-logTailLines):], "\n")
}

// checkPodTimeout is the error of a trial whose time is over.
func (d *Deployer) checkPodTimeout(ctx context.Context, t Trial, pod *corev1.Pod, cause error) error {
	text, hint := t.commandSummary()+" in image "+t.Image, t.setting("give it more time, or have it end sooner")
	if known := troubles(pod, false); len(known) > 0 {
		text, hint = text+": "+known[0].what, known[0].hint
	} else if pod.Spec.NodeName == "" {
		text, hint = text+": pod "+podID(pod)+" is on no node yet", "look at the nodes: kubectl describe nodes"
	}
	output, _ := d.checkPodOutput(ctx, t, pod) // which may not have begun
	err := fmt.Errorf("%s: %w", text, cause)
	if tail := lastOf(output); tail != "" {
		err = fmt.Errorf("%w\n%s", err, tail)
	}
	return event.WithHint(err, hint)
}

// createCheckPod makes the pod, in the first namespace that takes it.
func (d *Deployer) createCheckPod(ctx context.Context, t Trial) (*corev1.Pod, error) {
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
			return nil, event.Transient(err)
		}
		refused = event.WithHint(err, t.setting("name a namespace that takes it"))
	}
	return nil, refused
}

// isRefused tells that a namespace takes no such pod: it is not made yet, it ends, or it has rules of its own.
func isRefused(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) && !strings.Contains(err.Error(), startingUp)
}

func (d *Deployer) createCheckPodIn(ctx context.Context, t Trial, namespace string) (*corev1.Pod, error) {
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
	removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout) // it may have been made
	defer cancel()
	return nil, errors.Join(err, d.removeCheckPod(removing, podID(pod)))
}

// markRunning notes that a trial begins, or ends: nobody else removes its pod meanwhile.
func (d *Deployer) markRunning(id string, is bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if is {
		d.checkPods[id] = true
	} else {
		delete(d.checkPods, id)
	}
}

// notLabel replaces what is in an image's name and in no DNS label.
var notLabel = strings.NewReplacer("/", "-", ".", "-", "_", "-")

func newCheckPod(t Trial, namespace, name string) *corev1.Pod {
	no, now := false, int64(0)
	late := int64(math.Ceil((t.Timeout + removeTimeout).Seconds())) // for a devloop that was killed
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{
			kube.LabelManagedBy: kube.FieldManager, kube.LabelCheckPod: t.Purpose, "sidecar.istio.io/inject": "false",
		}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, ActiveDeadlineSeconds: &late, TerminationGracePeriodSeconds: &now,
			AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			Containers: []corev1.Container{{
				Name: kube.FieldManager, Image: t.Image, Command: t.Command, Args: t.Args, ImagePullPolicy: corev1.PullIfNotPresent,
				TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			}},
		},
	}
}

func podID(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

// RemoveTrials removes the pods of trials that are not under way: those that a devloop has left which was killed.
func (d *Deployer) RemoveTrials(ctx context.Context) error {
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

// removeCheckPod removes a pod and waits until it is gone, which it is at once: it has no time to say goodbye.
func (d *Deployer) removeCheckPod(ctx context.Context, id string) error {
	namespace, name, _ := strings.Cut(id, "/")
	pods := d.cluster.Client.CoreV1().Pods(namespace)
	pod, err := pods.Get(ctx, name, metav1.GetOptions{})
	if err == nil && kube.IsCheckPod(pod) && pod.Labels[labelProject] == d.project { // another one is somebody else's
		now, background := int64(0), metav1.DeletePropagationBackground
		err = pods.Delete(ctx, name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, PropagationPolicy: &background, Preconditions: onlyUID(pod.UID)})
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	return d.journal.Forget(journal.Pod, id)
}
