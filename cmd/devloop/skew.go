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

// skewOptions are the flags of devloop skew.
type skewOptions struct{ asJSON, imagesOnly, fix bool }

func newSkewCommand(o *options) *cobra.Command {
	var flags skewOptions
	cmd := &cobra.Command{
		Use:         "skew",
		Annotations: map[string]string{observes: "yes"},
		Short:       "Check whether the images and this machine hold the same Python libraries",
		Long: `Compares what the images hold, and the Python environment on this machine, by the names and
versions of the libraries. The environment is local.venv of devloop.yaml, else the active one (VIRTUAL_ENV,
CONDA_PREFIX), else the project's own (.venv, Poetry, Pipenv, Hatch, pyenv); the output names it. The devloop
that runs in another terminal knows what the images hold; if none runs, a short-lived pod of each image is
asked. Packages whose files are synced must not be installed as well: Python could import the others. Nothing is
changed, unless --fix is given: it installs what the images hold into the environment.

Exit codes: 0 the same, 1 something differs or could not be installed, 2 your input is wrong, 3 nothing on this
machine was compared (no environment, without Python, empty, or unreadable), no cluster, or images are missing
there.`,
		Example: `  devloop skew && python report.py
  devloop skew --fix               # this machine gets the images' versions
  devloop skew --images-only       # in CI: the images with each other
  devloop skew --json | jq -r '.differences[] | "\(.library) \(.versions)"'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.imagesOnly && flags.fix {
				return usageError(cmd.CommandPath()+" --help", "--images-only leaves this machine out, and --fix changes it")
			}
			var found skew
			err := o.run(cmd.Context(), func(ctx context.Context, p *process) (err error) {
				found, err = compareAll(ctx, o, p, flags)
				return err
			})
			if err != nil {
				return err
			}
			if err := found.write(cmd, flags.asJSON); err != nil {
				return err
			}
			if !found.Same {
				return console.ReportedError{Err: errors.New("libraries differ")}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&flags.asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&flags.imagesOnly, "images-only", false, "compare the images with each other only")
	cmd.Flags().BoolVar(&flags.fix, "fix", false, "first install what the images hold into this machine's environment")
	return cmd
}

// skew is a comparison of all places, with the environment of this machine, nil without it.
type skew struct {
	Same        bool           `json:"same"`
	Environment *session.Local `json:"environment,omitempty"`
	event.Comparison
	Shadowed []proof.Shadow `json:"shadowed,omitempty"`
}

func (s skew) write(cmd *cobra.Command, asJSON bool) error {
	if asJSON {
		return printJSON(cmd, s)
	}
	t := console.NewTable(cmd.OutOrStdout())
	if s.Environment != nil {
		t.Line("this machine: %s", s.Environment)
	}
	switch {
	case !s.Comparison.Same():
		t.Differences("library", s.Comparison, 0)
	case len(s.Places) == 1:
		t.Line("only image %s holds Python: there is nothing that it could differ from", s.Places[0])
	default:
		t.Line("%s", strings.Replace(sameIn(s.Comparison), " in ", " libraries in ", 1))
	}
	for _, shadow := range s.Shadowed {
		t.Line("%s", shadow)
	}
	return t.Flush()
}

// compareAll compares all places now.
func compareAll(ctx context.Context, o *options, p *process, flags skewOptions) (s skew, err error) {
	if !flags.imagesOnly { // first: it is quick, and its errors are the user's
		if s.Environment, err = session.FindLocal(p.config); err != nil {
			if is[session.NoLocalError](err) && !flags.fix {
				err = event.WithHint(err, event.Hint(err)+"; the images alone: devloop skew --images-only")
			}
			return s, console.EnvironmentError{Err: err}
		}
		if s.Environment.Libraries(nil).IsEmpty() && !flags.fix {
			return s, console.EnvironmentError{Err: event.WithHint(
				fmt.Errorf("nothing on this machine is compared: nothing is installed in %s", s.Environment),
				"install what the images hold: devloop skew --fix")}
		}
	}
	places, err := imageLibraries(ctx, o, p)
	if err == nil && len(places) == 0 {
		err = usageError("name them: "+p.config.WhereToSet("local.images"), "it is not known which images have to hold "+
			"the same libraries: none holds Dask, or no Dask Gateway runs")
	}
	if err == nil && flags.fix {
		if err = session.SyncLocal(ctx, p.sink, p.config, places); err == nil {
			s.Environment, err = session.FindLocal(p.config)
		}
	}
	if err != nil {
		return s, err
	}
	if s.Environment != nil {
		places = append(places, s.Environment.Libraries(places))
	}
	s.Comparison, s.Shadowed = proof.Compare(places), proof.Shadowed(places)
	s.Same = s.Comparison.Same() && len(s.Shadowed) == 0
	return s, nil
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
	about := console.Age(l.Compared) + " ago"
	if l.Outdated {
		about += ", with the images before"
	}
	if !c.Same() {
		t.Differences("LIBRARY", c, console.LoggedDifferences)
		if l.Outdated {
			t.Line("compared %s", about)
		}
		return
	}
	t.Header("LIBRARIES")
	t.Row(sameIn(c) + ", " + about)
}

func sameIn(c event.Comparison) string {
	last := len(c.Places) - 1
	return fmt.Sprintf("the same %d in %s and %s", c.Libraries, strings.Join(c.Places[:last], ", "), c.Places[last])
}
