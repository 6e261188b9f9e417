package dask

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/kube"
)

// Gateway is a service or deployment of a Dask Gateway that a release made.
type Gateway struct {
	Kind, Namespace, Name string // "service", as in a forward
	Release               string // ID
	instance              string
}

// HasGateway reports whether a Dask Gateway is in one of the namespaces.
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

// gatewaysIn returns what a forward to a gateway may lead to.
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
		labels, annotations := o.GetLabels(), o.GetAnnotations()
		if labels[LabelCluster] == "" {
			found = append(found, Gateway{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(),
				instance: labels[labelGateway],
				Release:  annotations[kube.AnnotationReleaseNamespace] + "/" + annotations[kube.AnnotationRelease]})
		}
	}
	for i := range services.Items {
		add("service", &services.Items[i])
	}
	for i := range deployments.Items {
		add("deployment", &deployments.Items[i])
	}
	return found, nil
}

// OperatorLabels returns the labels that the gateways of a namespace give to their users' objects, each
// with the ID of the gateway's release.
func OperatorLabels(ctx context.Context, c *kube.Cluster, namespace string) (map[kube.Label]string, error) {
	gateways, err := gatewaysIn(ctx, c, namespace)
	labels := map[kube.Label]string{}
	for _, g := range gateways {
		labels[kube.Label{Key: labelGateway, Value: g.instance}] = g.Release
	}
	return labels, err
}
