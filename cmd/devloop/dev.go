// devloop: the loop itself, from an empty cluster to Ctrl+C.
package main

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/pods"
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
	shown, err := console.NewPodFilter(d.logPods, d.logLevel)
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

	s, leave, err := enter(ctx, p.session())
	if err != nil {
		if ctx.Err() != nil { // Ctrl+C before anything was deployed
			return nil
		}
		return err
	}
	p.patience.session.Store(s)
	defer func() { err = errors.Join(err, leave()) }()
	answered := v.asking.Answer(s.answers())
	defer answered()
	sink := p.sink
	s.watcher, err = watch.New(sink, watch.Options{Mode: d.mode, Quiet: p.config.Watch.Quiet, Limit: p.config.Watch.Limit})
	if err != nil {
		return console.EnvironmentError{Err: err}
	}
	asking := &requests{session: s, say: sink.For("devloop"), batches: s.watcher.Batches(), reload: p.reload, quit: p.patience.enough,
		asked: v.asked, shown: &p.printer.ShownPods, filter: shown}
	changes := make(chan loop.Change)
	var running sync.WaitGroup
	defer running.Wait()
	defer p.stop()
	keep := func(ctx context.Context, stage, what string, work func(context.Context)) {
		running.Go(func() { sink.For(stage).Keep(ctx, what, work) })
	}
	keep(ctx, "watch", "watcher", func(ctx context.Context) {
		if err := s.watcher.Run(ctx); err != nil {
			sink.For("watch").Warn("changes are no longer seen", err)
		}
	})
	following, unfollow := context.WithCancel(context.WithoutCancel(ctx)) // pods are worth a look also while they end
	defer unfollow()
	running.Go(func() { pods.Follow(following, s.cluster.Client, sink, s.pods, s.prover.replaced) })
	keep(ctx, "proof", "proof", func(ctx context.Context) { s.prover.run(ctx, sink) })
	keep(ctx, "local", "requirements", s.syncer.run)
	keep(ctx, "proof", "libraries", s.libraries.run)
	sink.For("loop").Note(event.DevloopStarted, "project", event.Name(p.config.Name),
		"cluster", event.Name(s.cluster.Context),
		"folder", event.Name(p.config.Dir))
	if v.page != nil {
		asking.say.Note(event.PageOpens, "url", event.Name(v.page.String())) // shown whole, with its token
	}
	if d.logs {
		asking.toggleLogs()
	}
	if k := console.OpenKeyboard(ctx, os.Stdin, os.Stderr, p.printer, asking.say); k != nil {
		p.patience.keyboard.Store(k)
		defer k.Close()
		asking.keys = k.Keys
		asking.say.Note("keys", "help", "?")
	}
	keep(ctx, "devloop", "control", func(ctx context.Context) { asking.run(ctx, changes) })
	broken := sink.For("loop").Contain("loop", func() { loop.New(s.load, watching{s.watcher}, changes, sink).Run(ctx) })
	if broken != nil { // it cannot go on, but nothing is left behind
		broken = console.ReportedError{Err: broken}
		p.patience.enough() // as a first Ctrl+C: another one cuts the clean-up short
	}

	answered() // what it has started for an answer is no longer there
	if !d.cleanup {
		sink.For("cleanup").Note("everything stays as it is", "remove it with", "devloop delete")
		return broken
	}
	return errors.Join(broken, s.cleanup(context.WithoutCancel(ctx), "Ctrl+C again", deploy.Removal{}))
}

// watching is the watcher as the loop has it.
type watching struct{ *watch.Watcher }

func (w watching) Watch(paths []loop.Path) error {
	list := make([]watch.Path, len(paths))
	for i, path := range paths {
		list[i] = watch.Path(path)
	}
	return w.Watcher.Watch(list)
}
