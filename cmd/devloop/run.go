package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/session"
)

func newRunCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "run [release...]",
		Aliases: []string{"deploy"},
		Short:   "Bring the cluster to the state of the files once, and exit",
		Long: `Builds, loads, tries (verify) and deploys what differs, waits until the platform answers and what
runs is what is on the disk, and exits: with 0 if all of that went well. What was deployed stays; the forwards
are open only until then. devloop skew compares the libraries.

With names of releases, all of that is about these, those that they depend on, and the images that they need.`,
		Example: `  devloop run && pytest; devloop delete
  devloop run web`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := o.selectReleases(cmd, names); err != nil {
				return err
			}
			return runOnce(cmd.Context(), o)
		},
	}
	o.registerAdopt(cmd)
	o.registerOnly(cmd, "deploy only these `releases` and those that they depend on")
	return cmd
}

func runOnce(ctx context.Context, o *options) error {
	return o.run(ctx, func(ctx context.Context, p *process) (err error) {
		if err := p.alreadyRuns(ctx); err != nil {
			return err
		}
		s, leave, err := session.Open(ctx, p.session())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, leave()) }()
		err = s.Once(ctx)
		switch {
		case ctx.Err() != nil:
			return event.WithHint(console.ErrInterrupted, "what was deployed stays; devloop delete removes it")
		case err != nil:
			return console.ReportedError{Err: err}
		}
		return nil
	})
}
