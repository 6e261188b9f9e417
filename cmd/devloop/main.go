// Command devloop keeps a minikube cluster in step with the files of a folder: see README.md. This file is the only place that
// ends the process, and the only one that prints an error.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
)

// Exit codes.
const (
	exitFailed      = 1   // devloop could not do what was asked
	exitInput       = 2   // the command line or devloop.yaml is wrong
	exitEnvironment = 3   // cluster, Docker, a port: something around devloop is missing or taken
	exitInterrupted = 130 // a second Ctrl+C cut the clean-up short
)

func main() {
	err := newRootCommand().ExecuteContext(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "devloop: "+err.Error())
		if hint := event.Hint(err); hint != "" {
			fmt.Fprintln(os.Stderr, "  → "+hint)
		}
	}
	os.Exit(exitCode(err))
}

// environmentError marks what is wrong around devloop, rather than with its work or input.
type environmentError struct{ error }

func (e environmentError) Unwrap() error { return e.error }

// usageError marks a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func exitCode(err error) int {
	var (
		invalid     *config.Error
		usage       usageError
		environment environmentError
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &invalid), errors.As(err, &usage):
		return exitInput
	case errors.As(err, &environment):
		return exitEnvironment
	}
	return exitFailed
}

// options are the flags that all commands share.
type options struct {
	files   []string
	verbose bool
	cleanup bool
}

func (o *options) source() config.Source { return config.Source{Files: o.files} }

func newRootCommand() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "devloop",
		Short: "Keep a minikube cluster in step with the files of this folder",
		Long: `devloop watches the files that devloop.yaml's images and releases are made from. When one is saved, it builds the images
that changed, hands them to minikube, upgrades the Helm releases that changed and waits until the platform answers.
Forwarded ports stay open all the while. Ctrl+C removes what was deployed; a second Ctrl+C leaves at once.`,
		Example:       "  devloop                  # in a folder with a devloop.yaml\n  devloop --cleanup=false  # leave everything running on exit",
		Args:          noArguments,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return dev(cmd.Context(), o) },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{event.WithHint(err, "devloop --help")}
	})
	root.PersistentFlags().StringArrayVarP(&o.files, "file", "f", []string{config.FileName}, "the configuration; a further file is laid over those before it")
	root.PersistentFlags().BoolVarP(&o.verbose, "verbose", "v", false, "tell more: each build step, what was found unchanged")
	root.Flags().BoolVar(&o.cleanup, "cleanup", true, "remove what was deployed when devloop ends")
	root.AddCommand(newDeleteCommand(o), newVersionCommand())
	return root
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{event.WithHint(fmt.Errorf("%s: unknown argument or command %q", cmd.CommandPath(), args[0]), cmd.CommandPath()+" --help")}
	}
	return nil
}
