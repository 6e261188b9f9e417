package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/status"
)

func newClustersCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clusters",
		Short: "Show the Dask clusters that users have started, stop or restart some",
		Long: `Shows the clusters of the Dask Gateways among the releases: who started each, what it runs, and
whether that is the image with which the releases are deployed ("stale" if it is an older one); how many of the
workers that its user wants run, and why others wait; and its dashboard, where a forward leads to it. devloop
never stops one by itself: a computation is worth more than a new image.`,
		Example: `  devloop clusters
  devloop clusters stop --stale`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), func(ctx context.Context, p *process) error {
				return session.WithDaskClusters(ctx, p.session(), false,
					func(ctx context.Context, _ *kube.Cluster, all, old event.DaskClusters) error {
						old = o.stillOld(ctx, p, old)
						t := console.NewTable(cmd.OutOrStdout())
						if len(all) == 0 {
							t.Line("no Dask cluster runs")
						}
						clusters := make([]status.DaskCluster, len(all))
						for i, c := range all {
							clusters[i] = status.DaskCluster{DaskCluster: c, Old: slices.Contains(old, c)}
						}
						writeClusters(t, clusters)
						return t.Flush()
					})
			})
		},
	}
	cmd.AddCommand(newClustersStopCommand(o), newClustersRestartCommand(o))
	return cmd
}

func newClustersStopCommand(o *options) *cobra.Command {
	stale := false
	cmd := &cobra.Command{
		Use:   "stop [--stale | cluster...]",
		Short: "Stop Dask clusters: those that run an older image, or those that are named",
		Long: `Stops Dask clusters as their gateway does when their users shut them down: pods end, and what was not
saved is lost. Name a cluster as its user sees it, namespace.name, by its name alone, or by the beginning of that.`,
		Example: `  devloop clusters stop --stale
  devloop clusters stop 3f1c0d8a`,
		ValidArgsFunction: o.completeClusters,
		RunE: func(cmd *cobra.Command, names []string) error {
			if stale == (len(names) > 0) {
				return usageError("devloop clusters shows them", "clusters stop: say which, by --stale or by their names")
			}
			return o.run(cmd.Context(), func(ctx context.Context, p *process) error {
				return session.WithDaskClusters(ctx, p.session(), true,
					func(ctx context.Context, cluster *kube.Cluster, all, old event.DaskClusters) (err error) {
						var chosen event.DaskClusters
						if stale {
							chosen = o.stillOld(ctx, p, old)
						} else if chosen, err = named(all, names); err != nil {
							return err
						}
						if len(chosen) == 0 {
							_, err := fmt.Fprintln(cmd.OutOrStdout(), "no Dask cluster runs an older image")
							return err
						}
						return eachCluster(cmd.OutOrStdout(), chosen, func(c event.DaskCluster) (string, error) {
							return fmt.Sprintf("stopped: %s of %s, %s", c.FullName(), console.OrDash(c.Owner), c.Image),
								dask.StopCluster(ctx, cluster, string(c.Namespace), string(c.Name))
						})
					})
			})
		},
	}
	cmd.Flags().BoolVar(&stale, "stale", false, "stop all that run an older image")
	return cmd
}

func newClustersRestartCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "restart cluster...",
		Short: "Have the workers of Dask clusters load their Python modules again",
		Long: `Does what client.restart() does in Python: the processes of the workers start anew, in the same pods, and
import the modules that were saved since. The scheduler lets go of its own copies of them. Tasks that run are
cancelled, and results that the workers hold are lost. Name a cluster as for devloop clusters stop.`,
		Example:           `  devloop clusters restart 3f1c0d8a`,
		ValidArgsFunction: o.completeClusters,
		RunE: func(cmd *cobra.Command, names []string) error {
			if len(names) == 0 {
				return usageError("devloop clusters shows them", "clusters restart: say which, by their names")
			}
			return o.run(cmd.Context(), func(ctx context.Context, p *process) error {
				return session.WithDaskClusters(ctx, p.session(), true,
					func(ctx context.Context, cluster *kube.Cluster, all, _ event.DaskClusters) error {
						chosen, err := named(all, names)
						if err != nil {
							return err
						}
						return eachCluster(cmd.OutOrStdout(), chosen, func(c event.DaskCluster) (string, error) {
							workers, err := session.RestartDaskCluster(ctx, cluster, c)
							return fmt.Sprintf("restarted: %s of %s, %s", c.FullName(), console.OrDash(c.Owner),
								count(workers, "worker")), err
						})
					})
			})
		},
	}
}

// stillOld leaves out of clusters that run an older image those that hold the newest files all the
// same: the devloop that runs has written them, and has looked.
func (o *options) stillOld(ctx context.Context, p *process, old event.DaskClusters) event.DaskClusters {
	state, err := readState(ctx, o)
	if err != nil || state.Chain == nil || state.Chain.Outdated || p.worksOn(*state) != nil {
		return old
	}
	return outdatedIn(*state, old)
}

// outdatedIn returns those of the clusters that are old in a state, or not in it.
func outdatedIn(s status.State, clusters event.DaskClusters) event.DaskClusters {
	return slices.DeleteFunc(slices.Clone(clusters), func(c event.DaskCluster) bool {
		return slices.ContainsFunc(s.Clusters, func(known status.DaskCluster) bool {
			return known.FullName() == c.FullName() && !known.Old
		})
	})
}

// named returns the clusters with these names, or whose names alone begin like this.
func named(all event.DaskClusters, names []string) (chosen event.DaskClusters, err error) {
	for _, name := range names {
		found := slices.DeleteFunc(slices.Clone(all), func(c event.DaskCluster) bool {
			return name != string(c.Name) && name != c.FullName()
		})
		if len(found) == 0 {
			found = slices.DeleteFunc(slices.Clone(all), func(c event.DaskCluster) bool {
				begin := strings.TrimPrefix(name, string(c.Namespace)+".")
				return begin == "" || !strings.HasPrefix(string(c.Name), begin)
			})
			if len(found) > 1 {
				return nil, usageError("devloop clusters shows them", "%q means %d Dask clusters", name, len(found))
			}
		}
		if len(found) == 0 {
			hint := "none runs"
			if len(all) > 0 {
				hint = "there are:"
				for _, c := range all {
					hint += fmt.Sprintf(" %s of %s,", c.FullName(), console.OrDash(c.Owner))
				}
			}
			return nil, usageError(strings.TrimSuffix(hint, ","), "no Dask cluster is called %q", name)
		}
		if !slices.Contains(chosen, found[0]) {
			chosen = append(chosen, found[0])
		}
	}
	return chosen, nil
}

// eachCluster calls do for all clusters at once, since each takes as long as its pods or processes
// take to end, and prints the lines that it returns.
func eachCluster(out io.Writer, chosen event.DaskClusters, do func(event.DaskCluster) (string, error)) error {
	errs := make([]error, len(chosen))
	var printing sync.Mutex
	var group sync.WaitGroup
	for i, c := range chosen {
		group.Go(func() {
			errs[i] = event.Guard(func() error {
				line, err := do(c)
				if err != nil {
					return err
				}
				printing.Lock()
				defer printing.Unlock()
				_, err = fmt.Fprintln(out, line)
				return err
			})
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// writeClusters writes the clusters that run, and below them why some wait. On a terminal their
// names are short, and the dashboards stand below if the rows are too wide for it.
func writeClusters(t *console.Table, clusters []status.DaskCluster) {
	name := event.DaskCluster.FullName
	if t.OnTerminal() && unique(clusters, event.DaskCluster.ShortName) {
		name = event.DaskCluster.ShortName
	}
	header := []string{"CLUSTER", "OWNER", "IMAGE", "WORKERS", "DASHBOARD", "AGE"}
	const dashboard = 4
	var rows [][]string
	for _, c := range clusters {
		if c.Ended != nil {
			continue
		}
		image := c.Image
		if c.Old {
			image += " stale"
		}
		rows = append(rows, []string{name(c.DaskCluster), c.Owner, image, fmt.Sprintf("%d/%d", c.Running, c.Wanted),
			string(c.Dashboard), console.Age(c.Since)})
	}
	apart := !t.Fits(append(rows, header))
	t.Header(cells(header, apart, dashboard)...)
	for _, row := range rows {
		t.Row(cells(row, apart, dashboard)...)
	}
	if apart {
		t.Header(header[0], header[dashboard])
		for _, row := range rows {
			if row[dashboard] != "" {
				t.Row(row[0], row[dashboard])
			}
		}
	}
	for _, c := range clusters {
		if c.Ended == nil && c.Reason != "" {
			t.Line("%s", c.Reason)
			if c.Hint != "" {
				t.Line("  → %s", c.Hint)
			}
		}
	}
}

// cells returns the cells of a row, maybe without one of them.
func cells(row []string, without bool, at int) (list []any) {
	for i, cell := range row {
		if !without || i != at {
			list = append(list, cell)
		}
	}
	return list
}

func unique(clusters []status.DaskCluster, name func(event.DaskCluster) string) bool {
	known := map[string]bool{}
	for _, c := range clusters {
		known[name(c.DaskCluster)] = true
	}
	return len(known) == len(clusters)
}
