// devloop: the loop itself, from an empty cluster to Ctrl+C.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/watch"
)

// devOptions are the flags of devloop itself.
type devOptions struct {
	cleanup  bool
	mode     watch.Mode
	page     bool
	pagePort int // -1: as the configuration says
	logs     bool
	logPods  string
	logLevel string
}

// dev runs until it is interrupted. What starts first ends last: the forwards are bound before anything is deployed, and
// closed after everything was removed.
func dev(ctx context.Context, o *options, d devOptions) (err error) {
	filter, err := console.NewPodFilter(d.logPods, d.logLevel)
	if err != nil {
		return err
	}
	ctx, p, err := o.beginLasting(ctx)
	if err != nil {
		return err
	}
	defer p.end()
	v, err := p.openViews(ctx, d)
	if err != nil {
		return err
	}
	defer v.close() //nolint:contextcheck // it is closed when ctx has ended

	s, leave, err := session.Open(ctx, p.session())
	if err != nil {
		if ctx.Err() != nil { // Ctrl+C before anything was deployed
			return nil
		}
		return err
	}
	p.patience.session.Store(s)
	defer func() { err = errors.Join(err, leave()) }()
	answered := v.Answer(s.Answers())
	defer answered()
	note := p.sink.For("devloop")
	p.sink.For("loop").Note(event.DevloopStarted, event.DevloopStart{Project: event.Name(p.config.Name),
		Cluster: event.Name(s.KubeContext()), Folder: event.Name(p.config.Dir)})
	if v.page != nil {
		note.Note(event.PageOpens, event.Page{URL: event.Name(v.page.String())})
	}
	in := session.Inputs{Reload: p.reload, Requests: v.Requests(), Quit: p.patience.enough, Logs: d.logs,
		ShowPods: func(show bool) {
			if show {
				p.printer.SetPodFilter(filter)
			} else {
				p.printer.SetPodFilter(nil)
			}
		}}
	if k := console.OpenKeyboard(ctx, os.Stdin, os.Stderr, p.printer, note); k != nil {
		p.patience.keyboard.Store(k)
		defer k.Close()
		in.Keys = k.Keys()
		note.Note("keys", "help", "?")
	}
	broken := s.Run(ctx, d.mode, in)
	if broken != nil { // it cannot go on, but nothing is left behind
		p.patience.enough() // as a first Ctrl+C: another one cuts the clean-up short
	}

	answered() // what it has started for an answer is no longer there
	if !d.cleanup {
		p.sink.For("cleanup").Note("everything stays as it is", "remove it with", "devloop delete")
		return broken
	}
	return errors.Join(broken, s.Cleanup(context.WithoutCancel(ctx), "Ctrl+C again", deploy.Removal{}))
}
