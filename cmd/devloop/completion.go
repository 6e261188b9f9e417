// devloop completion: what a shell has to know to complete devloop's command line.
package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
)

func newCompletionCommand() *cobra.Command {
	scripts := map[string]func(*cobra.Command) error{
		"bash": func(cmd *cobra.Command) error { return cmd.Root().GenBashCompletionV2(dataOut(cmd), true) },
		"zsh":  func(cmd *cobra.Command) error { return cmd.Root().GenZshCompletion(dataOut(cmd)) },
		"fish": func(cmd *cobra.Command) error { return cmd.Root().GenFishCompletion(dataOut(cmd), true) },
	}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the completion script of a shell",
		Example: `  source <(devloop completion bash)    # in ~/.bashrc
  source <(devloop completion zsh)     # in ~/.zshrc, after compinit
  devloop completion fish | source     # in ~/.config/fish/config.fish`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 && scripts[args[0]] != nil {
				return nil
			}
			return console.UsageError{Err: event.WithHint(errors.New("devloop completion: takes the name of one shell: bash, zsh or fish"), "devloop completion --help")}
		},
		RunE: func(cmd *cobra.Command, args []string) error { return scripts[args[0]](cmd) },
	}
}
