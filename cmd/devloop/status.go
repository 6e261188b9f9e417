package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/status"
)

// healths are what --wait can wait for.
var healths = []string{string(status.Starting), string(status.Working), string(status.Healthy), string(status.Failed),
	string(status.Degraded), string(status.Ending)}

func newStatusCommand(o *options) *cobra.Command {
	var asJSON, chain bool
	var wait status.Health
	timeout := duration(time.Minute)
	cmd := &cobra.Command{
		Use:         "status",
		Annotations: map[string]string{observes: "yes"},
		Short:       "Show how the devloop of this folder is doing",
		Long: `Shows releases, Dask clusters, forwards, the last runs, images and pods of the devloop that runs in another
terminal for this folder's devloop.yaml, or of the only one that runs.

With --chain it checks again what runs: for each image the hash of its inputs, what was built from them, what
the nodes hold, what each pod runs, which synced files its containers hold, and what the Dask Gateway gives to
new clusters. The chain is broken where one of them is not what the one before it is.

Exit codes: 0 shown, and with --wait, it is so, and with --chain, it is complete; 1 it was not so within
--timeout, or the chain is broken; 3 no devloop runs.`,
		Example: `  devloop status
  devloop status --chain
  devloop status --wait healthy --timeout 60s && python test.py
  devloop status --json | jq .run.seconds`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := notBoth(cmd, "chain", "wait"); err != nil {
				return err
			}
			ctx, _, stop := interruptible(cmd.Context(), o.printer, nil)
			defer stop()
			var err error
			if chain {
				err = showChain(ctx, o, cmd, asJSON)
			} else {
				err = showStatus(ctx, o, cmd, wait, time.Duration(timeout), asJSON)
			}
			if ctx.Err() != nil {
				return console.ErrInterrupted
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all that is known as JSON; keys are added to it, never renamed")
	cmd.Flags().BoolVar(&chain, "chain", false,
		"show what each image is, from the hash of its inputs to what uses it, as it is now")
	cmd.Flags().Var(choice[status.Health]{&wait, "state", healths}, "wait",
		"wait until the state is this one: "+strings.Join(healths, ", "))
	cmd.Flags().Var(&timeout, "timeout",
		"how long --wait waits, also for a devloop that is only starting")
	completeFlag(cmd, "wait", oneOf(healths))
	return cmd
}

// showStatus prints the state as soon as its health is the wanted one; "" is any. After the timeout
// it prints what it is, and returns an error.
func showStatus(ctx context.Context, o *options, cmd *cobra.Command, wanted status.Health, timeout time.Duration,
	asJSON bool) error {
	state, err := await(ctx, o, wanted, timeout)
	switch {
	case state == nil || ctx.Err() != nil:
		return err
	case asJSON:
		return errors.Join(err, printJSON(cmd, *state))
	}
	return errors.Join(err, writeStatus(cmd.OutOrStdout(), *state))
}

const (
	// waitPoll is how often --wait asks.
	waitPoll = 100 * time.Millisecond
	// minHealthy is how long the health has to be the wanted one: a file that was saved just before
	// counts only after a moment.
	minHealthy = 500 * time.Millisecond
)

// await returns the state once its health is the wanted one, or the last state with an error.
func await(ctx context.Context, o *options, wanted status.Health, timeout time.Duration) (*status.State, error) {
	if wanted == "" {
		return readState(ctx, o)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last *status.State
	var since time.Time // its health is the wanted one
	missing := control.ErrNoneRuns
	for {
		state, err := readState(ctx, o)
		var notRunning control.NotRunningError
		switch {
		case ctx.Err() != nil: // the answer was cut off
		case err == nil && state.Health == wanted:
			if last = state; since.IsZero() {
				since = time.Now()
			}
			if time.Since(since) >= minHealthy {
				return state, nil
			}
		case err == nil:
			last, since = state, time.Time{}
		case errors.As(err, &notRunning):
			missing, since = err, time.Time{}
		default:
			return nil, err // waiting does not help
		}
		select {
		case <-time.After(waitPoll):
		case <-ctx.Done():
			if last == nil {
				return nil, missing
			}
			text := fmt.Sprintf("not %s within %s, but %s: %s", wanted, timeout, last.Health, console.Brief(last.Reason))
			return last, errors.New(strings.TrimSuffix(text, ": "))
		}
	}
}

func readState(ctx context.Context, o *options) (*status.State, error) {
	c, err := o.selection().Find(ctx)
	if err != nil {
		return nil, err
	}
	c.Close()
	return &c.State, nil
}

// writeStatus writes a State for people.
func writeStatus(out io.Writer, s status.State) error {
	t := console.NewTable(out)
	health := string(s.Health)
	if s.Paused {
		health += ", paused"
	}
	if s.Reason != "" {
		health += ": " + console.Brief(s.Reason)
	}
	t.Line("%s on %s: %s", s.Project, console.OrDash(s.Cluster), health)
	if len(s.Part) > 0 {
		t.Line("only %s, and what they need", strings.Join(s.Part, ", "))
	}
	if s.Away != nil {
		if s.Away.Hint != "" {
			t.Line("  → %s", s.Away.Hint)
		}
		t.Line("what is in the cluster is unknown since %s ago", console.Age(s.Away.Since))
	}
	if s.Page != "" {
		t.Line("%s", s.Page)
	}
	if s.Chain != nil && s.Chain.Error == "" && !s.Chain.Outdated {
		t.Line("what runs was proven %s ago: devloop status --chain", console.Age(s.Chain.Checked))
	}
	writeReleases(t, s)
	writeClusters(t, s.Clusters)
	writeForwards(t, s.Forwards)
	writeRuns(t, s.Runs)
	writeImages(t, s.Images)
	writeLibraries(t, s.Libraries)
	writePods(t, s)
	return t.Flush()
}

func writeReleases(t *console.Table, s status.State) {
	t.Header("RELEASE", "NAMESPACE", "REVISION", "STATE", "PODS READY", "CHANGED")
	for _, r := range s.Releases {
		ready, all := 0, 0
		for _, p := range s.Pods {
			if ended := p.Phase != "Pending" && p.Phase != "Running"; p.Release != r.Name || ended {
				continue
			}
			if all++; p.Ready {
				ready++
			}
		}
		pods, changed := fmt.Sprintf("%d/%d", ready, all), ""
		if s.Away != nil {
			pods = "unknown"
		}
		if r.State != "" {
			changed = console.Age(r.Changed) + " ago"
		}
		t.Row(r.Name, r.Namespace, r.Revision, r.State, pods, changed)
	}
}

func writeForwards(t *console.Table, forwards []status.Forward) {
	t.Header("FORWARD", "TO", "STATE", "CONNECTIONS", "SENT", "RECEIVED")
	for _, f := range forwards {
		connections := fmt.Sprintf("%d open", f.Open)
		if f.Waiting > 0 {
			connections += fmt.Sprintf(", %d held", f.Waiting)
		}
		t.Row(cmp.Or(f.URL, f.Local), f.Target, f.State, connections, console.Size(uint64(f.Sent)),
			console.Size(uint64(f.Received)))
	}
}

// shownRuns is how many of the last runs are listed.
const shownRuns = 5

func writeRuns(t *console.Table, runs []status.Run) {
	t.Header("RUN", "ENDED", "WHY", "OUTCOME")
	for _, r := range slices.Backward(runs[max(0, len(runs)-shownRuns):]) {
		outcome := string(r.Outcome) + " after " + console.Took(r.Took())
		if r.Error != "" {
			outcome += ": " + console.Brief(r.Error)
		}
		why := cmp.Or(r.Changes.String(), r.Files, r.Why)
		t.Row(r.Number, console.Age(r.Ended())+" ago", console.Brief(why), outcome)
	}
}

func writeImages(t *console.Table, images []status.Image) {
	t.Header("IMAGE", "STATE", "TAG", "ON THE NODES")
	for _, i := range images {
		var nodes []string
		for _, n := range i.Nodes {
			nodes = append(nodes, n.Node+" "+build.ShortID(n.ID))
		}
		state := string(i.State)
		if i.State == status.ImageBuilding && i.Total > 0 {
			state += fmt.Sprintf(" %d/%d", i.Done, i.Total)
		}
		tag := i.Tag
		if i.Synced != nil {
			tag += fmt.Sprintf(" + files of run %d", i.Synced.Run)
			if i.Synced.Renewed != "" {
				state += ", rollout pending (r)"
			}
		}
		t.Row(i.Name, state, tag, strings.Join(nodes, ", "))
	}
}

func writePods(t *console.Table, s status.State) {
	t.Header("POD", "OF", "READY", "STATE", "RESTARTS", "AGE")
	for _, p := range s.Pods {
		ready, state := "no", p.Phase
		switch {
		case p.Ready:
			ready = "yes"
		case s.Away != nil:
			ready = "unknown"
		}
		if p.Reason != "" {
			state += ": " + console.Brief(p.Reason)
		}
		t.Row(p.Name, cmp.Or(p.Release, p.Group), ready, state, p.Restarts, console.Age(p.Created))
	}
}
