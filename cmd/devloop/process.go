// What every command that works on a project begins with: the configuration, the log, and the user's Ctrl+C.
package main

import (
	"context"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
)

// process is a command at work. Its end has to be called.
type process struct {
	source   config.Source
	config   *config.Config
	sink     event.Sink
	adopt    bool // releases that somebody else made are taken over
	patience *patience
	reload   chan struct{} // SIGHUP; nil for a command that ends by itself
	stop     func()        // ends the context, gives the signals back
	end      func()        // the same, and waits for the last line of the log
}

// begin reads the configuration, opens the log, and returns a context that ends with the first Ctrl+C.
func (o *options) begin(parent context.Context) (context.Context, *process, error) {
	return o.beginProcess(parent, &process{source: o.source(), adopt: o.adopt})
}

// beginLasting is begin for a command that runs until it is told to end.
func (o *options) beginLasting(parent context.Context) (context.Context, *process, error) {
	return o.beginProcess(parent, &process{source: o.source(), adopt: o.adopt, reload: make(chan struct{}, 1)})
}

func (o *options) beginProcess(parent context.Context, p *process) (context.Context, *process, error) {
	var err error
	if p.config, err = config.Load(p.source); err != nil {
		return nil, nil, err
	}
	log := newLogger(o.printer)
	p.sink = log.sink
	var ctx context.Context
	ctx, p.patience, p.stop = interruptible(parent, o.printer, p.reload)
	p.end = func() {
		p.stop()
		log.close()
	}
	return ctx, p, nil
}
