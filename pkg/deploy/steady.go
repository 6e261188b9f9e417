package deploy

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// steadyAfter is how long a container without a readiness or startup probe has to run to count as
	// up: Kubernetes calls it ready the moment it starts.
	steadyAfter = 3 * time.Second
	// steadyAfterCrash is the same for a container that ran for less than that before its last
	// restart.
	steadyAfterCrash = 15 * time.Second
	// runningKnownFor is how long it is remembered since when a container runs.
	runningKnownFor = time.Hour
)

// unsteady names a container that has not run long enough yet to count as up, and says how long it
// has to. It looks at all of them, each of which counts from when it was first seen to run.
func (d *Deployer) unsteady(ctx context.Context, pods []corev1.Pod) (missing string, again time.Duration) {
	for i := range pods {
		pod := &pods[i]
		if pod.DeletionTimestamp != nil {
			continue
		}
		probed := map[string]bool{}
		for _, c := range pod.Spec.Containers {
			probed[c.Name] = c.ReadinessProbe != nil || c.StartupProbe != nil
		}
		for _, status := range pod.Status.ContainerStatuses {
			if status.State.Running == nil { // its deployment does not know yet
				missing = fmt.Sprintf("container %s of pod %s does not run", status.Name, pod.Name)
				continue
			}
			if probed[status.Name] {
				continue
			}
			needed := steadyAfter
			if status.RestartCount > 0 && ranBriefly(status.LastTerminationState.Terminated) {
				needed = steadyAfterCrash
			}
			if left := needed - time.Since(d.runningSince(ctx, pod.Spec.NodeName, status)); left > 0 {
				missing = fmt.Sprintf("container %s of pod %s has no probe and is watched for %s", status.Name, pod.Name, needed)
				again = max(again, left)
			}
		}
	}
	return missing, again
}

// ranBriefly tells whether a container may end again as soon as the last time. One that ran for
// longer has ended for another reason, such as a restart of its node.
func ranBriefly(last *corev1.ContainerStateTerminated) bool {
	return last == nil || last.StartedAt.IsZero() || last.FinishedAt.Sub(last.StartedAt.Time) < steadyAfterCrash
}

// runningSince is since when a container has been running, at the latest, by this machine's clock.
func (d *Deployer) runningSince(ctx context.Context, node string, status corev1.ContainerStatus) time.Time {
	d.mu.Lock()
	since, known := d.running[status.ContainerID]
	d.mu.Unlock()
	if known {
		return since
	}
	first := time.Now()
	since = first.Add(-d.ranBefore(ctx, node, status.State.Running.StartedAt.Time))
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, since := range d.running {
		if first.Sub(since) > runningKnownFor { // the node tells again that it is steady
			delete(d.running, id)
		}
	}
	d.running[status.ContainerID] = since
	return since
}

// ranBefore is how long a container had been running when its node last renewed its lease, at the
// least: a kubelet does so every 10 s. Both times are of the node's clock, so it does not matter
// how far that is from this machine's.
func (d *Deployer) ranBefore(ctx context.Context, node string, started time.Time) time.Duration {
	lease, err := d.cluster.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, node, metav1.GetOptions{})
	if err != nil || lease.Spec.RenewTime == nil || started.IsZero() {
		return 0 // devloop watches it for the whole time
	}
	const precision = time.Second // of the start
	return max(0, lease.Spec.RenewTime.Sub(started.Add(precision)))
}
