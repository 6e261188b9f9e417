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
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/session"
)

func newRenderCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "render [release...]",
		Short: "Print the manifests that would be deployed",
		Long: `Prints the manifests of all releases, or of those that are named, as they would be deployed to the
cluster as it is now: with the tags that the images' inputs ask for, whether they are built or not. A comment
says where a chart gives an image another one. Nothing is changed.`,
		Example: `  devloop render
  devloop render dask-gateway | kubectl apply --dry-run=server -f -`,
		ValidArgsFunction: o.completeReleases,
		RunE: func(cmd *cobra.Command, names []string) error {
			return preview(cmd, o, names, func(ctx context.Context, d *deploy.Deployer, p *process, r deploy.Release) error {
				manifests, err := d.Render(ctx, p.sink, r)
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
		Long: `Compares all releases, or those that are named, with what the cluster's last revision of each is made
of, object by object, and says what was changed by hand since then and would be reverted. Contents of secrets are
hidden. Charts that make random values differ each time that they are rendered: "unchanged" is about what a
release is made from and how it is now, as in the loop. Nothing is changed.`,
		Example: `  devloop diff
  devloop diff --exit-code dask-gateway || echo differs`,
		ValidArgsFunction: o.completeReleases,
		RunE: func(cmd *cobra.Command, names []string) error {
			differs := false
			err := preview(cmd, o, names, func(ctx context.Context, d *deploy.Deployer, p *process, r deploy.Release) error {
				found, err := d.Diff(ctx, p.sink, r)
				if err != nil {
					return err
				}
				state := "unchanged"
				switch {
				case found.Changed:
					state = "would be applied"
				case len(found.Drifted) > 0:
					state = "would be reverted"
				}
				differs = differs || state != "unchanged"
				about := ""
				for _, line := range found.Drifted {
					about += line + "\n"
				}
				for _, one := range found.Set {
					about += one.String() + "\n"
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "release %s, revision %d: %s, %s\n%s", found.Release, found.Revision,
					state, p.secrets.Text(found.Why), p.secrets.Text(about+found.Text))
				return err
			})
			if err == nil && differs && exitCode {
				return console.ReportedError{Err: errors.New("something differs")}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 1 if something would be applied or reverted")
	return cmd
}

// preview calls show for the named releases, or for all, as a run would apply them.
func preview(cmd *cobra.Command, o *options, names []string,
	show func(context.Context, *deploy.Deployer, *process, deploy.Release) error) error {
	return o.run(cmd.Context(), func(ctx context.Context, p *process) error {
		if err := checkNames(p.config, names); err != nil {
			return err
		}
		target := p.askForImages(ctx)
		if target == nil {
			var err error
			if target, err = session.HashImages(ctx, p.config); err != nil {
				return err
			}
		}
		cluster, err := session.Connect(ctx, p.config.KubeContext)
		if err != nil {
			return console.EnvironmentError{Err: err}
		}
		cache, err := session.CacheDir()
		if err != nil {
			return err
		}
		deployer := deploy.New(cluster, p.config.Name, nil, deploy.Options{CacheDir: filepath.Join(cache, "charts"),
			Folder: p.config.Dir, Secret: p.secrets.Hide})
		list, err := session.ResolvedReleases(p.config, target)
		if err != nil {
			return err
		}
		var errs []error
		for _, r := range list {
			if len(names) == 0 || slices.Contains(names, r.Name) {
				errs = append(errs, session.LocateError(p.config, show(ctx, deployer, p, r)))
			}
		}
		return errors.Join(errs...)
	})
}

// askForImages has the devloop that runs for the same configuration hash the images, since it knows
// what has not changed. It returns nil if none runs, or if that one cannot tell.
func (p *process) askForImages(ctx context.Context) *loop.Target {
	cluster, err := kube.ReadContext(p.config.KubeContext)
	if err != nil || len(p.config.Images) == 0 {
		return nil
	}
	running, err := control.Selection{File: p.config.Path, KubeContext: cluster.Context}.Find(ctx)
	if err != nil {
		return nil
	}
	defer running.Close()
	var found session.HashedImages
	stage := p.sink.Stage("build")
	if err := running.Ask(ctx, "images", &found); err != nil {
		stage.Detail("the running devloop does not say which images it would deploy", "why", err.Error())
		return nil
	}
	target := found.Target(p.config)
	if target == nil {
		stage.Detail("the running devloop has another configuration")
		return nil
	}
	stage.Detail("the running devloop says which images it would deploy")
	return target
}

// checkNames checks that there are releases of these names.
func checkNames(c *config.Config, names []string) error {
	known := make([]string, len(c.Releases))
	for i, r := range c.Releases {
		known[i] = r.Name
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return usageError("there are: "+strings.Join(known, ", "), "there is no release %q in %s", name,
				filepath.Base(c.Path))
		}
	}
	return nil
}
