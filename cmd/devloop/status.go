// devloop status: how a devloop that runs in another terminal is doing, for people and for scripts.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// healths are what --wait can wait for.
var healths = []string{string(status.Starting), string(status.Working), string(status.Healthy), string(status.Failed), string(status.Degraded), string(status.Ending)}

func newStatusCommand(o *options) *cobra.Command {
	var asJSON, chain bool
	var wait string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:         "status",
		Annotations: map[string]string{ofAnother: "yes"},
		Short:       "Show how the devloop of this folder is doing",
		Long: `Shows images, releases, pods, forwards and the last runs of the devloop that runs in another terminal for this folder's devloop.yaml,
or of the only one that runs.

With --chain it is asked anew what runs: for each image the hash of its inputs, what was built from them, what the nodes hold, what each pod
runs, and what the Dask Gateway gives to new clusters. Where one of them is not what the one before it is, the chain is broken.

Exit codes: 0 shown, and with --wait, it is so, and with --chain, it is whole; 1 it was not so within --timeout, or the chain is broken;
3 no devloop runs.`,
		Example: `  devloop status
  devloop status --chain
  devloop status --wait healthy --timeout 60s && python test.py
  devloop status --json | jq .run.seconds`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wait != "" && !slices.Contains(healths, wait) {
				return console.UsageError{Err: event.WithHint(fmt.Errorf("--wait: there is no state %q", wait), "take one of "+strings.Join(healths, ", "))}
			}
			ctx, _, stop := interruptible(cmd.Context(), o.printer, nil)
			defer stop()
			if chain {
				err := showChain(ctx, o, cmd, asJSON)
				if ctx.Err() != nil {
					return console.ErrInterrupted
				}
				return err
			}
			state, err := awaited(ctx, o, status.Health(wait), timeout)
			if ctx.Err() != nil {
				return console.ErrInterrupted
			}
			if state == nil {
				return err
			}
			if asJSON {
				return errors.Join(err, writeJSON(dataOut(cmd), *state))
			}
			return errors.Join(err, writeStatus(cmd.OutOrStdout(), *state))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all that is known as JSON; keys are added to it, never renamed")
	cmd.Flags().BoolVar(&chain, "chain", false, "show what each image is, from the hash of its inputs to who uses it, as it is now")
	cmd.Flags().StringVar(&wait, "wait", "", "wait until the state is this one: "+strings.Join(healths, ", "))
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long --wait waits, also for a devloop that only starts")
	cmd.MarkFlagsMutuallyExclusive("chain", "wait")
	completeFlag(cmd, "wait", oneOf(healths))
	return cmd
}

// askAgain is how often --wait looks.
const askAgain = 100 * time.Millisecond

// awaited returns the state once it is what is wanted, or what it was at last with an error. An empty health is any.
func awaited(ctx context.Context, o *options, wanted status.Health, timeout time.Duration) (*status.State, error) {
	if wanted == "" {
		return readState(ctx, o)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last *status.State
	var since time.Time // it is as wanted
	none := control.ErrNoneRuns
	for {
		state, err := readState(ctx, o)
		var away control.NotRunningError
		switch {
		case ctx.Err() != nil: // the answer was cut off
		case err == nil && state.Health == wanted:
			if last = state; since.IsZero() {
				since = time.Now()
			}
			if time.Since(since) >= lasting {
				return state, nil
			}
		case err == nil:
			last, since = state, time.Time{}
		case errors.As(err, &away):
			none, since = err, time.Time{}
		default:
			return nil, err // waiting mends a command line no more than two devloops
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			if last == nil {
				return nil, none
			}
			return last, errors.New(strings.TrimSuffix(fmt.Sprintf("not %s within %s, but %s: %s", wanted, timeout, last.Health, console.Brief(last.Reason)), ": "))
		}
	}
}

// lasting is for how long it has to be as wanted: a file that was saved right before counts after a moment only.
const lasting = 500 * time.Millisecond

func readState(ctx context.Context, o *options) (*status.State, error) {
	r, err := o.selection().Find(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return &r.State, nil
}

func writeJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// shownRuns is how many of the last runs are listed.
const shownRuns = 5

// writeStatus writes a State for people.
func writeStatus(to io.Writer, s status.State) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) {
		for i, arg := range args {
			if text, ok := arg.(string); ok { // in one line, and without a tab that would begin a column
				args[i] = event.Printable(text)
			}
		}
		_, _ = fmt.Fprintf(out, format+"\n", args...) // Flush tells
	}
	health := string(s.Health)
	if s.Paused {
		health += ", paused"
	}
	if s.Reason != "" {
		health += ": " + console.Brief(s.Reason)
	}
	line("%s on %s: %s", s.Project, console.OrDash(s.Cluster), health)
	if s.Page != "" {
		line("%s", s.Page)
	}
	if s.Chain != nil && s.Chain.Error == "" {
		line("what runs was proven %s ago: devloop status --chain", console.Age(s.Chain.Checked))
	}
	if len(s.Images) > 0 {
		line("\nIMAGE\tSTATE\tTAG\tON THE NODES")
	}
	for _, i := range s.Images {
		var nodes []string
		for _, n := range i.Nodes {
			nodes = append(nodes, n.Node+" "+build.ShortID(n.ID))
		}
		state := string(i.State)
		if i.State == status.ImageBuilding && i.Total > 0 {
			state += fmt.Sprintf(" %d/%d", i.Done, i.Total)
		}
		line("%s\t%s\t%s\t%s", i.Name, console.OrDash(state), console.OrDash(i.Tag), console.OrDash(strings.Join(nodes, ", ")))
	}
	writeLibraries(out, s.Libraries)
	if len(s.Releases) > 0 {
		line("\nRELEASE\tNAMESPACE\tREVISION\tSTATE")
	}
	for _, r := range s.Releases {
		line("%s\t%s\t%d\t%s", r.Name, r.Namespace, r.Revision, console.OrDash(string(r.State)))
	}
	if len(s.Forwards) > 0 {
		line("\nFORWARD\tTO\tSTATE\tCONNECTIONS\tSENT\tRECEIVED")
	}
	for _, f := range s.Forwards {
		connections := fmt.Sprintf("%d open", f.Open)
		if f.Held > 0 {
			connections += fmt.Sprintf(", %d held", f.Held)
		}
		line("%s\t%s\t%s\t%s\t%s\t%s", f.Local, f.Target, f.State, connections, console.Size(uint64(f.Sent)), console.Size(uint64(f.Received)))
	}
	if len(s.Pods) > 0 {
		line("\nPOD\tOF\tREADY\tSTATE\tRESTARTS\tAGE")
	}
	for _, p := range s.Pods {
		of, ready := p.Release, "no"
		if of == "" {
			of = p.Group
		}
		if p.Ready {
			ready = "yes"
		}
		state := p.Phase
		if p.Reason != "" {
			state += ": " + console.Brief(p.Reason)
		}
		line("%s\t%s\t%s\t%s\t%d\t%s", p.Name, console.OrDash(of), ready, state, p.Restarts, console.Age(p.Created))
	}
	writeOld(line, s.Old)
	if len(s.Runs) > 0 {
		line("\nRUN\tENDED\tWHY\tOUTCOME")
	}
	for _, r := range slices.Backward(s.Runs[max(0, len(s.Runs)-shownRuns):]) {
		why := r.Why
		if r.Files != "" {
			why = r.Files
		}
		outcome := string(r.Outcome) + " after " + r.Summary()
		if r.Error != "" {
			outcome += ": " + console.Brief(r.Error)
		}
		line("%d\t%s ago\t%s\t%s", r.Number, console.Age(r.Ended()), why, outcome)
	}
	return out.Flush()
}
