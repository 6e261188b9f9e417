// devloop run: one turn of the loop, for scripts and CI.
package main

import (
	"context"
	"errors"
	"sync"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
)

func newRunCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Bring the cluster to the state of the files once, and exit",
		Long: `Builds, loads, tries (verify) and deploys what differs, waits until the platform answers and what runs is what is on the disk, and exits:
with 0 if all of that went well. What was deployed stays; the forwards are open only until then. devloop skew compares the libraries.`,
		Example: "  devloop run && pytest; devloop delete",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runOnce(cmd.Context(), o) },
	}
	o.registerAdopt(cmd)
	return cmd
}

func runOnce(ctx context.Context, o *options) (err error) {
	ctx, p, err := o.begin(ctx)
	if err != nil {
		return err
	}
	defer p.end()
	interrupted := event.WithHint(console.ErrInterrupted, "what was deployed stays; devloop delete removes it")

	s, leave, err := enter(ctx, p.session())
	if err != nil {
		if ctx.Err() != nil {
			return console.ErrInterrupted
		}
		return err
	}
	p.patience.session.Store(s)
	defer func() { err = errors.Join(err, leave()) }()
	installing, end := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { p.sink.For("local").Keep(installing, "requirements", s.syncer.run) })
	err = loop.New(s.load, unwatched{}, nil, p.sink).Once(ctx)
	_ = s.syncer.wait(ctx) // what went wrong was told
	end()
	running.Wait()
	switch {
	case ctx.Err() != nil:
		return interrupted
	case err != nil:
		return console.ReportedError{Err: err}
	}
	return nil
}

// unwatched is for a loop of one turn.
type unwatched struct{}

func (unwatched) Watch([]loop.Path) error { return nil }
