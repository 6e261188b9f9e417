package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/watch"
)

// newLoopCommand returns devloop itself.
func newLoopCommand(o *options) *cobra.Command {
	var once bool
	var d devOptions
	cmd := &cobra.Command{
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := o.selectReleases(cmd, names); err != nil {
				return err
			}
			if once {
				return runOnce(cmd.Context(), o)
			}
			return dev(cmd.Context(), o, d)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "the same as devloop run: one run, and what was deployed stays")
	o.registerAdopt(cmd)
	o.registerOnly(cmd, "deploy only these `releases` and those that they depend on")
	d.register(cmd)
	return cmd
}

// devOptions are the flags of devloop itself.
type devOptions struct {
	cleanup  bool
	mode     watch.Mode
	page     bool
	pagePort port // negative: the configuration's
	logs     bool
	logPods  podPattern
	logLevel string
}

func (d *devOptions) register(root *cobra.Command) {
	d.mode, d.pagePort = watch.Auto, -1
	flags := root.Flags()
	flags.BoolVar(&d.cleanup, "cleanup", true, "remove what was deployed when devloop ends")
	flags.BoolVar(&d.page, "page", true, "show the state on a page on 127.0.0.1")
	flags.Var(&d.pagePort, "page-port",
		"the page's port, instead of page.port in the configuration; 0 takes 10360, or a free one")
	flags.BoolVar(&d.logs, "logs", false, "show the logs of the pods from the start, as the key l does")
	flags.Var(&d.logPods, "log-pods",
		"show only pods whose name, or name/container, matches this regular expression")
	flags.Var(choice[string]{&d.logLevel, "level", console.LogLevels}, "log-level",
		"show only lines of pods of this level or above: "+strings.Join(console.LogLevels, ", "))
	flags.Var(choice[watch.Mode]{&d.mode, "mode", watchModes}, "watch",
		"how file changes are seen: by events of the kernel, by polling (poll), or by what works (auto)")
	completeFlag(root, "watch", oneOf(watchModes))
	completeFlag(root, "log-level", oneOf(console.LogLevels))
}

var watchModes = []string{string(watch.Auto), string(watch.Events), string(watch.Poll)}

// dev runs the loop until Ctrl+C. What starts first ends last: the forwards are bound before
// anything is deployed, and closed after everything was removed.
func dev(ctx context.Context, o *options, d devOptions) (err error) {
	filter, err := console.NewPodFilter(string(d.logPods), d.logLevel)
	if err != nil {
		return err
	}
	reload := make(chan struct{}, 1)
	ctx, p, err := o.begin(ctx, reload)
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
	defer func() { err = errors.Join(err, leave()) }()
	if err := s.OpenWatcher(d.mode); err != nil {
		return err
	}
	endAnswers := v.Answer(s.Answers())
	defer endAnswers()
	stage := p.sink.Stage("devloop")
	built := readBuildInfo()
	p.sink.Stage("loop").Note(event.DevloopStarted, event.DevloopStart{Project: event.Name(p.config.Name),
		Cluster: event.Name(s.KubeContext()), Folder: event.Name(p.config.Dir), Version: event.Name(built.Version),
		System: event.Name(built.OS + "/" + built.Arch), Tool: event.Name(s.ClusterTool())})
	if v.page != nil {
		stage.Note(event.PageServed, event.Page{URL: event.Name(v.page.String())})
	}
	in := session.Inputs{Reload: reload, Requests: v.Requests(), Quit: p.interrupts.interrupt, Logs: d.logs,
		ShowPods: func(shown bool) {
			if shown {
				p.printer.SetPodFilter(filter)
			} else {
				p.printer.SetPodFilter(nil)
			}
		}}
	if k := console.OpenKeyboard(ctx, os.Stdin, os.Stderr, p.printer, stage); k != nil {
		p.interrupts.keyboard.Store(k)
		defer k.Close()
		in.Keys = k.Keys()
		actions := &keyActions{keyboard: k, session: s, views: v, stage: stage}
		defer actions.running.Wait()
		in.OpenPage = func() { actions.start(ctx, actions.openPage) }
		in.OpenShell = func() { actions.start(ctx, actions.openShell) }
		stage.Note("keys", "help", "?", "keys", session.KeyHelp)
	}
	broken := s.Run(ctx, in)
	if broken != nil { // devloop cannot go on, but cleans up
		p.interrupts.interrupt() // so that the next Ctrl+C cuts the clean-up short
	}

	endAnswers() // they may have started check pods, which the clean-up must not meet
	if !d.cleanup {
		p.sink.Stage("cleanup").Note("everything stays as it is", "remove it with", "devloop delete")
		return broken
	}
	return errors.Join(broken, s.Cleanup(context.WithoutCancel(ctx), "Ctrl+C again", deploy.Removal{}))
}
