package main

import (
	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/config"
)

func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of devloop.yaml, for editors",
		Example: `  devloop schema > devloop.schema.json
  # and as the first line of devloop.yaml:
  # yaml-language-server: $schema=devloop.schema.json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := dataOut(cmd).Write(config.Schema())
			return err
		},
	}
}
