package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/pods"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/status"
)

func newExecCommand(o *options) *cobra.Command {
	var e session.Exec
	terminal := true
	cmd := &cobra.Command{
		Use:         "exec POD -- COMMAND [ARGUMENT...]",
		Annotations: map[string]string{observes: "yes"},
		Short:       "Run a command in a pod of this project",
		Long: `Runs a command in a pod of a release, or in one that a user of a Dask Gateway started. POD is its name, the
beginning of it, or a release; of pods that do the same, the newest that is ready is taken. The command reads what
devloop reads, and what it writes is passed on byte by byte. In a terminal it has that terminal.

Exit codes: that of the command; 126 or 127 if it cannot be run, 130 after Ctrl+C, 3 if the cluster does not
answer or is not allowed.`,
		Example: `  devloop exec dask-session -- python -c 'import dask; print(dask.__version__)'
  devloop exec worker-7f9c -c worker -- cat /proc/meminfo
  tar c data | devloop exec dask-session -- tar x -C /tmp`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
				return usageError("devloop exec POD -- COMMAND", "exec: takes a pod, and after -- a command")
			}
			if args[0] == "" { // as of a variable that is not set
				return usageError("devloop exec POD -- COMMAND", "exec: the name of the pod is empty")
			}
			e.Name, e.Command = args[0], args[1:]
			return o.exec(cmd, e, terminal)
		},
		ValidArgsFunction: firstArgument(o.completeReleases, o.completePods),
	}
	o.registerContainer(cmd, &e.Container)
	cmd.Flags().BoolVar(&terminal, "tty", true, "give the command the terminal that devloop has, if it has one")
	return cmd
}

func newShellCommand(o *options) *cobra.Command {
	var e session.Exec
	cmd := &cobra.Command{
		Use:         "shell [release | pod]",
		Annotations: map[string]string{observes: "yes"},
		Short:       "Open a shell in a pod of this project",
		Long: `Opens bash, or else sh, in a pod of a release, or in one that a user of a Dask Gateway started: its name, the
beginning of it, or a release. Without an argument it is the release that "shell" in devloop.yaml names, or the only
one. The key s of devloop does the same.

Exit codes: that of the shell; 3 if the cluster does not answer or is not allowed.`,
		Example: `  devloop shell
  devloop shell dask-gateway
  echo 'pip list' | devloop shell`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError("a command in a pod: devloop exec POD -- COMMAND", "shell: takes one release or pod")
			}
			if len(args) == 1 {
				if e.Name = args[0]; e.Name == "" { // as of a variable that is not set
					return usageError("devloop shell takes the default without an argument", "shell: the name is empty")
				}
			}
			return o.exec(cmd, e, true)
		},
		ValidArgsFunction: firstArgument(o.completeReleases, o.completePods),
	}
	o.registerContainer(cmd, &e.Container)
	return cmd
}

func (o *options) registerContainer(cmd *cobra.Command, container *string) {
	cmd.Flags().StringVarP(container, "container", "c", "",
		"the container of the pod, instead of the one with an image of the configuration, or else the first")
	completeFlag(cmd, "container", func(cmd *cobra.Command, _ []string, _ string) (
		found []cobra.Completion, _ cobra.ShellCompDirective) {
		for _, p := range o.running(cmd).Pods {
			for _, c := range p.Containers {
				if !slices.Contains(found, string(c.Name)) {
					found = append(found, string(c.Name))
				}
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	})
}

// exec runs a command in a pod with what devloop itself reads and writes.
func (o *options) exec(cmd *cobra.Command, e session.Exec, terminal bool) error {
	if !o.verbose {
		o.printer.Configure(o.logFormat, false, true) // standard error is the command's
	}
	return o.run(cmd.Context(), func(ctx context.Context, p *process) error {
		state, err := readState(ctx, o)
		switch {
		case errors.As(err, new(control.AmbiguousError)):
			return err
		case err == nil: // without one, the releases' own namespaces have to do
			if err := p.worksOn(*state); err != nil {
				return err
			}
			for _, pod := range state.Pods {
				if !slices.Contains(e.Namespaces, pod.Namespace) {
					e.Namespaces = append(e.Namespaces, pod.Namespace)
				}
			}
		}
		e.Streams = func(ctx context.Context, _ pods.Container, run func(pods.Streams) error) error {
			if !terminal || !console.IsTerminal(os.Stdin) || !console.IsTerminal(os.Stdout) {
				return run(pods.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
			}
			raw, err := console.OpenRawTerminal(os.Stdin, os.Stdout)
			if err != nil {
				return err
			}
			defer raw.Close()
			p.interrupts.raw.Store(raw)
			return runOn(ctx, raw, run)
		}
		return passOn(session.RunExec(ctx, p.session(), e))
	})
}

// worksOn returns an error if a running devloop works on another cluster than this process would:
// nobody wants a command to run in the pod of that name elsewhere.
func (p *process) worksOn(s status.State) error {
	target, err := kube.ReadContext(p.config.KubeContext)
	if err != nil || s.Cluster == "" || s.Cluster == target.Context { // the session reports the error
		return nil
	}
	return usageError("say which is meant: --kube-context", "the devloop that runs works on the cluster of context %s, "+
		"and context %s is chosen here", s.Cluster, target.Context)
}

// runOn runs a command on a terminal.
func runOn(ctx context.Context, raw *console.RawTerminal, run func(pods.Streams) error) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	err := run(pods.Streams{In: raw, Out: raw.Out, Terminal: true, Sizes: raw.Sizes(ctx)})
	var exit *pods.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Why != nil) { // cut off, maybe in the middle of a line
		_, _ = raw.Out.WriteString("\r\n")
	}
	return err
}

// passOn returns the error of a command in a pod. About one that ended by itself there is nothing
// to say.
func passOn(err error) error {
	var exit *pods.ExitError
	switch {
	case errors.As(err, &exit) && exit.Why == nil:
		return console.ReportedError{Err: exit}
	case errors.Is(err, syscall.EPIPE): // as of a program that SIGPIPE ends
		return console.ReportedError{Err: &pods.ExitError{Code: 128 + int(syscall.SIGPIPE)}}
	}
	return err
}
