// devloop logs and devloop events: what a devloop that runs in another terminal says, or would if it were asked for more.
package main

import (
	"context"
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

// following are the flags that both have.
type following struct {
	follow bool
	tail   uint
}

func (f *following) register(cmd *cobra.Command, tail uint) {
	cmd.Flags().BoolVar(&f.follow, "follow", true, "go on with what comes, until Ctrl+C or until that devloop ends")
	cmd.Flags().UintVar(&f.tail, "tail", tail, "begin with so many lines of what was; devloop keeps 5000 of all sorts")
}

func newEventsCommand(o *options) *cobra.Command {
	var f following
	cmd := &cobra.Command{
		Use:         "events",
		Annotations: map[string]string{ofAnother: "yes"},
		Short:       "Follow the log of the devloop of this folder",
		Long: `Prints what the devloop that runs in another terminal for this folder's devloop.yaml logs, in any --log-format, and with -v what it
would log with -v. What pods print is in devloop logs.

Exit codes: 0 it ended, or Ctrl+C; 3 no devloop runs.`,
		Example: `  devloop events
  devloop events --log-format json -v --follow=false | jq 'select(.run == 3)'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := console.NewPrinter(cmd.OutOrStdout())
			p.Configure(o.logFormat, o.verbose, o.quiet)
			return o.followEvents(cmd.Context(), f, "", func(e event.Event) bool { return e.Message != event.PodLog && p.Shows(e) }, p.Print)
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
		Annotations: map[string]string{ofAnother: "yes"},
		Short:       "Follow what the pods of the devloop of this folder print",
		Long: `Prints what the releases' pods print, and the Dask schedulers and workers that users start: all together, across restarts. Arguments are
regular expressions for the names of pods, or for pod/container. It is followed by the devloop that runs in another terminal.

Exit codes: 0 it ended, or Ctrl+C; 3 no devloop runs.`,
		Example: `  devloop logs
  devloop logs gateway --level warn
  devloop logs dask-worker --tail 1000 --follow=false`,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := console.NewPodFilter(anyOf(args), level)
			if err != nil {
				return err
			}
			p := console.NewPrinter(cmd.OutOrStdout())
			p.Configure(o.logFormat, o.verbose, o.quiet)
			return o.followEvents(cmd.Context(), f, event.PodStage, func(e event.Event) bool {
				return e.Message == event.PodLog && filter.Shows(e) || e.Message == event.PodDied && filter.Matches(e)
			}, p.Print)
		},
	}
	f.register(cmd, 1000)
	cmd.Flags().StringVar(&level, "level", "", "only lines of this level or above: "+strings.Join(console.LogLevels, ", "))
	completeFlag(cmd, "level", oneOf(console.LogLevels))
	return cmd
}

// anyOf is one regular expression for several.
func anyOf(expressions []string) string {
	grouped := make([]string, len(expressions))
	for i, expression := range expressions {
		if _, err := regexp.Compile(expression); err != nil {
			return expression // which is what the error is to be about
		}
		grouped[i] = "(?:" + expression + ")"
	}
	return strings.Join(grouped, "|")
}

// followEvents calls show for the lines of the log that are wanted: the newest of those that were, and then those that come.
func (o *options) followEvents(ctx context.Context, f following, stage string, wanted func(event.Event) bool, show func(event.Event)) error {
	ctx, _, stop := interruptible(ctx, o.printer, nil)
	defer stop()
	r, err := o.selection().Find(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	var past []event.Event
	query := url.Values{"stage": {stage}}
	last, err := r.Events(ctx, query, func(e event.Event) {
		if wanted(e) {
			past = append(past, e)
		}
	})
	if err == nil {
		for _, e := range past[len(past)-int(min(f.tail, uint(len(past)))):] {
			show(e)
		}
		if f.follow {
			err = r.Follow(ctx, query, last, func(e event.Event) {
				if wanted(e) {
					show(e)
				}
			})
		}
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, control.ErrCut) {
		return fmt.Errorf("follow the devloop of %s: %w", r.State.Folder, err)
	}
	return nil
}
