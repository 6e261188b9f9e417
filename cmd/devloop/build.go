// devloop build: the images alone, in Docker; no cluster is needed.
package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/session"
)

func newBuildCommand(o *options) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the images, and print their names",
		Long: `Builds the images that Docker does not hold yet, and prints all of them with their tags on standard output. The cluster is not
asked and not changed.`,
		Example: `  devloop build
  devloop build --json | jq -r '.[].image'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			images, err := buildImages(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(dataOut(cmd), images)
			}
			return printImages(cmd.OutOrStdout(), images)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printImages(w io.Writer, images []session.BuiltImage) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, image := range images {
		if _, err := fmt.Fprintf(table, "%s\t%s\n", image.Name, image.Image); err != nil {
			return err
		}
	}
	return table.Flush()
}

func buildImages(ctx context.Context, o *options) (built []session.BuiltImage, err error) {
	ctx, p, err := o.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer p.end()
	built, err = session.BuildAll(ctx, p.sink, p.config)
	if err != nil && ctx.Err() != nil {
		return nil, console.ErrInterrupted
	}
	return built, err
}
