package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// What devloop open opens besides the dashboards of Dask clusters.
const (
	openPage    = "page"
	openGateway = "gateway"
)

func newOpenCommand(o *options) *cobra.Command {
	printOnly := false
	cmd := &cobra.Command{
		Use:         "open [page | gateway | cluster]",
		Annotations: map[string]string{observes: "yes"},
		Short:       "Open the page, the Dask Gateway or the dashboard of a Dask cluster in a browser",
		Long: `Opens in your browser what the devloop of this folder serves: its page, the Dask Gateway through its
forward, or the dashboard of a Dask cluster. Name a cluster as its user sees it, namespace.name, by the beginning
of its name, or by its owner. The address is printed, too.

The browser is that of the variable BROWSER, or the desktop's. Without one the address is only printed.

Exit codes: 0 the address is printed; 2 there is no such thing to open; 3 no devloop runs.`,
		Example: `  devloop open
  devloop open gateway
  devloop open ada --print`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError("devloop open --help", "open: opens one thing at a time")
			}
			ctx, _, stop := interruptible(cmd.Context(), o.printer, nil)
			defer stop()
			running, err := o.selection().Find(ctx)
			if err != nil {
				return err
			}
			defer running.Close()
			address, err := addressOf(running.State, strings.Join(args, ""))
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), address); err != nil || printOnly {
				return err
			}
			if address == running.State.Page {
				address, err = running.ForBrowser(ctx)
			}
			if err == nil {
				err = openBrowser(ctx, address)
			}
			if err != nil {
				return explainUnopened(cmd.ErrOrStderr(), err)
			}
			return nil
		},
		ValidArgsFunction: firstArgument(func(cmd *cobra.Command, _ []string, _ string) (
			[]cobra.Completion, cobra.ShellCompDirective) {
			return openable(o.running(cmd)), cobra.ShellCompDirectiveNoFileComp
		}),
	}
	cmd.Flags().BoolVar(&printOnly, "print", false, "print the address, and open nothing")
	return cmd
}

// explainUnopened says why no browser is open. The address is printed all the same.
func explainUnopened(out io.Writer, err error) error {
	text := "no browser is opened: " + err.Error()
	if hint := event.Hint(err); hint != "" {
		text += "\n  → " + hint
	}
	_, err = fmt.Fprintln(out, text)
	return err
}

// openable are the names of what can be opened.
func openable(s status.State) (names []string) {
	if s.Page != "" {
		names = append(names, openPage)
	}
	if gateway(s) != "" {
		names = append(names, openGateway)
	}
	for _, c := range s.Clusters {
		if c.Dashboard != "" && c.Ended == nil {
			names = append(names, c.FullName())
		}
	}
	return names
}

// gateway returns the URL of the Dask Gateway, "" if no forward leads to one.
func gateway(s status.State) string {
	for _, f := range s.Forwards {
		if f.Gateway {
			return string(f.URL)
		}
	}
	return ""
}

// addressOf returns the address of what has the name, by default of the page.
func addressOf(s status.State, name string) (string, error) {
	switch name {
	case "", openPage:
		if s.Page == "" {
			return "", usageError("start devloop without --page=false", "this devloop has no page")
		}
		return s.Page, nil
	case openGateway:
		address := gateway(s)
		if address == "" {
			return "", usageError("devloop status shows the forwards", "no forward leads to a Dask Gateway")
		}
		return address, nil
	}
	running := slices.DeleteFunc(slices.Clone(s.Clusters), func(c status.DaskCluster) bool { return c.Ended != nil })
	found, err := clusterNamed(running, name)
	if err != nil {
		names := openable(s)
		hint := "nothing can be opened"
		if len(names) > 0 {
			hint = "there are: " + strings.Join(names, ", ")
		}
		return "", usageError(hint, "open: %w%s", err, tree.DidYouMean(name, names))
	}
	if found.Dashboard == "" {
		return "", fmt.Errorf("the dashboard of %s has no address: no forward leads to its gateway, "+
			"or its scheduler is not up", found.FullName())
	}
	return string(found.Dashboard), nil
}

// clusterNamed returns the one cluster that has the name, or whose name begins like this, or whose
// owner is called so.
func clusterNamed(all []status.DaskCluster, name string) (status.DaskCluster, error) {
	for _, matches := range []func(c status.DaskCluster) bool{
		func(c status.DaskCluster) bool { return name == c.FullName() },
		func(c status.DaskCluster) bool { return name == string(c.Name) },
		func(c status.DaskCluster) bool { return name == c.Owner },
		func(c status.DaskCluster) bool {
			return strings.HasPrefix(string(c.Name), name) || strings.HasPrefix(c.FullName(), name)
		},
	} {
		var found []status.DaskCluster
		for _, c := range all {
			if matches(c) {
				found = append(found, c)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return status.DaskCluster{}, fmt.Errorf("%q means %d Dask clusters", name, len(found))
		}
	}
	return status.DaskCluster{}, fmt.Errorf("no Dask cluster is called %q", name)
}
