package main

import (
	"github.com/spf13/cobra"
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
			return usageError("devloop completion --help", "completion: takes the name of one shell: bash, zsh or fish")
		},
		RunE: func(cmd *cobra.Command, args []string) error { return scripts[args[0]](cmd) },
	}
}
