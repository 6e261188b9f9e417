package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/proof"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/status"
)

func newSkewCommand(o *options) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:         "skew",
		Annotations: map[string]string{observes: "yes"},
		Short:       "Check whether the images and this machine hold the same Python libraries",
		Long: `Compares what the images hold, and the Python environment on this machine (local.venv in
devloop.yaml, else VIRTUAL_ENV, else .venv), by the names and versions of the libraries. The devloop that runs
in another terminal knows what the images hold; if none runs, a short-lived pod of each image is asked. Nothing
is changed.

Exit codes: 0 the same, 1 something differs, 2 your input is wrong, 3 no cluster, or images are missing there.`,
		Example: `  devloop skew && python analysis.py
  devloop skew --json | jq -r '.differences[] | "\(.library) \(.versions)"'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var c event.Comparison
			err := o.run(cmd.Context(), func(ctx context.Context, p *process) (err error) {
				c, err = skew(ctx, o, p)
				return err
			})
			if err != nil {
				return err
			}
			if err := writeSkew(cmd, c, asJSON); err != nil {
				return err
			}
			if !c.Same() {
				return console.ReportedError{Err: errors.New("libraries differ")}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeSkew(cmd *cobra.Command, c event.Comparison, asJSON bool) error {
	if asJSON {
		return printJSON(cmd, struct {
			Same bool `json:"same"`
			event.Comparison
		}{c.Same(), c})
	}
	t := console.NewTable(cmd.OutOrStdout())
	if c.Same() {
		t.Line("%s", strings.Replace(sameIn(c), " in ", " libraries in ", 1))
	} else {
		t.Differences("library", c, 0)
	}
	return t.Flush()
}

// skew compares all places now.
func skew(ctx context.Context, o *options, p *process) (c event.Comparison, err error) {
	here, found, err := session.LocalLibraries(p.config) // first: it is quick, and its errors are the user's
	if err != nil {
		return c, console.EnvironmentError{Err: err}
	}
	places, err := imageLibraries(ctx, o, p)
	switch {
	case err != nil:
		return c, err
	case len(places) == 0:
		return c, usageError("name them: local.images in devloop.yaml", "it is not known which images have to hold "+
			"the same libraries: none holds Dask, or no Dask Gateway runs")
	case found:
		places = append(places, here)
	case len(places) == 1:
		return c, console.EnvironmentError{Err: event.WithHint(
			errors.New("there is nothing to compare image "+places[0].Place+" with: "+session.WhyNoVenv),
			"make an environment, or name it in devloop.yaml: local.venv")}
	default:
		p.sink.Stage("proof").Note("no Python environment of this machine is compared", "why", session.WhyNoVenv)
	}
	return proof.Compare(places), nil
}

// imageLibraries asks the devloop that runs what the images hold, or else the images themselves.
func imageLibraries(ctx context.Context, o *options, p *process) (list []proof.Libraries, err error) {
	running, err := o.selection().Find(ctx)
	switch {
	case err == nil:
		defer running.Close()
		if err := running.Ask(ctx, "libraries", &list); err != nil {
			return nil, console.EnvironmentError{Err: event.WithHint(fmt.Errorf("ask the devloop that runs: %w", err),
				"see how it is: devloop status")}
		}
		return list, nil
	case !is[control.NotRunningError](err):
		return nil, err
	}
	target, err := session.HashImages(ctx, p.config)
	if err != nil || len(target.Images) == 0 {
		return nil, err
	}
	s, err := session.OpenWithoutForwards(ctx, p.session())
	if err != nil {
		return nil, err
	}
	list, err = s.AskImages(ctx, target)
	return list, errors.Join(err, s.Close())
}

// writeLibraries writes the last comparison, for devloop status.
func writeLibraries(t *console.Table, l *status.Libraries) {
	if l == nil || len(l.Places) < 2 {
		return
	}
	c := event.Comparison{Places: l.Places, Libraries: l.Libraries, Differences: l.Differences}
	if !c.Same() {
		t.Differences("LIBRARY", c, console.LoggedDifferences)
		return
	}
	t.Header("LIBRARIES")
	t.Row(sameIn(c) + ", " + console.Age(l.Compared) + " ago")
}

func sameIn(c event.Comparison) string {
	last := len(c.Places) - 1
	return fmt.Sprintf("the same %d in %s and %s", c.Libraries, strings.Join(c.Places[:last], ", "), c.Places[last])
}
