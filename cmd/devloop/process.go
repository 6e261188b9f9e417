// What every command that works on a project begins with: the configuration, the log, and the user's Ctrl+C.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/status"
)

// process is a command at work. Its end has to be called.
type process struct {
	source   config.Source
	config   *config.Config
	sink     event.Sink
	board    *status.Board
	history  *status.History // nil for a command that ends by itself
	secrets  *event.Secrets
	printer  *console.Printer
	log      *console.Logger
	adopt    bool // releases that somebody else made are taken over
	consent  session.Consent
	patience *patience
	reload   chan struct{} // SIGHUP; nil for a command that ends by itself
	stop     func()        // ends the context, gives the signals back
	end      func()        // the same, and waits for the last line of the log
}

// begin reads the configuration, opens the log, and returns a context that ends with the first Ctrl+C.
func (o *options) begin(parent context.Context) (context.Context, *process, error) {
	return o.beginProcess(parent, nil)
}

// beginLasting is begin for a command that runs until it is told to end.
func (o *options) beginLasting(parent context.Context) (context.Context, *process, error) {
	return o.beginProcess(parent, make(chan struct{}, 1))
}

func (o *options) beginProcess(parent context.Context, reload chan struct{}) (context.Context, *process, error) {
	p := &process{source: o.source(), adopt: o.adopt, reload: reload, printer: o.printer, secrets: o.printer.Secrets(),
		consent: o.consent()}
	var err error
	if p.config, err = config.Load(p.source); err != nil {
		return nil, nil, err
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
	session.ReportConfig(p.sink, nil, p.config)
	if historyErr != nil {
		p.sink.For("devloop").Warn("the runs of earlier devloops are not known", historyErr)
	}
	var ctx context.Context
	ctx, p.patience, p.stop = interruptible(parent, o.printer, p.reload)
	p.end = func() {
		p.stop()
		p.log.Close()
	}
	return ctx, p, nil
}

// before returns a Sink that hands on what the board was shown. What a view never hears it cannot show: secrets are taken out first.
func (p *process) before(next event.Sink) event.Sink {
	return p.secrets.Before(p.board.Before(next).OrElse(next))
}

// openHistory opens the runs of earlier devloops for the same file and cluster.
func openHistory(c *config.Config) (*status.History, error) {
	dir, err := journal.DefaultDir()
	if err != nil {
		return &status.History{}, err
	}
	return status.OpenHistory(filepath.Join(dir, "runs", projectID(c)+".jsonl"))
}

// projectID is a name for files of a project that belong to its file and its cluster: the same file
// may be at work on several clusters.
func projectID(c *config.Config) string {
	target, _ := kube.ReadContext(c.KubeContext) // if there is none, that is told soon
	return fileID(c.Path+"\x00"+target.Context, c.Name)
}

// fileID is a name for files that belong to a project at a place.
func fileID(place, project string) string {
	const most = 32 // characters: the path of a socket may have but 104
	sum := sha256.Sum256([]byte(place))
	return project[:min(most, len(project))] + "-" + hex.EncodeToString(sum[:4])
}

// session returns what a session of this process is made from.
func (p *process) session() session.Options {
	return session.Options{Source: p.source, Config: p.config, Sink: p.sink, Secrets: p.secrets, Adopt: p.adopt, Consent: p.consent}
}
