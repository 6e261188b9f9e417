// Go looks once a second how many processors it may use, which is much of what an idle devloop would do.
//go:debug updatemaxprocs=0

// Command devloop keeps a minikube cluster in step with the files of a folder: see README.md. This file is the only place that
// ends the process (but for a second Ctrl+C).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/watch"
)

func main() {
	serveRender()
	surviveClosedPipes()
	o := &options{printer: console.NewPrinter(os.Stderr)}
	err := execute(o)
	code := exitCode(err)
	if err != nil {
		o.printer.PrintError(err, code)
	}
	_ = o.printer.Close() // all is written, or cannot be
	os.Exit(code)
}

// surviveClosedPipes lets a write fail that nobody reads any more, as when who reads the log ends
// first: that must not cut the clean-up short. To ignore the signal would do the same, but then
// whatever devloop starts would ignore it, too, and "yes | head" in a hook would never end.
func surviveClosedPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// serveRender is all that a process does which devloop has started to render templates.
func serveRender() {
	if len(os.Args) == 2 && os.Args[1] == deploy.RenderArgument {
		os.Exit(deploy.ServeRender(os.Stdin, os.Stdout))
	}
}

// execute runs the command line. A panic is an error like any other; -v shows where it was.
func execute(o *options) error {
	return event.Sink(o.printer.Print).For("devloop").Guard("command", func() error {
		cmd, err := newRootCommand(o).ExecuteContextC(context.Background())
		if usage := new(console.UsageError); errors.As(err, usage) {
			_ = o.settle(cmd) // which cobra does only for a command line that it accepts: the error is to have the format asked for
		}
		return err
	})
}

func newRootCommand(o *options) *cobra.Command {
	once, d := false, devOptions{cleanup: true, mode: watch.Auto, page: true, pagePort: -1}
	root := &cobra.Command{
		Use:   "devloop",
		Short: "Keep a minikube cluster in step with the files of this folder",
		Long: `devloop watches the files that devloop.yaml's images and releases are made from. When one is saved, it builds the images
that changed, hands them to minikube, upgrades the Helm releases that changed and waits until the platform answers.
Forwarded ports stay open all the while. Ctrl+C removes what was deployed; a second Ctrl+C leaves at once. In a terminal, ? tells
which keys there are: run now, pause, logs of the pods. SIGHUP runs now, too. How it all stands is on a page, whose address the log tells,
and in another terminal: devloop status.

Every flag can be given by the environment, too: --log-format is DEVLOOP_LOG_FORMAT.

A cluster that is not known to be on this machine is written to only if you allow it: --allow-context, ~/.config/devloop/config.yaml, or
your answer when devloop asks.

Exit codes: 0 done, 1 failed, 2 your input is wrong, 3 something around devloop is missing or the cluster is not allowed, 130 interrupted.`,
		Example: `  devloop                            # in a folder with a devloop.yaml, or a skaffold.yaml
  devloop --cleanup=false            # leave everything running on exit
  devloop --profile ci --set forwards[0].local=9001
  devloop --log-format json 2> >(jq .)`,
		Args:              noArguments,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return o.settle(cmd) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if once {
				return runOnce(cmd.Context(), o)
			}
			return dev(cmd.Context(), o, d)
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return console.UsageError{Err: event.WithHint(err, cmd.CommandPath()+" --help")}
	})
	root.SetHelpCommand(newHelpCommand())
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(&console.TerminalWriter{Out: os.Stdout})
	root.SetErr(&console.TerminalWriter{Out: os.Stderr})
	o.register(root)
	root.Flags().BoolVar(&d.cleanup, "cleanup", true, "remove what was deployed when devloop ends")
	root.Flags().BoolVar(&once, "once", false, "the same as devloop run: one turn, and what was deployed stays")
	root.Flags().BoolVar(&d.page, "page", true, "show how it all stands on a page on 127.0.0.1")
	root.Flags().IntVar(&d.pagePort, "page-port", -1, "the page's port, instead of page.port in the configuration; 0 takes 10360, or a free one")
	root.Flags().BoolVar(&d.logs, "logs", false, "show the logs of the pods from the start, as the key l does")
	root.Flags().StringVar(&d.logPods, "log-pods", "", "show only pods whose name, or name/container, this regular expression matches")
	root.Flags().StringVar(&d.logLevel, "log-level", "", "show only lines of pods of this level or above: debug, info, warn, error")
	root.Flags().Var((*watchMode)(&d.mode), "watch", "how changes of files are seen: by events of the kernel, by polling (poll), or by what works (auto)")
	o.registerAdopt(root)
	completeFlag(root, "watch", oneOf(watchModes))
	completeFlag(root, "log-level", oneOf(console.LogLevels))
	root.AddCommand(newRunCommand(o), newBuildCommand(o), newDiffCommand(o), newRenderCommand(o), newDeleteCommand(o), newInitCommand(o), newDoctorCommand(o),
		newStatusCommand(o), newClustersCommand(o), newLogsCommand(o), newEventsCommand(o), newSkewCommand(o), newSchemaCommand(), newCompletionCommand(), newVersionCommand())
	return root
}

// watchMode is the value of --watch.
type watchMode watch.Mode

var watchModes = []string{string(watch.Auto), string(watch.Events), string(watch.Poll)}

func (m *watchMode) String() string { return string(*m) }
func (m *watchMode) Type() string   { return "mode" }
func (m *watchMode) Set(text string) error {
	if !slices.Contains(watchModes, text) {
		return fmt.Errorf("take one of %s", strings.Join(watchModes, ", "))
	}
	*m = watchMode(text)
	return nil
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := cmd.CommandPath() + " --help"
	if cmd.SuggestionsMinimumDistance = 2; len(cmd.SuggestionsFor(args[0])) > 0 {
		hint = "did you mean: " + cmd.CommandPath() + " " + cmd.SuggestionsFor(args[0])[0]
	}
	return console.UsageError{Err: event.WithHint(fmt.Errorf("%s: unknown argument or command %q", cmd.CommandPath(), args[0]), hint)}
}

func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [command]",
		Short:   "Tell what a command does",
		Example: "  devloop help run",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return console.UsageError{Err: event.WithHint(fmt.Errorf("devloop help: there is no command %q", args[len(args)-1]), "devloop --help")}
			}
			return about.Help()
		},
	}
}
