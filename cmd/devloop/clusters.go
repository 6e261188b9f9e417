package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/session"
)

func newClustersCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clusters",
		Short: "Show the Dask clusters that users have started, and stop those that run an older image",
		Long: `Shows the clusters of the Dask Gateways among the releases: who started each, what it runs, and
whether that is the image with which the releases are deployed ("stale" if it is an older one). devloop never
stops one by itself: a computation is worth more than a new image.`,
		Example: `  devloop clusters
  devloop clusters stop --stale`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), func(ctx context.Context, p *process) error {
				return session.WithDaskClusters(ctx, p.session(), false,
					func(_ context.Context, _ *kube.Cluster, all, old event.DaskClusters) error {
						return writeClusters(cmd.OutOrStdout(), all, old)
					})
			})
		},
	}
	cmd.AddCommand(newClustersStopCommand(o))
	return cmd
}

func newClustersStopCommand(o *options) *cobra.Command {
	stale := false
	cmd := &cobra.Command{
		Use:   "stop [--stale | cluster...]",
		Short: "Stop Dask clusters: those that run an older image, or those that are named",
		Long: `Stops Dask clusters as their gateway does when their users shut them down: pods end, and what was not
saved is lost. Name a cluster as its user sees it, namespace.name, or by its name alone.`,
		Example: `  devloop clusters stop --stale
  devloop clusters stop dask-gateway.3f1c0d8a2b5e4f7c9a6d1e2f3b4c5d6e`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if stale == (len(names) > 0) {
				return usageError("devloop clusters shows them", "devloop clusters stop: say which, by --stale or by their names")
			}
			return o.run(cmd.Context(), func(ctx context.Context, p *process) error {
				return session.WithDaskClusters(ctx, p.session(), true,
					func(ctx context.Context, cluster *kube.Cluster, all, old event.DaskClusters) (err error) {
						chosen := old
						if !stale {
							if chosen, err = named(all, names); err != nil {
								return err
							}
						}
						return stopClusters(ctx, cluster, cmd.OutOrStdout(), chosen)
					})
			})
		},
	}
	cmd.Flags().BoolVar(&stale, "stale", false, "stop all that run an older image")
	return cmd
}

// named returns the clusters with these names.
func named(all event.DaskClusters, names []string) (chosen event.DaskClusters, err error) {
	for _, name := range names {
		at := slices.IndexFunc(all, func(c event.DaskCluster) bool { return name == string(c.Name) || name == c.FullName() })
		if at < 0 {
			return nil, usageError("devloop clusters shows them", "no Dask cluster is called %q", name)
		}
		chosen = append(chosen, all[at])
	}
	return chosen, nil
}

func stopClusters(ctx context.Context, cluster *kube.Cluster, out io.Writer, chosen event.DaskClusters) error {
	if len(chosen) == 0 {
		_, err := fmt.Fprintln(out, "no Dask cluster runs an older image")
		return err
	}
	errs := make([]error, len(chosen))
	var printing sync.Mutex
	var group sync.WaitGroup
	for i, c := range chosen { // at once, since each takes as long as its pods take to end
		group.Go(func() {
			errs[i] = event.Guard(func() error {
				if err := dask.StopCluster(ctx, cluster, string(c.Namespace), string(c.Name)); err != nil {
					return err
				}
				printing.Lock()
				defer printing.Unlock()
				_, err := fmt.Fprintf(out, "stopped: %s of %s, %s\n", c.FullName(), console.OrDash(c.Owner), c.Image)
				return err
			})
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func writeClusters(out io.Writer, all, old event.DaskClusters) error {
	t := console.NewTable(out)
	if len(all) == 0 {
		t.Line("no Dask cluster runs")
	}
	t.Header("CLUSTER", "OWNER", "IMAGE", "WORKERS", "AGE")
	for _, c := range all {
		cells := clusterCells(c)
		if slices.Contains(old, c) {
			cells = append(cells, "stale")
		}
		t.Row(cells...)
	}
	return t.Flush()
}

// clusterCells are a row of a table.
func clusterCells(c event.DaskCluster) []any {
	return []any{c.FullName(), c.Owner, c.Image, c.Workers, console.Age(c.Since)}
}
