package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newManCommand writes the man pages that releases carry. It is hidden: users have --help.
func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "man DIRECTORY",
		Short:             "Write the man pages into a directory",
		Example:           "  devloop man share/man/man1",
		Hidden:            true,
		ValidArgsFunction: folders,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return usageError("devloop man --help", "man: takes the directory to write to")
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.Root().DisableAutoGenTag = true // its date would differ at every build
			header := &doc.GenManHeader{Source: "devloop " + readBuildInfo().Version, Manual: "devloop"}
			return doc.GenManTree(cmd.Root(), header, args[0])
		},
	}
}
