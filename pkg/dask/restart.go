package dask

import (
	"context"
	_ "embed"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// RestartProgram is for Python in the container of a scheduler: it does what client.restart() does,
// and prints how many workers there are then.
//
//go:embed restart.py
var RestartProgram string

// SchedulerContainer is the name of the container that a scheduler runs in.
const SchedulerContainer = componentScheduler

// Scheduler returns the pod of a cluster's scheduler.
func Scheduler(ctx context.Context, c *kube.Cluster, cluster event.DaskCluster) (*corev1.Pod, error) {
	selector := LabelCluster + "=" + string(cluster.Name) + "," + labelComponent + "=" + componentScheduler
	pods, err := podsIn(ctx, c, string(cluster.Namespace), selector)
	if err != nil {
		return nil, fmt.Errorf("find the scheduler of Dask cluster %s: %w", cluster.FullName(), err)
	}
	for i := range pods {
		if pods[i].DeletionTimestamp == nil && kube.IsReady(&pods[i]) {
			return &pods[i], nil
		}
	}
	return nil, event.WithHint(fmt.Errorf("the scheduler of Dask cluster %s is not ready", cluster.FullName()),
		"how it is: devloop clusters")
}
