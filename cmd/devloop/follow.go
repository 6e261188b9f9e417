package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// following are the flags of devloop logs and devloop events.
type following struct {
	follow bool
	tail   lineCount
}

func (f *following) register(cmd *cobra.Command, tail lineCount) {
	f.tail = tail
	cmd.Flags().BoolVar(&f.follow, "follow", true, "go on with what comes, until Ctrl+C or until that devloop ends")
	cmd.Flags().Var(&f.tail, "tail", "begin with this many past lines; devloop keeps 5000 of all kinds")
}

func newEventsCommand(o *options) *cobra.Command {
	var f following
	cmd := &cobra.Command{
		Use:         "events",
		Annotations: map[string]string{observes: "yes"},
		Short:       "Follow the log of the devloop of this folder",
		Long: `Prints what the devloop that runs in another terminal for this folder's devloop.yaml logs, in any
--log-format, and with -v what it would log with -v. What pods print is in devloop logs.

Exit codes: 0 it ended, or Ctrl+C; 3 no devloop runs.`,
		Example: `  devloop events
  devloop events --log-format json -v --follow=false | jq 'select(.run == 3)'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.printEvents(cmd, f, view{shows: func(p *console.Printer, e event.Event) bool {
				return e.Message != event.PodLog && p.Shows(e)
			}})
		},
	}
	f.register(cmd, allLines)
	return cmd
}

func newLogsCommand(o *options) *cobra.Command {
	var f following
	var level string
	cmd := &cobra.Command{
		Use:         "logs [pod...]",
		Annotations: map[string]string{observes: "yes"},
		Short:       "Follow what the pods of the devloop of this folder print",
		Long: `Prints what the releases' pods print, and the Dask schedulers and workers that users start: all
together, across restarts. Arguments are regular expressions for the names of pods, or for pod/container. The
devloop that runs in another terminal follows the pods.

An expression that no pod matches is an error with --follow=false. Otherwise devloop logs says so, and waits.

Exit codes: 0 it ended, or Ctrl+C; 2 no pod matches; 3 no devloop runs.`,
		Example: `  devloop logs
  devloop logs gateway --level warn
  devloop logs dask-worker --tail 1000 --follow=false`,
		Args:              podPatterns,
		ValidArgsFunction: o.completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := console.NewPodFilter(anyOf(args), level)
			if err != nil {
				return err
			}
			v := view{stage: event.PodStage, shows: func(_ *console.Printer, e event.Event) bool {
				return e.Message == event.PodLog && filter.Shows(e) || e.Message == event.ContainerDied && filter.Matches(e)
			}}
			for _, expression := range args {
				v.pods = append(v.pods, regexp.MustCompile(expression)) // NewPodFilter has tried
			}
			return o.printEvents(cmd, f, v)
		},
	}
	f.register(cmd, 1000)
	cmd.Flags().Var(choice[string]{&level, "level", console.LogLevels}, "level",
		"only lines of this level or above: "+strings.Join(console.LogLevels, ", "))
	completeFlag(cmd, "level", oneOf(console.LogLevels))
	return cmd
}

// podPatterns checks arguments that are regular expressions.
func podPatterns(cmd *cobra.Command, args []string) error {
	for _, arg := range args {
		if err := checkPattern(arg); err != nil {
			return commandError(cmd, new(podPattern).allowed(), "%w", err)
		}
	}
	return nil
}

// anyOf joins regular expressions.
func anyOf(expressions []string) string {
	grouped := make([]string, len(expressions))
	for i, expression := range expressions {
		if _, err := regexp.Compile(expression); err != nil {
			return expression // so that the error is about it
		}
		grouped[i] = "(?:" + expression + ")"
	}
	return strings.Join(grouped, "|")
}

// view chooses what of the log is printed.
type view struct {
	stage string           // "" for all
	pods  []*regexp.Regexp // each should match a pod
	shows func(*console.Printer, event.Event) bool
}

// printEvents prints the newest past lines of a view, and then those that come.
func (o *options) printEvents(cmd *cobra.Command, f following, v view) error {
	interrupted, _, stop := interruptible(cmd.Context(), o.printer, nil)
	defer stop()
	ctx, end := context.WithCancelCause(interrupted)
	defer end(nil)
	out := console.ForPrograms(cmd.OutOrStdout())
	if _, onTerminal := out.(*console.TerminalWriter); !onTerminal {
		out = ending{out, end}
	}
	p := console.NewPrinter(out)
	p.Configure(o.logFormat, o.verbose, o.quiet)
	c, err := o.selection().Find(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	missing := missingPods{slices.Clone(v.pods), c.State.Pods}
	missing.lookAtState()
	query := url.Values{"stage": {v.stage}}
	var past []event.Event
	last, err := c.Events(ctx, query, func(e event.Event) {
		missing.look(e)
		if v.shows(p, e) {
			past = append(past, e)
		}
	})
	if err == nil {
		past = past[len(past)-min(int(f.tail), len(past)):]
		if missed := missing.err(); missed != nil && f.follow {
			event.Sink(o.printer.Print).Stage("logs").Warn("waiting for a pod", missed)
		}
		for _, e := range past {
			p.Print(e)
		}
	}
	if err == nil && f.follow {
		err = c.Follow(ctx, query, last, func(e event.Event) {
			if v.shows(p, e) {
				p.Print(e)
			}
		})
	}
	switch {
	case interrupted.Err() != nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil && !f.follow:
		return missing.err()
	case err != nil && !errors.Is(err, control.ErrCut):
		return fmt.Errorf("follow the devloop of %s: %w", c.State.Folder, err)
	}
	return nil
}

// ending ends a context when something cannot be written, with the error as its cause.
type ending struct {
	io.Writer
	end context.CancelCauseFunc
}

func (e ending) Write(p []byte) (int, error) {
	n, err := e.Writer.Write(p)
	if err != nil {
		e.end(err)
	}
	return n, err
}

// missingPods are expressions that no pod has matched, neither one that there is nor one that has
// printed something.
type missingPods struct {
	expressions []*regexp.Regexp
	pods        []status.Pod // that there are
}

func (m *missingPods) lookAtState() {
	for _, pod := range m.pods {
		m.found(pod.Name + "/")
		for _, c := range pod.Containers {
			m.found(pod.Name + "/" + string(c.Name))
		}
	}
}

func (m *missingPods) look(e event.Event) {
	switch p := e.Payload.(type) {
	case event.LogLine:
		m.found(string(p.Pod + "/" + p.Container))
	case event.ContainerDeath:
		m.found(string(p.Pod + "/" + p.Container))
	}
}

func (m *missingPods) found(container string) {
	m.expressions = slices.DeleteFunc(m.expressions, func(e *regexp.Regexp) bool { return e.MatchString(container) })
}

func (m *missingPods) err() error {
	if len(m.expressions) == 0 {
		return nil
	}
	quoted := make([]string, len(m.expressions))
	for i, e := range m.expressions {
		quoted[i] = strconv.Quote(e.String())
	}
	return usageError(m.others(), "no pod matches %s", strings.Join(quoted, " or "))
}

// others says which pods there are.
func (m *missingPods) others() string {
	const most = 12
	names := make([]string, len(m.pods))
	for i, pod := range m.pods {
		names[i] = pod.Name
	}
	switch {
	case len(names) == 0:
		return "there is no pod yet"
	case len(names) > most:
		names = append(names[:most], fmt.Sprintf("and %d more", len(names)-most))
	}
	return "there are: " + strings.Join(names, ", ")
}
