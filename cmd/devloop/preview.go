// devloop render and devloop diff: what would be deployed. Neither changes anything, and both may run beside a devloop at work.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/session"
)

func newRenderCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "render [release...]",
		Short: "Print the manifests that would be deployed",
		Long: `Prints the manifests of all releases, or of those that are named, as they would be deployed to the cluster as it is now: with the
tags that the images' inputs ask for, whether they are built or not. Nothing is changed.`,
		Example: `  devloop render
  devloop render dask-gateway | kubectl apply --dry-run=server -f -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return preview(cmd.Context(), o, args, func(ctx context.Context, d *deploy.Deployer, sink event.Sink, r deploy.Release) error {
				manifests, err := d.Render(ctx, sink, r)
				if err != nil {
					return err
				}
				_, err = io.WriteString(dataOut(cmd), manifests)
				return err
			})
		},
	}
}

func newDiffCommand(o *options) *cobra.Command {
	exitCode := false
	cmd := &cobra.Command{
		Use:   "diff [release...]",
		Short: "Print how what would be deployed differs from what is",
		Long: `Compares all releases, or those that are named, with what the cluster's last revision of each is made of, object by object. What
secrets hold is hidden. Charts that make random values differ each time that they are rendered: "unchanged" looks at what a release is made
from, as the loop does. Nothing is changed.`,
		Example: `  devloop diff
  devloop diff --exit-code dask-gateway || echo differs`,
		RunE: func(cmd *cobra.Command, args []string) error {
			differs := false
			err := preview(cmd.Context(), o, args, func(ctx context.Context, d *deploy.Deployer, sink event.Sink, r deploy.Release) error {
				found, err := d.Diff(ctx, sink, r)
				if err != nil {
					return err
				}
				differs = differs || found.Changed
				state := "unchanged"
				if found.Changed {
					state = "would be applied"
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "release %s, revision %d: %s, %s\n%s",
					found.Release, found.Revision, state,
					o.printer.Secrets().Text(found.Why), o.printer.Secrets().Text(found.Text))
				return err
			})
			if err == nil && differs && exitCode {
				return console.ReportedError{Err: errors.New("something differs")}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 1 if something would be applied")
	return cmd
}

// preview calls show for the releases of those names, or for all, as a run would apply them.
func preview(ctx context.Context, o *options, names []string, show func(context.Context, *deploy.Deployer, event.Sink, deploy.Release) error) error {
	ctx, p, err := o.begin(ctx)
	if err != nil {
		return err
	}
	defer p.end()
	err = func() error {
		chosen, err := choose(p.config, names)
		if err != nil {
			return err
		}
		target, err := session.HashImages(ctx, p.config)
		if err != nil {
			return err
		}
		cluster, err := kube.Connect(ctx, p.config.KubeContext)
		if err != nil {
			return console.EnvironmentError{Err: err}
		}
		cache, err := session.CacheDir()
		if err != nil {
			return err
		}
		deployer := deploy.New(cluster, p.config.Name, nil, deploy.Options{CacheDir: filepath.Join(cache, "charts"), Folder: p.config.Dir, Secret: p.secrets.Hide})
		list, err := session.ResolvedReleases(p.config, target)
		if err != nil {
			return err
		}
		var errs []error
		for _, r := range list {
			if slices.Contains(chosen, r.Name) {
				errs = append(errs, session.LocateError(p.config, show(ctx, deployer, p.sink, r)))
			}
		}
		return errors.Join(errs...)
	}()
	if err != nil && ctx.Err() != nil {
		return console.ErrInterrupted
	}
	return err
}

// choose returns the names of releases that are meant, all if none is given.
func choose(c *config.Config, names []string) ([]string, error) {
	known := make([]string, len(c.Releases))
	for i, r := range c.Releases {
		known[i] = r.Name
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, console.UsageError{Err: event.WithHint(fmt.Errorf("there is no release %q in devloop.yaml", name), "there are: "+strings.Join(known, ", "))}
		}
	}
	if len(names) == 0 {
		return known, nil
	}
	return names, nil
}
