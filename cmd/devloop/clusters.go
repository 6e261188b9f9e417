// devloop clusters: the Dask clusters that users have started, and which of them still run an older image.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

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
		Long: `Shows the clusters of the Dask Gateways among the releases: who started each, what it runs, and whether that is the image with which
the releases are deployed ("stale" if it is an older one). devloop never stops one by itself: what somebody computes is worth more than being new.`,
		Example: `  devloop clusters
  devloop clusters stop --stale`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write := func(_ context.Context, _ *kube.Cluster, all, old event.DaskClusters) error {
				return writeClusters(cmd.OutOrStdout(), all, old)
			}
			return withClusters(cmd.Context(), o, false, write)
		},
	}
	stale := false
	stop := &cobra.Command{
		Use:   "stop [--stale | cluster...]",
		Short: "Stop Dask clusters: those that run an older image, or those that are named",
		Long: `Stops Dask clusters as their gateway does when their users shut them down: pods end, and what was not saved is lost. A cluster is named as
its user sees it, namespace.name, or by its name alone.`,
		Example: `  devloop clusters stop --stale
  devloop clusters stop dask-gateway.3f1c0d8a2b5e4f7c9a6d1e2f3b4c5d6e`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if stale == (len(names) > 0) {
				return console.UsageError{Err: event.WithHint(errors.New("devloop clusters stop: say which, by --stale or by their names"), "devloop clusters shows them")}
			}
			stop := func(ctx context.Context, cluster *kube.Cluster, all, old event.DaskClusters) error {
				if !stale {
					var err error
					if old, err = called(all, names); err != nil {
						return err
					}
				}
				return stopClusters(ctx, cluster, cmd.OutOrStdout(), old)
			}
			return withClusters(cmd.Context(), o, true, stop)
		},
	}
	stop.Flags().BoolVar(&stale, "stale", false, "stop all that run an older image")
	cmd.AddCommand(stop)
	return cmd
}

// called returns those that are meant by the names.
func called(all event.DaskClusters, names []string) (chosen event.DaskClusters, err error) {
	for _, name := range names {
		at := slices.IndexFunc(all, func(c event.DaskCluster) bool { return name == string(c.Name) || name == c.FullName() })
		if at < 0 {
			return nil, console.UsageError{Err: event.WithHint(fmt.Errorf("no Dask cluster is called %q", name), "devloop clusters shows them")}
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
	var errs []error
	for _, c := range chosen {
		err := dask.StopCluster(ctx, cluster, string(c.Namespace), string(c.Name))
		if err == nil {
			_, err = fmt.Fprintf(out, "stopped: %s of %s, %s\n", c.FullName(), console.OrDash(c.Owner), c.Image)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func writeClusters(to io.Writer, all, old event.DaskClusters) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(to, "no Dask cluster runs")
		return err
	}
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(out, "CLUSTER\tOWNER\tIMAGE\tWORKERS\tAGE\t") // Flush tells
	for _, c := range all {
		stale := ""
		if slices.Contains(old, c) {
			stale = "stale"
		}
		_, _ = fmt.Fprintln(out, strings.TrimRight(columns(c)+"\t"+stale, "\t"))
	}
	return out.Flush()
}

// clusterColumns is the format of columns.
const clusterColumns = "%s\t%s\t%s\t%d\t%s"

// columns are what a table says of a cluster.
func columns(c event.DaskCluster) string {
	return fmt.Sprintf(clusterColumns, event.Printable(c.FullName()), event.Printable(console.OrDash(c.Owner)),
		event.Printable(c.Image), c.Workers, console.Age(c.Since))
}

func withClusters(ctx context.Context, o *options, writes bool,
	do func(ctx context.Context, cluster *kube.Cluster, all, old event.DaskClusters) error) error {
	ctx, p, err := o.begin(ctx, nil)
	if err != nil {
		return err
	}
	defer p.end()
	err = session.WithDaskClusters(ctx, p.session(), writes, do)
	if err != nil && ctx.Err() != nil {
		return console.ErrInterrupted
	}
	return err
}
