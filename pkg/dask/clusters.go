package dask

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	stopTimeout = 40 * time.Second // for a gateway's controller: Dask's pods have 30 s to end
	stopPoll    = 200 * time.Millisecond
)

// clusterKind is the kind of the Dask clusters, in the version that Kubernetes prefers.
var clusterKind = schema.GroupVersionResource{Group: "gateway.dask.org", Resource: "daskclusters"}

// clusterClient returns a client of the Dask clusters, nil where Kubernetes does not know the kind.
func clusterClient(c *kube.Cluster) (dynamic.NamespaceableResourceInterface, error) {
	resource, err := c.Mapper.ResourceFor(clusterKind)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return c.Dynamic.Resource(resource), nil
}

// selectorOf selects the gateways' own objects and what they start; it is "" without a gateway.
func selectorOf(gateways ...Gateway) string {
	var instances []string
	for _, g := range gateways {
		instances = append(instances, g.instance)
	}
	if len(instances) == 0 {
		return ""
	}
	slices.Sort(instances)
	return labelGateway + " in (" + strings.Join(slices.Compact(instances), ",") + ")"
}

// clusterObjects returns the Dask clusters of the gateways, in all namespaces.
func clusterObjects(ctx context.Context, c *kube.Cluster, gateways []Gateway) ([]unstructured.Unstructured, error) {
	selector := selectorOf(gateways...)
	if selector == "" {
		return nil, nil
	}
	client, err := clusterClient(c)
	if err != nil || client == nil {
		return nil, err
	}
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: selector})
	if apierrors.IsNotFound(err) { // the kind was just removed
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// The phases of a cluster, as its gateway names them.
const (
	phasePending  = "Pending" // also before its controller has seen it
	phaseRunning  = "Running"
	phaseStopping = "Stopping" // its user or the gateway has stopped it, its pods still end
	phaseStopped  = "Stopped"
	phaseFailed   = "Failed" // its scheduler has ended
)

// phaseOf returns a cluster's phase by what the gateway's backend (spec.active) and its controller
// (status.phase) have written.
func phaseOf(object *unstructured.Unstructured) event.Name {
	phase, _, _ := unstructured.NestedString(object.Object, "status", "phase")
	active, set, _ := unstructured.NestedBool(object.Object, "spec", "active")
	switch {
	case phase == phaseStopped, phase == phaseFailed:
	case set && !active:
		return phaseStopping
	case phase == "":
		return phasePending
	}
	return event.Name(phase)
}

// isOver tells whether a cluster has ended.
func isOver(c event.DaskCluster) bool { return c.Phase == phaseStopped || c.Phase == phaseFailed }

// isAlive tells whether a cluster is to run.
func isAlive(c event.DaskCluster) bool { return c.Phase == phasePending || c.Phase == phaseRunning }

// readCluster reads what the gateway's backend and controller write, and those of the pods that
// belong to the cluster.
func readCluster(object *unstructured.Unstructured, pods []*corev1.Pod) event.DaskCluster {
	text := func(fields ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, fields...)
		return value
	}
	wanted, _, _ := unstructured.NestedInt64(object.Object, "spec", "replicas") // set by cluster.scale() and adapt()
	cluster := event.DaskCluster{Namespace: event.Name(object.GetNamespace()), Name: event.Name(object.GetName()),
		Owner: text("spec", "username"), Image: text("spec", "config", "image"),
		Since: object.GetCreationTimestamp().Time, Phase: phaseOf(object), Wanted: int(wanted)}
	for _, pod := range pods {
		if !isPart(pod, object) || kube.HasEnded(pod) {
			continue
		}
		component := pod.Labels[labelComponent] // its container has this name; others are the users' own
		at := slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == component })
		cluster.Image = pod.Spec.Containers[max(0, at)].Image
		if component == componentWorker {
			cluster.Workers++
			if kube.IsReady(pod) {
				cluster.Running++
			}
		}
	}
	return cluster
}

// isPart tells whether a pod belongs to a cluster, and is not being deleted.
func isPart(pod *corev1.Pod, cluster *unstructured.Unstructured) bool {
	return pod.Namespace == cluster.GetNamespace() && pod.Labels[LabelCluster] == cluster.GetName() &&
		pod.DeletionTimestamp == nil && len(pod.Spec.Containers) > 0
}

// StopCluster stops a cluster as its gateway does for its user, and returns when its pods are gone.
func StopCluster(ctx context.Context, c *kube.Cluster, namespace, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stopTimeout, fmt.Errorf("still there after %s", stopTimeout))
	defer cancel()
	client, err := clusterClient(c)
	if err != nil || client == nil {
		return err
	}
	stop := []byte(`{"spec":{"active":false}}`)
	_, err = client.Namespace(namespace).Patch(ctx, name, types.MergePatchType, stop, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	var left []string // pods
	if err == nil {
		err = wait.PollUntilContextCancel(ctx, stopPoll, true, func(ctx context.Context) (gone bool, err error) {
			pods, err := podsIn(ctx, c, namespace, LabelCluster+"="+name)
			if err != nil {
				return false, err
			}
			left = nil
			for _, pod := range pods {
				left = append(left, pod.Name)
			}
			return len(pods) == 0, nil
		})
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if len(left) > 0 {
		err = fmt.Errorf("its pods %s: %w", strings.Join(left, " "), err)
	}
	return event.WithHint(fmt.Errorf("stop Dask cluster %s/%s: %w", namespace, name, err),
		"is its gateway's controller up? kubectl delete daskcluster -n "+namespace+" "+name)
}
