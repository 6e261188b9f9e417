// devloop delete: the clean-up alone, for what an earlier devloop left.
package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

func newDeleteCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "delete",
		Short:   "Remove what devloop deployed for this project",
		Example: "  devloop delete  # after --cleanup=false, or when devloop was killed",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx, p, err := o.begin(cmd.Context())
			if err != nil {
				return err
			}
			defer p.end()
			s, err := openSession(ctx, p)
			if err != nil {
				if ctx.Err() != nil {
					return errInterrupted
				}
				return err
			}
			defer func() { err = errors.Join(err, s.close()) }()
			return s.cleanup(context.WithoutCancel(ctx), "Ctrl+C twice")
		},
	}
}
