// devloop delete: the clean-up alone, for what an earlier devloop left.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
)

func newDeleteCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "delete",
		Short:   "Remove what devloop deployed for this project",
		Example: "  devloop delete  # after --cleanup=false, or when devloop was killed",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := config.Load(o.source())
			if err != nil {
				return err
			}
			out := newLogger(os.Stderr, o.verbose)
			defer out.close()
			ctx, patience, stop := interruptible(cmd.Context())
			defer stop()
			s, err := openSession(ctx, o.source(), c, event.Sink(out.sink))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.close()) }()
			patience.journal.Store(s.journal)
			return s.cleanup(context.WithoutCancel(ctx))
		},
	}
}
