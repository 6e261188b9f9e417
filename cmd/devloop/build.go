package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/session"
)

func newBuildCommand(o *options) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the images, and print their names",
		Long: `Builds the images that Docker does not hold yet, and prints all of them with their tags on standard
output. The cluster is not asked and not changed.`,
		Example: `  devloop build
  devloop build --json | jq -r '.[].image'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var images []session.BuiltImage
			err := o.run(cmd.Context(), func(ctx context.Context, p *process) (err error) {
				images, err = session.BuildAll(ctx, p.sink, p.config)
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, images)
			}
			table := console.NewTable(cmd.OutOrStdout())
			for _, image := range images {
				table.Row(image.Name, image.Image)
			}
			return table.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
