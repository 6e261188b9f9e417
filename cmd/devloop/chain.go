// devloop status --chain: each image from the hash of its inputs to who uses it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// showChain has the devloop that is meant look now. The error is that of a broken chain; or why what runs need not be what is on the disk: the last
// run failed, or one is under way.
func showChain(ctx context.Context, o *options, cmd *cobra.Command, asJSON bool) error {
	r, err := o.selection().Find(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	var chain status.Chain
	notLooked := r.Ask(ctx, "chain", &chain)
	if notLooked != nil {
		if r.State.Chain == nil {
			return event.WithHint(fmt.Errorf("the chain cannot be looked at: %w", notLooked), "wait until the first run is done: devloop status --wait healthy")
		}
		chain = *r.State.Chain
	}
	if chain.Error == "" {
		chain.Error, chain.Hint = behind(r.State)
	}
	if chain.Error == "" && notLooked != nil {
		chain.Error, chain.Hint = "the chain cannot be looked at now: "+notLooked.Error(), "what is shown is what was found last"
	}
	if asJSON {
		err = printJSON(cmd, chain)
	} else {
		err = writeChain(cmd.OutOrStdout(), chain)
	}
	if err != nil {
		return err
	}
	if chain.Error != "" {
		return event.WithHint(errors.New(chain.Error), chain.Hint)
	}
	return nil
}

// behind tells why what runs need not be what is on the disk though the chain of it is whole.
func behind(s status.State) (problem, hint string) {
	switch s.Health {
	case status.Failed:
		return "what is on the disk does not run, the last run failed: " + console.Brief(s.Reason), "this is what ran before; mend the files and save"
	case status.Working, status.Starting:
		return "what is on the disk does not run yet, a run is under way", "devloop status --wait healthy"
	case status.Ending:
		return "devloop is ending", "start it again: devloop"
	case status.Healthy, status.Degraded: // of a pod that is not ready, the chain tells what it is
	}
	return "", ""
}

// places are the kinds of links in words.
var places = map[event.Place]string{
	event.AtInputs: "inputs", event.AtBuild: "built", event.AtRegistry: "in the registry", event.AtNode: "on node", event.AtPod: "in pod", event.AtGateway: "for new clusters of",
}

func writeChain(to io.Writer, chain status.Chain) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	if old := time.Since(chain.Checked); old > time.Second {
		_, _ = fmt.Fprintf(out, "as it was %s ago\n\n", console.Age(chain.Checked)) // Flush tells
	}
	if len(chain.Links) == 0 {
		_, _ = fmt.Fprintln(out, "no image of this project is known to run")
	}
	image := event.Name("")
	for _, l := range chain.Links {
		if l.Image != image {
			if image != "" {
				_, _ = fmt.Fprintln(out)
			}
			image = l.Image
			_, _ = fmt.Fprintln(out, event.Printable(string(image)))
		}
		state := "ok"
		switch {
		case l.Broken():
			state = "BROKEN: it should be " + shortID(l.Want)
		case l.Older:
			state = "older than " + shortID(l.Want) + ", nothing replaces it"
		}
		_, _ = fmt.Fprintf(out, "  %s %s\t%s\t%s\n", places[l.Place], event.Printable(string(l.Name)),
			event.Printable(shortID(l.Is)), event.Printable(state))
	}
	return out.Flush()
}

// shortID is an ID that can be compared by eye. What is none is left as it is.
func shortID(text string) string {
	if strings.HasPrefix(text, "sha256:") {
		return build.ShortID(text)
	}
	return text
}
