package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/status"
)

// process is a command at work on a project: its configuration, its log, and the user's Ctrl+C.
type process struct {
	options    *options
	source     config.Source
	config     *config.Config
	sink       event.Sink
	board      *status.Board
	history    *status.History // nil for a command that ends by itself
	secrets    *event.Secrets
	printer    *console.Printer
	log        *console.Logger
	interrupts *interrupts
	end        func() // ends the context, and waits for the last line of the log
}

// begin reads the configuration, opens the log, and returns a context that ends with the first
// Ctrl+C. reload receives SIGHUPs; it is nil for a command that ends by itself. The caller calls
// end.
func (o *options) begin(parent context.Context, reload chan<- struct{}) (context.Context, *process, error) {
	p := &process{options: o, source: o.source(), printer: o.printer, secrets: o.printer.Secrets()}
	var err error
	if p.config, err = config.Load(p.source); err != nil {
		return nil, nil, o.namingVariables(err)
	}
	session.HideSecrets(p.secrets, p.config)
	var runs []status.Run
	var historyErr error
	if reload != nil {
		p.history, historyErr = openHistory(p.config)
		runs = p.history.Runs()
	}
	p.log = console.NewLogger(o.printer)
	p.board = status.NewBoard(runs)
	p.sink = p.before(p.log.Sink)
	if above, ours := config.FileAbove("."); ours && o.files[0] == above {
		p.sink.Stage("config").Note("the configuration is that of a folder above", "file", p.config.Path)
	}
	session.ReportConfig(p.sink, nil, p.config)
	if historyErr != nil {
		p.sink.Stage("devloop").Warn("the runs of earlier devloops are not known", historyErr)
	}
	ctx, interrupts, stop := interruptible(parent, o.printer, reload)
	p.interrupts = interrupts
	p.end = func() {
		stop()
		p.log.Close()
	}
	return ctx, p, nil
}

// run does work that ends by itself. An error after Ctrl+C is ErrInterrupted.
func (o *options) run(parent context.Context, work func(context.Context, *process) error) error {
	ctx, p, err := o.begin(parent, nil)
	if err != nil {
		return err
	}
	defer p.end()
	err = work(ctx, p)
	if err != nil && ctx.Err() != nil && !errors.Is(err, console.ErrInterrupted) {
		return console.ErrInterrupted
	}
	return err
}

// before returns a Sink that takes out secrets, updates the board, and then calls next.
func (p *process) before(next event.Sink) event.Sink {
	return p.secrets.Filter(p.board.Record(next).WithFallback(next))
}

// openHistory opens the runs of earlier devloops for the same file and cluster.
func openHistory(c *config.Config) (*status.History, error) {
	dir, err := journal.DefaultDir()
	if err != nil {
		return &status.History{}, err
	}
	return status.OpenHistory(filepath.Join(dir, "runs", projectID(c)+".jsonl"))
}

// alreadyRuns returns an error if a devloop runs for the same file and cluster.
func (p *process) alreadyRuns(ctx context.Context) error {
	target, _ := kube.ReadContext(p.config.KubeContext) // the session reports a missing context
	for _, r := range control.FindRunning(ctx) {
		if !r.Serves(p.config.Path) || r.State.Cluster != "" && r.State.Cluster != target.Context {
			continue
		}
		hint := "it deploys what is saved: devloop status --wait healthy; or end it first, by Ctrl+C in its terminal"
		if !slices.Equal(r.State.Part, p.config.Part) {
			hint = "a project has one devloop at a time, also for parts of it: end that one, by Ctrl+C in its terminal"
		}
		return console.EnvironmentError{Err: event.WithHint(
			fmt.Errorf("a devloop runs for this %s already (%s)", filepath.Base(p.config.Path), r), hint)}
	}
	return nil
}

// projectID names files of a project, its devloop.yaml and its cluster.
func projectID(c *config.Config) string {
	const maxName = 32                           // characters: the path of a socket is short
	target, _ := kube.ReadContext(c.KubeContext) // the session reports a missing context
	sum := sha256.Sum256([]byte(c.Path + "\x00" + target.Context))
	return c.Name[:min(maxName, len(c.Name))] + "-" + hex.EncodeToString(sum[:4])
}

// session returns what a session of this process is made from.
func (p *process) session() session.Options {
	return session.Options{Source: p.source, Config: p.config, Sink: p.sink, Secrets: p.secrets, Adopt: p.options.adopt,
		Consent: p.options.consent(), Opened: p.interrupts.session.Store}
}
