package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/session"
)

func newDeleteCommand(o *options) *cobra.Command {
	var what deploy.Removal
	images := false
	cmd := &cobra.Command{
		Use:   "delete",
		Short: "Remove what devloop deployed for this project",
		Long: `Removes what users made through the platform (cleanup.before), the releases, and the namespaces that
devloop made and that are empty after that. What holds data, belongs to the whole cluster or makes the next
start fast stays, unless its flag is given.`,
		Example: `  devloop delete                            # after --cleanup=false, or when devloop was killed
  devloop delete --images --crds --volumes  # nothing at all is left`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return deleteAll(cmd.Context(), o, what, images) },
	}
	cmd.Flags().BoolVar(&images, "images", false,
		"remove the images that devloop built, too: from the nodes, Docker and devloop's registry")
	cmd.Flags().BoolVar(&what.CRDs, "crds", false,
		"remove the custom resource definitions that devloop made, too, and with them all objects of their kinds")
	cmd.Flags().BoolVar(&what.Volumes, "volumes", false,
		"remove the volume claims of stateful sets, too, and with them their data")
	return cmd
}

func deleteAll(ctx context.Context, o *options, what deploy.Removal, images bool) (err error) {
	ctx, p, err := o.begin(ctx, nil)
	if err != nil {
		return err
	}
	defer p.end()
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
	ctx = context.WithoutCancel(ctx)
	err = s.Cleanup(ctx, "Ctrl+C twice", what)
	if images {
		err = errors.Join(err, s.RemoveImages(ctx))
	}
	return err
}
