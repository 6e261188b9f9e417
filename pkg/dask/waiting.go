package dask

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// waitGrace is how long a cluster waits before that is said: each pod is pending for a moment.
	waitGrace = 5 * time.Second
	// slowStart is how long a container may take to start, and a gateway to make a pod.
	slowStart = 20 * time.Second
	// recentDeath is how long the end of a container counts, though it runs again.
	recentDeath = time.Minute
	// explainAgain is when the reason is looked for again: what is free changes.
	explainAgain = 15 * time.Second
	// explainTimeout is how long the cluster may take to say why.
	explainTimeout = 10 * time.Second
	// reasonLength limits what is quoted from Kubernetes, in bytes.
	reasonLength = 300
)

// kind is why a pod does not run.
type kind string

// The kinds, the most serious first. Those that are not known yet are the most likely to pass.
const (
	ended         kind = "ended"
	noImage       kind = "no image"
	cannotStart   kind = "cannot start"
	unschedulable kind = "unschedulable"
	notMade       kind = "not made"
	slow          kind = "slow"
)

var kinds = []kind{ended, noImage, cannotStart, unschedulable, notMade, slow}

// trouble is what keeps the scheduler or the workers of a cluster from running.
type trouble struct {
	kind      kind
	scheduler bool
	count     int         // of workers
	text      string      // what Kubernetes says
	pod       *corev1.Pod // one of those that it is about; nil where there is none
}

// troubleOf returns what a cluster waits for, and nil if it waits for nothing, or only for a
// moment, as far as its pods tell.
func troubleOf(object *unstructured.Unstructured, c event.DaskCluster, pods []*corev1.Pod, now time.Time) *trouble {
	if !isAlive(c) {
		return nil
	}
	scheduler := schedulerOf(object, pods)
	if scheduler == nil || !kube.IsReady(scheduler) {
		if scheduler == nil {
			if now.Sub(c.Since) < slowStart {
				return nil
			}
			return &trouble{kind: notMade, scheduler: true}
		}
		if kind, text := podTrouble(scheduler, now); kind != "" {
			return &trouble{kind: kind, scheduler: true, text: text, pod: scheduler}
		}
		return nil
	}
	found := map[kind]*trouble{}
	for _, pod := range pods {
		if !isPart(pod, object) || pod.Labels[labelComponent] != componentWorker {
			continue
		}
		kind, text := podTrouble(pod, now)
		if kind == "" {
			continue
		}
		if found[kind] == nil {
			found[kind] = &trouble{kind: kind, text: text, pod: pod}
		}
		t := found[kind]
		if t.count++; pod.Name < t.pod.Name { // the order of pods varies
			t.text, t.pod = text, pod
		}
	}
	if missing := c.Wanted - c.Workers; missing > 0 {
		found[notMade] = &trouble{kind: notMade, count: missing}
	}
	for _, kind := range kinds {
		// A gateway does not delete pending pods when its user wants fewer workers. Nobody waits for
		// these.
		if t := found[kind]; t != nil && (c.Running < c.Wanted || kind == ended) {
			if kind != ended {
				t.count = min(t.count, c.Wanted-c.Running)
			}
			return t
		}
	}
	return nil
}

// podTrouble returns why a pod does not run, in Kubernetes' words; "" if nothing is wrong.
func podTrouble(pod *corev1.Pod, now time.Time) (kind, string) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return unschedulable, schedulersWords(c.Message)
		}
	}
	for _, status := range kube.ContainerStatuses(pod) {
		waiting, over, last := status.State.Waiting, status.State.Terminated, status.LastTerminationState.Terminated
		switch {
		case waiting != nil && isImageReason(waiting.Reason):
			return noImage, pullError(waiting)
		case waiting != nil && waiting.Reason == "CrashLoopBackOff" && last != nil:
			return ended, endOf(last)
		case waiting != nil && !kube.IsStarting(status):
			return cannotStart, quote(waiting.Reason + ": " + waiting.Message)
		case over != nil && over.ExitCode != 0:
			return ended, endOf(over)
		case last != nil && last.ExitCode != 0 && now.Sub(last.FinishedAt.Time) < recentDeath:
			return ended, endOf(last)
		}
	}
	switch {
	case pod.Status.Phase == corev1.PodFailed:
		return ended, quote(pod.Status.Reason + ": " + pod.Status.Message) // evicted
	case pod.Status.Phase == corev1.PodPending && now.Sub(pod.CreationTimestamp.Time) > slowStart:
		return slow, ""
	}
	return "", ""
}

func isImageReason(reason string) bool {
	switch reason {
	case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError":
		return true
	}
	return false
}

// pullError is why an image cannot be had. While a kubelet backs off, it quotes the error.
func pullError(waiting *corev1.ContainerStateWaiting) string {
	if _, cause, found := strings.Cut(waiting.Message, "ErrImagePull: "); found {
		return quote("ErrImagePull: " + cause)
	}
	return quote(waiting.Reason + ": " + waiting.Message)
}

// endOf is how a container ended: "exit code 1".
func endOf(over *corev1.ContainerStateTerminated) string {
	if over.Reason == "" || over.Reason == "Error" || over.Reason == "Completed" {
		return fmt.Sprintf("exit code %d", over.ExitCode)
	}
	return quote(over.Reason)
}

// schedulersWords are what the scheduler says, without what it says of preemption.
func schedulersWords(message string) string {
	message, _, _ = strings.Cut(message, " preemption: ")
	message, _, _ = strings.Cut(message, ". no new claims to deallocate")
	return quote(strings.TrimSuffix(message, "."))
}

// quote makes a text of Kubernetes fit for a message.
func quote(text string) string {
	text = strings.Trim(event.Printable(strings.Join(strings.Fields(text), " ")), ": ")
	if len(text) > reasonLength {
		text = strings.ToValidUTF8(text[:reasonLength], "") + " …"
	}
	return text
}

// explain keeps the reason why a cluster waits, and the hint. It returns when to look again, 0 if
// only after a change.
func (f *Follower) explain(ctx context.Context, k *followed, c owner, object *unstructured.Unstructured,
	pods []*corev1.Pod) (again time.Duration) {
	now := time.Now()
	t := troubleOf(object, c.DaskCluster, pods, now)
	switch {
	case t == nil:
		k.trouble, k.since, k.explained, k.reason, k.hint = "", time.Time{}, time.Time{}, "", ""
		return mayStillTurnOut(object, c.DaskCluster, pods)
	case k.trouble != t.name():
		k.trouble, k.since, k.explained, k.reason, k.hint = t.name(), now, time.Time{}, "", ""
	}
	grace := waitGrace
	if t.kind == notMade {
		grace = slowStart
	}
	if left := grace - now.Sub(k.since); left > 0 {
		return left
	}
	if left := explainAgain - now.Sub(k.explained); left > 0 && k.explainedFor == t.count {
		return left
	}
	k.explained, k.explainedFor = now, t.count
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	reason, hint, err := explainer{f.cluster}.why(ctx, c, object)
	switch {
	case err != nil: // nothing is known now
	case reason == "":
		k.reason, k.hint = "", ""
	default:
		k.reason, k.hint = reason, hint
	}
	return explainAgain
}

// mayStillTurnOut returns when a cluster that waits only for a moment counts as waiting, 0 if it
// does not wait.
func mayStillTurnOut(object *unstructured.Unstructured, c event.DaskCluster, pods []*corev1.Pod) time.Duration {
	scheduler := schedulerOf(object, pods)
	if isAlive(c) && (scheduler == nil || !kube.IsReady(scheduler) || c.Running < c.Wanted) {
		return waitGrace
	}
	return 0
}

// name is the same for the same trouble.
func (t *trouble) name() string {
	if t.scheduler {
		return "scheduler " + string(t.kind)
	}
	return "worker " + string(t.kind)
}

// explainer finds out why clusters wait.
type explainer struct{ cluster *kube.Cluster }

// why looks at a cluster that seems to wait, and returns why it does and what its user can do; ""
// if it does not.
func (e explainer) why(ctx context.Context, c owner, object *unstructured.Unstructured) (
	reason, hint string, err error) {
	if err := e.cluster.Ping(ctx); err != nil {
		return "", "", err
	}
	list, err := podsIn(ctx, e.cluster, object.GetNamespace(), LabelCluster+"="+object.GetName())
	if err != nil {
		return "", "", err
	}
	fresh := pointers(list)
	c.DaskCluster = readCluster(object, fresh)
	t := troubleOf(object, c.DaskCluster, fresh, time.Now())
	if t == nil {
		return "", "", nil
	}
	return e.describe(ctx, t, c, object, fresh)
}

// describe says what the trouble is, and what helps.
func (e explainer) describe(ctx context.Context, t *trouble, c owner, object *unstructured.Unstructured,
	pods []*corev1.Pod) (reason, hint string, err error) {
	who, wait := t.who(c), " wait"
	if t.isOne() {
		wait = " waits"
	}
	describePod := ""
	if t.pod != nil {
		describePod = "kubectl describe pod -n " + t.pod.Namespace + " " + t.pod.Name
	}
	switch t.kind {
	case unschedulable:
		short, hint, err := e.room(ctx, t, c, object, pods)
		if err != nil {
			return "", "", err
		}
		text := t.text
		if short != "" {
			text += ": " + short
		}
		return who + wait + ": " + text, cmp.Or(hint, describePod), nil
	case noImage:
		return who + wait + " for the image: " + t.text,
			"is " + string(c.Image) + " right? Without the option image, a new cluster gets the one that its gateway names", nil
	case cannotStart:
		return who + " cannot start: " + t.text, describePod, nil
	case ended:
		reason, hint = t.describeEnd(who)
		return reason, hint, nil
	case notMade:
		return e.describeNotMade(ctx, t, c, object)
	}
	warning, err := e.lastWarning(ctx, t.pod)
	if err != nil || warning == "" {
		return "", "", err // it is only slow: an image that is pulled has no trouble
	}
	return who + wait + ": " + warning, describePod, nil
}

// who says what of a cluster has the trouble: "2 workers of ada".
func (t *trouble) who(c owner) string {
	switch {
	case t.scheduler:
		return "the scheduler of " + c.String()
	case t.count == 1:
		return "1 worker of " + c.String()
	}
	return fmt.Sprintf("%d workers of %s", t.count, c)
}

// isOne tells whether only one pod has the trouble.
func (t *trouble) isOne() bool { return t.scheduler || t.count == 1 }

func (t *trouble) describeEnd(who string) (reason, hint string) {
	reason = who + " ended: " + t.text
	if t.text != kube.ReasonOOMKilled {
		return reason, "its last lines: devloop logs " + t.pod.Name
	}
	part := "worker"
	if t.scheduler {
		part = "scheduler"
	}
	limit := limitOf(t.pod, part)
	if limit == "" {
		return reason, "has its node enough memory? kubectl describe node " + t.pod.Spec.NodeName
	}
	return reason + ", its memory limit is " + limit, "give a new cluster more " + part + "_memory"
}

func (e explainer) describeNotMade(ctx context.Context, t *trouble, c owner, object *unstructured.Unstructured) (
	reason, hint string, err error) {
	full, err := e.quota(ctx, t, object)
	if err != nil {
		return "", "", err
	}
	reason = t.who(c) + " have no pod: "
	if t.isOne() {
		reason = t.who(c) + " has no pod: "
	}
	switch {
	case full == "":
		return reason + "the gateway has not made it", "why stands in the log of the gateway's controller: " +
			"devloop logs controller", nil
	case t.scheduler || c.Workers == 0:
		return reason + full,
			"raise the quota, or lower what the cluster asks for: kubectl describe quota -n " + object.GetNamespace(), nil
	}
	return reason + full, fmt.Sprintf("cluster.scale(%d), or raise the quota", c.Workers), nil
}

// limitOf returns the memory limit of a pod's Dask container, "" if it has none.
func limitOf(pod *corev1.Pod, part string) string {
	for _, container := range pod.Spec.Containers {
		if limit, set := container.Resources.Limits[corev1.ResourceMemory]; set && container.Name == "dask-"+part {
			return memory(limit.Value())
		}
	}
	return ""
}

// maxEvents is how many events of a pod are read.
const maxEvents = 50

// lastWarning returns the newest warning about a pod: "FailedMount: …".
func (e explainer) lastWarning(ctx context.Context, pod *corev1.Pod) (string, error) {
	list, err := e.cluster.Client.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "type=Warning,involvedObject.uid=" + string(pod.UID), Limit: maxEvents})
	if err != nil {
		return "", err
	}
	newest := kube.NewestEvent(list.Items)
	if newest == nil {
		return "", nil
	}
	return quote(newest.Reason + ": " + newest.Message), nil
}
