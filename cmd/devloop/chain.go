package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// showChain has the selected devloop check its chain. The error says where it is broken, or why
// what runs need not be what is on the disk: the last run failed, or one is under way.
func showChain(ctx context.Context, o *options, cmd *cobra.Command, asJSON bool) error {
	c, err := o.selection().Find(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var chain status.Chain
	notChecked := c.Ask(ctx, "chain", &chain)
	if notChecked != nil {
		if c.State.Chain == nil {
			return event.WithHint(fmt.Errorf("the chain cannot be looked at: %w", notChecked),
				"wait until the first run is done: devloop status --wait healthy")
		}
		chain = *c.State.Chain
	}
	if chain.Error == "" {
		chain.Error, chain.Hint = behind(c.State)
	}
	if chain.Error == "" && notChecked != nil {
		chain.Error = "the chain cannot be looked at now: " + notChecked.Error()
		chain.Hint = "what is shown is what was found last"
	}
	if asJSON {
		err = printJSON(cmd, chain)
	} else {
		err = writeChain(cmd.OutOrStdout(), chain)
	}
	if err == nil && chain.Error != "" {
		err = event.WithHint(errors.New(chain.Error), chain.Hint)
	}
	return err
}

// behind returns why what runs need not be what is on the disk though the chain is complete.
func behind(s status.State) (problem, hint string) {
	switch s.Health {
	case status.Failed:
		return "what is on the disk does not run, the last run failed: " + console.Brief(s.Reason),
			"this is what ran before; fix the files and save"
	case status.Working, status.Starting:
		return "what is on the disk does not run yet, a run is under way", "devloop status --wait healthy"
	case status.Ending:
		return "devloop is ending", "start it again: devloop"
	case status.Healthy, status.Degraded: // the chain shows which pod is not ready
	}
	return "", ""
}

var placeNames = map[event.Place]string{
	event.AtInputs: "inputs", event.AtBuild: "built", event.AtRegistry: "in the registry", event.AtNode: "on node",
	event.AtRelease: "named by", event.AtPod: "in pod", event.AtFiles: "files of", event.AtGateway: "for new clusters of",
}

func writeChain(out io.Writer, chain status.Chain) error {
	t := console.NewTable(out)
	if time.Since(chain.Checked) > time.Second {
		t.Line("as it was %s ago", console.Age(chain.Checked))
	}
	if len(chain.Links) == 0 {
		t.Line("no image of this project is known to run")
	}
	image := event.Name("")
	for _, l := range chain.Links {
		if l.Image != image {
			image = l.Image
			t.Header(image)
		}
		place, state := placeNames[l.Place], "ok"
		switch {
		case l.Place == event.AtFiles && l.Name == "":
			place = "synced files"
		case l.SyncedInto != "":
			state = fmt.Sprintf("ok: %s:%s with the synced files", l.Image, l.SyncedInto)
		case l.Place == event.AtFiles && len(l.Differ) > 0:
			state = "BROKEN: " + l.Differing()
		case l.Broken():
			state = "BROKEN: it should be " + shortID(l.Want)
		case l.NotReplaced:
			state = "older than " + shortID(l.Want) + ", nothing replaces it"
		}
		t.Row(strings.TrimRight(fmt.Sprintf("  %s %s", place, l.Name), " "), shortID(l.Is), state)
	}
	return t.Flush()
}

// shortID shortens an ID so that it can be compared by eye. Other texts stay as they are.
func shortID(text string) string {
	if strings.HasPrefix(text, "sha256:") {
		return build.ShortID(text)
	}
	return text
}
