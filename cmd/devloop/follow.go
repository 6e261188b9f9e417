package main

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/event"
)

// following are the flags of devloop logs and devloop events.
type following struct {
	follow bool
	tail   uint
}

func (f *following) register(cmd *cobra.Command, tail uint) {
	cmd.Flags().BoolVar(&f.follow, "follow", true, "go on with what comes, until Ctrl+C or until that devloop ends")
	cmd.Flags().UintVar(&f.tail, "tail", tail, "begin with this many past lines; devloop keeps 5000 of all kinds")
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
			return o.printEvents(cmd, f, "", func(p *console.Printer, e event.Event) bool {
				return e.Message != event.PodLog && p.Shows(e)
			})
		},
	}
	f.register(cmd, math.MaxUint32)
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

Exit codes: 0 it ended, or Ctrl+C; 3 no devloop runs.`,
		Example: `  devloop logs
  devloop logs gateway --level warn
  devloop logs dask-worker --tail 1000 --follow=false`,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := console.NewPodFilter(anyOf(args), level)
			if err != nil {
				return err
			}
			return o.printEvents(cmd, f, event.PodStage, func(_ *console.Printer, e event.Event) bool {
				return e.Message == event.PodLog && filter.Shows(e) || e.Message == event.ContainerDied && filter.Matches(e)
			})
		},
	}
	f.register(cmd, 1000)
	cmd.Flags().StringVar(&level, "level", "", "only lines of this level or above: "+strings.Join(console.LogLevels, ", "))
	completeFlag(cmd, "level", oneOf(console.LogLevels))
	return cmd
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

// printEvents prints the wanted lines of a stage, or of all if it is "": the newest past ones, and
// then those that come.
func (o *options) printEvents(cmd *cobra.Command, f following, stage string,
	wanted func(*console.Printer, event.Event) bool) error {
	p := console.NewPrinter(cmd.OutOrStdout())
	p.Configure(o.logFormat, o.verbose, o.quiet)
	ctx, _, stop := interruptible(cmd.Context(), o.printer, nil)
	defer stop()
	c, err := o.selection().Find(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	query := url.Values{"stage": {stage}}
	var past []event.Event
	last, err := c.Events(ctx, query, func(e event.Event) {
		if wanted(p, e) {
			past = append(past, e)
		}
	})
	if err == nil {
		for _, e := range past[len(past)-int(min(f.tail, uint(len(past)))):] {
			p.Print(e)
		}
	}
	if err == nil && f.follow {
		err = c.Follow(ctx, query, last, func(e event.Event) {
			if wanted(p, e) {
				p.Print(e)
			}
		})
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, control.ErrCut) {
		return fmt.Errorf("follow the devloop of %s: %w", c.State.Folder, err)
	}
	return nil
}
