// Go looks once a second how many processors it may use, which is much of what an idle devloop
// would do.
//go:debug updatemaxprocs=0

// Command devloop keeps a minikube cluster in step with the files of a folder: see README.md. Only
// main, and a second Ctrl+C, end the process.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/manifests"
)

func main() {
	serveSubprocess()
	surviveClosedPipes()
	klog.SetLogger(klog.Logger{}) // client-go would write between the lines of the log
	o := &options{printer: console.NewPrinter(os.Stderr)}
	err := execute(o)
	code := exitCode(err)
	if err != nil && code != exitUnread {
		o.printer.PrintError(err, code)
	}
	_ = o.printer.Close() // all is written, or cannot be
	os.Exit(code)
}

// surviveClosedPipes lets writes to a closed pipe fail, so that a reader of the log that ends first
// does not cut the clean-up short. Ignoring the signal would have programs that devloop starts
// ignore it, too, and "yes | head" in a hook would never end.
func surviveClosedPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// serveSubprocess is all that a process does that devloop started to render templates, or to run
// kustomize.
func serveSubprocess() {
	if len(os.Args) != 2 {
		return
	}
	switch os.Args[1] {
	case deploy.RenderArgument:
		os.Exit(deploy.ServeRender(os.Stdin, os.Stdout))
	case manifests.KustomizeArgument:
		os.Exit(manifests.ServeKustomize(os.Stdin, os.Stdout))
	}
}

// execute runs the command line. A panic is an error like any other; -v shows where it was.
func execute(o *options) error {
	return event.Sink(o.printer.Print).Stage("devloop").Guard("command", func() error {
		cmd, err := newRootCommand(o).ExecuteContextC(context.Background())
		if is[console.UsageError](err) {
			_ = o.settle(cmd) // cobra did not, but the error has the format that was asked for, too
		}
		return err
	})
}

func newRootCommand(o *options) *cobra.Command {
	root := newLoopCommand(o)
	root.Use = "devloop [release...]"
	root.Short = "Keep a minikube cluster in step with the files of this folder"
	root.Long = `devloop watches the files that devloop.yaml's images and releases are made from. When one is saved,
it builds the images that changed, loads them into minikube, upgrades the Helm releases that changed and waits
until the platform answers. Forwarded ports stay open all the while. Ctrl+C removes what was deployed; a
second Ctrl+C exits at once. In a terminal, ? lists the keys: run now, pause, logs of the pods. SIGHUP runs
now, too. A page shows the state, at an address that is in the log; in another terminal, devloop status does.

With names of releases, all of that is about these, those that they depend on, and the images that they need.
The rest stays as it is.

Every flag has an environment variable, too: --log-format is DEVLOOP_LOG_FORMAT.

A cluster that is not known to be on this machine is written to only if you allow it: --allow-context,
~/.config/devloop/config.yaml, or your answer when devloop asks.

Exit codes: 0 done, 1 failed, 2 your input is wrong, 3 something around devloop is missing or the cluster is
not allowed, 130 interrupted.`
	root.Example = `  devloop                            # in a folder with a devloop.yaml, or a skaffold.yaml
  devloop web api                    # only these releases, and what they depend on
  devloop --cleanup=false            # leave everything running on exit
  devloop --profile ci --set forwards[0].local=9001
  devloop --log-format json 2> >(jq .)`
	root.SilenceErrors, root.SilenceUsage = true, true
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return o.settle(cmd) }
	root.Version = readBuildInfo().String()
	root.SetVersionTemplate("devloop {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelpCommand())
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		signal.Reset(syscall.SIGPIPE) // cobra would report it, and here is nothing to clean up
		help(cmd, args)
	})
	root.CompletionOptions.DisableDefaultCmd = true
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.SetOut(&console.TerminalWriter{Out: os.Stdout})
	root.SetErr(&console.TerminalWriter{Out: os.Stderr})
	o.register(root)
	alias := newLoopCommand(o)
	alias.Use, alias.Hidden = "dev [release...]", true
	alias.Short = "Do the same as devloop without a command"
	alias.Example = "  devloop dev web"
	root.AddCommand(alias, newRunCommand(o), newBuildCommand(o), newDiffCommand(o), newRenderCommand(o),
		newDeleteCommand(o), newInitCommand(o), newDoctorCommand(o), newStatusCommand(o), newOpenCommand(o),
		newShellCommand(o), newExecCommand(o), newClustersCommand(o),
		newLogsCommand(o), newEventsCommand(o), newSkewCommand(o), newSchemaCommand(), newCompletionCommand(),
		newVersionCommand(), newManCommand())
	fitHelp(root)
	checkFlagsFirst(root)
	return root
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if hint := separateValue(cmd, args[0]); hint != "" {
		return commandError(cmd, hint, "unknown argument %q", args[0])
	}
	if similar := similarCommand(cmd, args[0]); similar != "" {
		return commandError(cmd, "did you mean: "+similar, "unknown command %q", args[0])
	}
	return commandError(cmd, cmd.CommandPath()+" --help", "unknown argument %q", args[0])
}

// similarCommand returns the command below cmd whose name is like a word, "" if there is none.
func similarCommand(cmd *cobra.Command, word string) string {
	cmd.SuggestionsMinimumDistance = 2
	if similar := cmd.SuggestionsFor(word); len(similar) > 0 {
		return cmd.CommandPath() + " " + similar[0]
	}
	return ""
}

func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "help [command]",
		Short:             "Describe a command",
		Example:           "  devloop help run",
		ValidArgsFunction: completeCommands,
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				word := args[len(args)-1]
				if len(rest) > 0 {
					word = rest[0]
				}
				hint := "devloop --help"
				if similar := similarCommand(about, word); similar != "" {
					hint = "did you mean: " + similar
				}
				return usageError(hint, "help: there is no command %q", word)
			}
			return about.Help()
		},
	}
}
