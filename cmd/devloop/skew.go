// devloop skew: whether the images and the environment on this machine hold the same Python libraries, for people and for scripts.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
		Annotations: map[string]string{ofAnother: "yes"},
		Short:       "Tell whether the images and this machine hold the same Python libraries",
		Long: `Compares what the images hold, and the Python environment on this machine (local.venv in devloop.yaml, else VIRTUAL_ENV, else .venv), by
the names and versions of the libraries. What the images hold is known by the devloop that runs in another terminal; if none does, a short
pod of each image is asked. Nothing is changed.

Exit codes: 0 the same, 1 something differs, 2 your input is wrong, 3 no cluster, or it lacks the images.`,
		Example: `  devloop skew && python analysis.py
  devloop skew --json | jq -r '.differences[] | "\(.library) \(.versions)"'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := skew(cmd.Context(), o)
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
		return writeJSON(dataOut(cmd), struct {
			Same bool `json:"same"`
			event.Comparison
		}{c.Same(), c})
	}
	text := console.DifferenceTable(c, 0)
	if c.Same() {
		text = strings.Replace(sameIn(c), " in ", " libraries in ", 1)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

// skew compares all places now.
func skew(ctx context.Context, o *options) (c event.Comparison, err error) {
	ctx, p, err := o.begin(ctx)
	if err != nil {
		return c, err
	}
	defer p.end()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = console.ErrInterrupted
		}
	}()
	here, found, err := session.LocalLibraries(p.config) // before a cluster is asked: it is quick, and its mistakes are the user's
	if err != nil {
		return c, console.EnvironmentError{Err: err}
	}
	places, err := imagesForSkew(ctx, o, p)
	switch {
	case err != nil:
		return c, err
	case len(places) == 0:
		return c, console.UsageError{Err: event.WithHint(errors.New("it is not known which images have to hold the same libraries: none holds Dask, or no Dask Gateway runs"), "name them: local.images in devloop.yaml")}
	case found:
		places = append(places, here)
	case len(places) == 1:
		return c, console.EnvironmentError{Err: event.WithHint(errors.New("there is nothing to compare image "+places[0].Place+" with: "+session.WhyNoVenv), "make an environment, or name it in devloop.yaml: local.venv")}
	default:
		p.sink.For("proof").Note("no Python environment of this machine is compared", "why", session.WhyNoVenv)
	}
	return proof.Compare(places), nil
}

// imagesForSkew returns what the images hold, as the devloop knows it that runs, or else as they say themselves.
func imagesForSkew(ctx context.Context, o *options, p *process) ([]proof.Libraries, error) {
	r, err := o.selection().Find(ctx)
	var none control.NotRunningError
	switch {
	case err == nil:
		defer r.Close()
		var list []proof.Libraries
		if err := r.Ask(ctx, "libraries", &list); err != nil {
			return nil, console.EnvironmentError{Err: event.WithHint(fmt.Errorf("ask the devloop that runs: %w", err), "see how it is: devloop status")}
		}
		return list, nil
	case !errors.As(err, &none):
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
	list, err := s.AskImages(ctx, target)
	return list, errors.Join(err, s.Close())
}

// writeLibraries writes what came of the last comparison, for devloop status.
func writeLibraries(out io.Writer, l *status.Libraries) {
	if l == nil || len(l.Places) < 2 {
		return
	}
	c := event.Comparison{Places: l.Places, Libraries: l.Libraries, Differences: l.Differences}
	if c.Same() {
		_, _ = fmt.Fprintf(out, "\nLIBRARIES\n%s, %s ago\n", sameIn(c), console.Age(l.Compared)) // who flushes the table is told
		return
	}
	table := strings.Replace(console.DifferenceTable(c, console.LoggedDifferences), "library", "LIBRARY", 1)
	_, _ = fmt.Fprintf(out, "\n%s\n", table)
}

// sameIn says that nothing differs.
func sameIn(c event.Comparison) string {
	last := len(c.Places) - 1
	return fmt.Sprintf("the same %d in %s and %s", c.Libraries, strings.Join(c.Places[:last], ", "), c.Places[last])
}
