// Package dask knows Dask Gateway: the gateways of a cluster, the clusters that their users
// started, and the image that new ones get. Follower (follow.go) reports how these clusters are:
// why they wait (waiting.go, room.go) and where their dashboards are (route.go).
package dask

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// The labels of a Dask Gateway (templates/_helpers.tpl of its chart, and get_labels in
// backends/kubernetes/backend.py).
const (
	labelGateway    = "gateway.dask.org/instance" // of a gateway and of all that it starts
	LabelCluster    = "gateway.dask.org/cluster"  // of the parts of a Dask cluster
	labelComponent  = "app.kubernetes.io/component"
	componentWorker = "dask-worker"
	// A pod that serves a gateway's API; its proxy and its controller have other components.
	componentGateway = "gateway"
	// A scheduler's pod, and its container.
	componentScheduler = "dask-scheduler"
)

const runningTimeout = 30 * time.Second // for the API server's answers

// Container is a container that runs.
type Container struct {
	event.ContainerRef
	Node  string
	Image string // as the pod's spec names it
	ID    string // the image's digest, as the runtime reports it; "" before it does
	// Cluster is the name of the Dask cluster that it belongs to, "" for none.
	Cluster event.Name
	Gateway string // the instance of Dask Gateway that started it

	PodUID      types.UID
	ContainerID string // of the runtime, without a scheme
	Ready       bool
	Init        bool // it ends before others start
	Controlled  bool // its pod was made from a template
}

// Platform is what runs in some namespaces.
type Platform struct {
	Containers []Container
	Gateways   []Gateway
	Clusters   event.DaskClusters // that run, or are to

	objects []unstructured.Unstructured // of clusters
	pods    []*corev1.Pod
}

// Running returns what runs in the namespaces, and what their gateways started anywhere. Its
// Containers leave out pods that are being deleted, and check pods.
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
		group.Go(func() (err error) {
			pods[i], err = podsIn(groupCtx, c, namespace, "")
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
			more, err := podsIn(ctx, c, namespace, LabelCluster)
			if err != nil {
				return p, err
			}
			namespaces, all = append(slices.Clone(namespaces), namespace), append(all, more...)
		}
	}
	for i := range all {
		if pod := &all[i]; pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning && !kube.IsCheckPod(pod) {
			p.Containers = append(p.Containers, RunningContainers(pod)...)
		}
	}
	p.objects, p.pods = objects, pointers(all)
	for i := range objects {
		if cluster := readCluster(&objects[i], p.pods); isAlive(cluster) {
			p.Clusters = append(p.Clusters, cluster)
		}
	}
	return p, nil
}

// Explain adds to each cluster why it waits, and its dashboard if that answers through one of the
// routes. What began a moment ago is left out.
func (p *Platform) Explain(ctx context.Context, c *kube.Cluster, routes []Route) error {
	owners := map[string]int{} // how many clusters each has
	for _, cluster := range p.Clusters {
		owners[cluster.Owner]++
	}
	group, ctx := event.NewGroup(ctx)
	for i := range p.Clusters {
		cluster := &p.Clusters[i]
		at := slices.IndexFunc(p.objects, func(o unstructured.Unstructured) bool {
			return fullName(&o) == cluster.FullName()
		})
		object := &p.objects[at]
		group.Go(func() (err error) {
			now := time.Now()
			t := troubleOf(object, *cluster, p.pods, now)
			if t != nil && (t.pod == nil && now.Sub(cluster.Since) > slowStart ||
				t.pod != nil && now.Sub(t.pod.CreationTimestamp.Time) > waitGrace) {
				cluster.Reason, cluster.Hint, err = explainer{c}.why(ctx, owner{*cluster, owners[cluster.Owner] == 1}, object)
			}
			scheduler := schedulerOf(object, p.pods)
			if cluster.Phase == phaseRunning && scheduler != nil && kube.IsReady(scheduler) {
				leading := routesTo(object.GetLabels()[labelGateway], p.Gateways, routes)
				url, _ := dashboardURL(ctx, *cluster, leading) // nothing may listen there
				cluster.Dashboard = event.Name(url)
			}
			return err
		})
	}
	return group.Wait()
}

func pointers(pods []corev1.Pod) []*corev1.Pod {
	list := make([]*corev1.Pod, len(pods))
	for i := range pods {
		list[i] = &pods[i]
	}
	return list
}

func podsIn(ctx context.Context, c *kube.Cluster, namespace, selector string) ([]corev1.Pod, error) {
	list, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// IsForeign reports whether the gateway that started a container belongs to other releases.
func (c Container) IsForeign(gateways []Gateway, releases []string) bool {
	started := func(g Gateway) bool { return g.instance == c.Gateway }
	own := func(g Gateway) bool { return started(g) && (g.Release == "/" || slices.Contains(releases, g.Release)) }
	return c.Cluster != "" && slices.ContainsFunc(gateways, started) && !slices.ContainsFunc(gateways, own)
}

// RunningContainers returns the containers of a pod that have started and not ended.
func RunningContainers(pod *corev1.Pod) []Container {
	images, init := map[string]string{}, map[string]bool{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		images[c.Name] = c.Image
	}
	for _, c := range pod.Spec.InitContainers {
		isSidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		init[c.Name] = !isSidecar
	}
	ref := event.PodRef{Pod: event.Name(pod.Name), Namespace: event.Name(pod.Namespace)}
	var list []Container
	for _, status := range kube.ContainerStatuses(pod) {
		if status.State.Running == nil {
			continue
		}
		list = append(list, Container{
			ContainerRef: event.ContainerRef{PodRef: ref, Container: event.Name(status.Name)},
			Node:         pod.Spec.NodeName, Image: images[status.Name], ID: imageDigest(status.ImageID),
			Cluster: event.Name(pod.Labels[LabelCluster]), Gateway: pod.Labels[labelGateway],
			PodUID: pod.UID, ContainerID: kube.ContainerID(status.ContainerID), Ready: status.Ready,
			Init: init[status.Name], Controlled: metav1.GetControllerOf(pod) != nil,
		})
	}
	return list
}

// imageDigest removes what runtimes put before the digest in a pod's status: docker://sha256:…,
// docker-pullable://name@sha256:…, name@sha256:….
func imageDigest(imageID string) string {
	if at := strings.LastIndex(imageID, "sha256:"); at >= 0 {
		return imageID[at:]
	}
	return imageID
}
