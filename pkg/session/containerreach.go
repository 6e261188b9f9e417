package session

import (
	"context"

	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/filesync"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/node"
	"github.com/devloop/devloop/pkg/pods"
)

// clusterReach reaches the containers of a cluster: on its nodes, or else through its API server.
type clusterReach struct {
	cluster *kube.Cluster
	nodes   *node.Cluster
}

func (r clusterReach) Shell(node string) (filesync.Shell, bool) { return r.nodes.Shell(node) }

func (r clusterReach) PIDs(ctx context.Context, node string, ids []string) (map[string]int, error) {
	return r.nodes.PIDs(ctx, node, ids)
}

func (r clusterReach) Inside(c dask.Container) filesync.Shell {
	return &pods.Shell{Cluster: r.cluster, In: pods.NewContainer(c.ContainerRef, c.Image, c.PodUID, c.ContainerID)}
}

func (clusterReach) Look(ctx context.Context, on filesync.Shell, containers []filesync.Container, paths []string) (
	[]filesync.Listing, error) {
	return filesync.Look(ctx, on, containers, paths)
}

func (clusterReach) Write(ctx context.Context, on filesync.Shell, containers []filesync.Container,
	wanted []filesync.File) ([]filesync.Written, error) {
	return filesync.Write(ctx, on, containers, wanted)
}
