// What runs in the cluster, and who started it: containers with what their runtimes call their images, Dask Gateways, and the Dask clusters of
// their users.
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
	"k8s.io/client-go/dynamic"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// The labels of what belongs to a Dask Gateway (its chart's templates/_helpers.tpl, and get_labels in its backends/kubernetes/backend.py).
const (
	labelGateway    = "gateway.dask.org/instance" // of a gateway and of all that it starts
	LabelCluster    = "gateway.dask.org/cluster"  // of what belongs to one Dask cluster
	labelComponent  = "app.kubernetes.io/component"
	componentWorker = "dask-worker"
)

// runningTimeout is for the API server to say what runs.
const runningTimeout = 30 * time.Second

const (
	// stopTimeout is how long a gateway's controller may take to stop a cluster: Dask's pods have 30 s to end.
	stopTimeout = 40 * time.Second
	stopPoll    = 200 * time.Millisecond
)

// Container is one that runs.
type Container struct {
	Namespace, Pod, Node, Name string
	Image                      string // as the pod's spec names it
	ImageID                    string // digest, as the runtime tells it; "" before it does
	Dask                       string // namespace/name of the Dask cluster that it belongs to, "" for others
}

// Gateway is a service or deployment of a Dask Gateway that a release made.
type Gateway struct {
	Kind, Namespace, Name string // "service", as in a forward
	Release               string // ID
	instance              string
}

// Platform is what runs in some namespaces.
type Platform struct {
	Containers []Container
	Gateways   []Gateway
	Clusters   event.DaskClusters // that run, or are to
}

// Running asks what runs in the namespaces, and what the gateways in them have started, wherever that is. Containers of pods that are being deleted,
// or that have ended, are left out.
func Running(ctx context.Context, c *kube.Cluster, namespaces []string) (p Platform, err error) {
	ctx, cancel := context.WithTimeout(ctx, runningTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("ask what runs: %w", err)
		}
	}()
	pods := make([][]corev1.Pod, len(namespaces))
	gateways := make([][]Gateway, len(namespaces))
	group, groupCtx := event.NewGroup(ctx)
	for i, namespace := range namespaces {
		group.Go(func() error {
			list, err := c.Client.CoreV1().Pods(namespace).List(groupCtx, metav1.ListOptions{})
			if err == nil {
				pods[i] = list.Items
			}
			return err
		})
		group.Go(func() (err error) {
			gateways[i], err = gatewaysIn(groupCtx, c, namespace)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return p, err
	}
	p.Gateways = slices.Concat(gateways...)
	all := slices.Concat(pods...)
	objects, err := clusterObjects(ctx, c, p.Gateways)
	if err != nil {
		return p, err
	}
	for _, object := range objects { // they may be in a namespace of their own
		if namespace := object.GetNamespace(); !slices.Contains(namespaces, namespace) {
			list, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: LabelCluster})
			if err != nil {
				return p, err
			}
			namespaces, all = append(slices.Clone(namespaces), namespace), append(all, list.Items...)
		}
	}
	for i := range all {
		if pod := &all[i]; pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning && !kube.IsCheckPod(pod) {
			p.Containers = append(p.Containers, runningContainers(pod)...)
		}
	}
	for _, object := range objects {
		if cluster, alive := readCluster(object, all); alive {
			p.Clusters = append(p.Clusters, cluster)
		}
	}
	return p, nil
}

// runningContainers are those of a pod that have started and not ended.
func runningContainers(pod *corev1.Pod) []Container {
	images := map[string]string{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		images[c.Name] = c.Image
	}
	var list []Container
	for _, status := range kube.ContainerStatuses(pod) {
		if status.State.Running == nil {
			continue
		}
		c := Container{Namespace: pod.Namespace, Pod: pod.Name, Node: pod.Spec.NodeName, Name: status.Name, Image: images[status.Name], ImageID: imageDigest(status.ImageID)}
		if name := pod.Labels[LabelCluster]; name != "" {
			c.Dask = pod.Namespace + "/" + name
		}
		list = append(list, c)
	}
	return list
}

// imageDigest is what is left of an image's ID, as pods have it, without what runtimes put before it: docker://sha256:…,
// docker-pullable://name@sha256:…, name@sha256:….
func imageDigest(imageID string) string {
	if at := strings.LastIndex(imageID, "sha256:"); at >= 0 {
		return imageID[at:]
	}
	return imageID
}

// HasGateway tells whether a Dask Gateway is in one of the namespaces.
func HasGateway(ctx context.Context, c *kube.Cluster, namespaces []string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, runningTimeout)
	defer cancel()
	for _, namespace := range namespaces {
		if found, err := gatewaysIn(ctx, c, namespace); err != nil || len(found) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// gatewaysIn finds what a forward may lead to.
func gatewaysIn(ctx context.Context, c *kube.Cluster, namespace string) ([]Gateway, error) {
	options := metav1.ListOptions{LabelSelector: labelGateway}
	services, err := c.Client.CoreV1().Services(namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	deployments, err := c.Client.AppsV1().Deployments(namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	var found []Gateway
	add := func(kind string, o metav1.Object) {
		if o.GetLabels()[LabelCluster] != "" { // of a Dask cluster
			return
		}
		found = append(found, Gateway{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), instance: o.GetLabels()[labelGateway],
			Release: o.GetAnnotations()[kube.AnnotationReleaseNamespace] + "/" + o.GetAnnotations()[kube.AnnotationRelease]})
	}
	for i := range services.Items {
		add("service", &services.Items[i])
	}
	for i := range deployments.Items {
		add("deployment", &deployments.Items[i])
	}
	return found, nil
}

// OperatorLabels returns the labels of what the gateways in a namespace make for their users, and the
// IDs of the gateways' releases.
func OperatorLabels(ctx context.Context, c *kube.Cluster, namespace string) (map[kube.Label]string, error) {
	gateways, err := gatewaysIn(ctx, c, namespace)
	labels := map[kube.Label]string{}
	for _, g := range gateways {
		labels[kube.Label{Key: labelGateway, Value: g.instance}] = g.Release
	}
	return labels, err
}

// clusterResource is the resource of Dask clusters.
var clusterResource = schema.GroupResource{Group: "gateway.dask.org", Resource: "daskclusters"}

// clusters is how they are asked for, nil where the cluster knows no such kind.
func clusters(c *kube.Cluster) (dynamic.NamespaceableResourceInterface, error) {
	resource, err := c.Mapper.ResourceFor(clusterResource.WithVersion(""))
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return c.Dynamic.Resource(resource), nil
}

// clusterObjects are the Dask clusters of the gateways, in whatever namespace.
func clusterObjects(ctx context.Context, c *kube.Cluster, gateways []Gateway) ([]unstructured.Unstructured, error) {
	var instances []string
	for _, g := range gateways {
		if !slices.Contains(instances, g.instance) {
			instances = append(instances, g.instance)
		}
	}
	if len(instances) == 0 {
		return nil, nil
	}
	resource, err := clusters(c)
	if err != nil || resource == nil {
		return nil, err
	}
	list, err := resource.List(ctx, metav1.ListOptions{LabelSelector: labelGateway + " in (" + strings.Join(instances, ",") + ")"})
	if apierrors.IsNotFound(err) { // the kind is gone since
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// readCluster reads the fields that the gateway's backend and controller write. One that was stopped, or has failed, is not alive.
func readCluster(object unstructured.Unstructured, pods []corev1.Pod) (cluster event.DaskCluster, alive bool) {
	text := func(fields ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, fields...)
		return value
	}
	active, set, _ := unstructured.NestedBool(object.Object, "spec", "active")
	if phase := text("status", "phase"); phase == "Stopped" || phase == "Failed" || set && !active {
		return cluster, false
	}
	cluster = event.DaskCluster{Namespace: event.Name(object.GetNamespace()), Name: event.Name(object.GetName()),
		Owner: text("spec", "username"),
		Image: text("spec", "config", "image"), Since: object.GetCreationTimestamp().Time}
	for i := range pods {
		pod := &pods[i]
		if pod.Namespace != object.GetNamespace() || pod.Labels[LabelCluster] != object.GetName() || pod.DeletionTimestamp != nil || len(pod.Spec.Containers) == 0 {
			continue
		}
		component := pod.Labels[labelComponent] // which its container is called after; others are the users' own
		at := slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == component })
		cluster.Image = pod.Spec.Containers[max(0, at)].Image
		if component == componentWorker {
			cluster.Workers++
		}
	}
	return cluster, true
}

// StopCluster stops a cluster as its gateway does when its user asks for it: the controller ends its pods. It returns when that is done.
func StopCluster(ctx context.Context, c *kube.Cluster, namespace, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stopTimeout, fmt.Errorf("still there after %s", stopTimeout))
	defer cancel()
	resource, err := clusters(c)
	if err != nil || resource == nil {
		return err
	}
	fail := func(err error) error {
		return event.WithHint(fmt.Errorf("stop Dask cluster %s/%s: %w", namespace, name, err), "is its gateway's controller up? kubectl delete daskcluster -n "+namespace+" "+name)
	}
	_, err = resource.Namespace(namespace).Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"active":false}}`), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	for err == nil {
		var pods *corev1.PodList
		pods, err = c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: LabelCluster + "=" + name})
		if err == nil && len(pods.Items) == 0 {
			return nil
		}
		if err == nil {
			select {
			case <-time.After(stopPoll):
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
	}
	return fail(err)
}
