// Package dask knows Dask Gateway: the gateways of a cluster, the clusters that their users
// started, and the image that new ones get.
package dask

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
)

const runningTimeout = 30 * time.Second // for the API server's answers

// Container is a container that runs.
type Container struct {
	event.ContainerRef
	Node  string
	Image string // as the pod's spec names it
	ID    string // the image's digest, as the runtime reports it; "" before it does
	Dask  bool   // it belongs to a Dask cluster
}

// Platform is what runs in some namespaces.
type Platform struct {
	Containers []Container
	Gateways   []Gateway
	Clusters   event.DaskClusters // that run, or are to
}

// Running returns what runs in the namespaces, and what their gateways started anywhere. Pods that
// are being deleted, and check pods, do not count.
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

func podsIn(ctx context.Context, c *kube.Cluster, namespace, selector string) ([]corev1.Pod, error) {
	list, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// runningContainers returns the containers of a pod that have started and not ended.
func runningContainers(pod *corev1.Pod) []Container {
	images := map[string]string{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		images[c.Name] = c.Image
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
			Dask: pod.Labels[LabelCluster] != "",
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
