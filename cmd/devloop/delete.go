package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/session"
)

func newDeleteCommand(o *options) *cobra.Command {
	var what deploy.Removal
	images := false
	cmd := &cobra.Command{
		Use:   "delete [release...]",
		Short: "Remove what devloop deployed for this project",
		Long: `Removes what users made through the platform (cleanup.before), the releases, and the namespaces that
devloop made and that are empty after that. What holds data, belongs to the whole cluster or makes the next
start fast stays, unless its flag is given.

With names of releases, only these are removed, and namespaces that devloop made and that are empty after that.
What they depend on stays. A release that another one depends on, which is deployed and not named, is not
removed. With -m, the releases of these configurations of a skaffold.yaml, and of those that they require, are
removed.`,
		Example: `  devloop delete                            # after --cleanup=false, or when devloop was killed
  devloop delete web                        # the others stay
  devloop delete --images --crds --volumes  # nothing at all is left`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := o.selectReleases(cmd, names); err != nil {
				return err
			}
			if what.Only, o.only = o.only, nil; what.Only != nil && (images || what.CRDs || what.Volumes) {
				return errWholeOnly("devloop delete " + strings.Join(what.Only, " ") + " removes the releases; without names, " +
					"the flags remove what the whole project has left")
			}
			return remove(cmd.Context(), o, what, images)
		},
	}
	o.registerOnly(cmd, "remove only these `releases`")
	cmd.Flags().BoolVar(&images, "images", false,
		"remove the images that devloop built, too: from the nodes, Docker and devloop's registry")
	cmd.Flags().BoolVar(&what.CRDs, "crds", false,
		"remove the custom resource definitions that devloop made, too, and with them all objects of their kinds")
	cmd.Flags().BoolVar(&what.Volumes, "volumes", false,
		"remove the volume claims of stateful sets, too, and with them their data")
	return cmd
}

func errWholeOnly(hint string) error {
	return usageError(hint, "--images, --crds and --volumes are for the whole project, not for some of its releases")
}

func remove(ctx context.Context, o *options, what deploy.Removal, images bool) (err error) {
	ctx, p, err := o.begin(ctx, nil)
	if err != nil {
		return err
	}
	defer p.end()
	if _, err := p.config.Only(what.Only); err != nil {
		return o.namingVariables(err)
	}
	if p.config.Part != nil && (images || what.CRDs || what.Volumes) {
		return errWholeOnly("leave out -m: then all of the project is removed, and the flags remove what it has left")
	}
	s, err := session.OpenWithoutForwards(ctx, p.session())
	if err != nil {
		switch {
		case ctx.Err() != nil:
			return console.ErrInterrupted
		case session.IsDeleted(p.config.Name, err):
			p.sink.Stage("cleanup").Note("nothing to remove, the cluster is deleted")
			return nil
		}
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if needed := s.NeededBy(what.Only); len(needed) > 0 {
		all := slices.Concat(what.Only, needed)
		return usageError("remove them, too: devloop delete "+strings.Join(all, " "),
			"what is deployed depends on %s: %s", strings.Join(what.Only, ", "), strings.Join(needed, ", "))
	}
	ctx = context.WithoutCancel(ctx)
	err = s.Cleanup(ctx, "Ctrl+C twice", what)
	if images {
		err = errors.Join(err, s.RemoveImages(ctx))
	}
	return err
}
