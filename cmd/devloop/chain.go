// devloop status --chain: each image from the hash of its inputs to who uses it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// showChain has the devloop that is meant look now. While a run changes what runs, it shows what the last look has found, and says so.
func showChain(ctx context.Context, o *options, out io.Writer, asJSON bool) error {
	r, err := findRunning(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	var chain status.Chain
	if err := r.ask(ctx, "chain", &chain); err != nil {
		if r.state.Chain == nil {
			return event.WithHint(fmt.Errorf("the chain cannot be looked at: %w", err), "wait until the first run is done: devloop status --wait healthy")
		}
		chain = *r.state.Chain
		if !asJSON {
			_, _ = fmt.Fprintf(out, "as it was %s ago, since %v\n\n", age(chain.Checked), err) // what follows tells
		}
	}
	write := writeChain
	if asJSON {
		write = func(out io.Writer, chain status.Chain) error { return writeJSON(out, chain) }
	}
	if err := write(out, chain); err != nil {
		return err
	}
	if chain.Error != "" {
		return event.WithHint(errors.New(chain.Error), chain.Hint)
	}
	return nil
}

// places are the kinds of links in words.
var places = map[event.Place]string{
	event.AtInputs: "inputs", event.AtBuild: "built", event.AtRegistry: "in the registry", event.AtNode: "on node", event.AtPod: "in pod", event.AtGateway: "for new clusters of",
}

func writeChain(to io.Writer, chain status.Chain) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	image := ""
	for _, l := range chain.Links {
		if l.Image != image {
			if image != "" {
				_, _ = fmt.Fprintln(out) // Flush tells
			}
			image = l.Image
			_, _ = fmt.Fprintf(out, "%s\t\t\t\n", image)
		}
		state := "ok"
		if l.Broken() {
			state = "BROKEN: it should be " + shortID(l.Want)
		}
		_, _ = fmt.Fprintf(out, "  %s %s\t%s\t%s\n", places[l.Place], l.Name, shortID(l.Is), state)
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
