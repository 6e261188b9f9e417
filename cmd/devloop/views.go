package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status/web"
)

// views are what other terminals and browsers see. They close after everything else, so that they
// show how devloop ends.
type views struct {
	*control.Server
	page    *url.URL // nil without one
	keeping sync.WaitGroup
	end     context.CancelFunc // of the history
}

// openViews opens the page, the socket and the history. Only a page at a port that the user chose,
// and a second devloop, are errors; it warns of all else.
func (p *process) openViews(ctx context.Context, d devOptions) (v *views, err error) {
	metrics := web.NewMetrics(p.board)
	p.sink = p.before(metrics.Count(p.log.Sink))
	stage := p.sink.Stage("devloop")
	v = &views{Server: control.NewServer(p.board, metrics, stage)}
	keeping, end := context.WithCancel(context.WithoutCancel(ctx))
	v.end = end
	defer func() { //nolint:contextcheck // ctx may have ended
		if err != nil {
			v.close()
		}
	}()
	err = v.ServeSocket(ctx, projectID(p.config))
	if errors.Is(err, control.ErrAnotherRuns) {
		return v, cmp.Or(p.alreadyRuns(ctx), error(console.EnvironmentError{Err: err}))
	}
	if err != nil {
		stage.Warn("devloop status, logs and events will not find this devloop", err)
	}
	if d.page {
		if err := p.openPage(ctx, v, int(d.pagePort)); err != nil {
			return v, err
		}
	}
	v.keeping.Go(func() {
		err := stage.Guard("keep the last runs", func() error { return p.history.Follow(keeping, p.board) })
		if err != nil {
			stage.Warn("the last runs will not be known after this devloop", err)
		}
	})
	return v, nil
}

// openPage opens the page at the port of the flag, if that is not negative, else at the
// configuration's.
func (p *process) openPage(ctx context.Context, v *views, flag int) (err error) {
	const hint = "give the page another port, or leave it out: --page=false"
	port := p.config.Page.Port
	if flag >= 0 {
		port = flag
	}
	var token string
	v.page, token, err = v.ServePage(ctx, port)
	switch {
	case err == nil:
		p.secrets.Hide(token) // except in the line of the log with the address
		return nil
	case flag >= 0:
		return console.UsageError{Err: event.WithHint(fmt.Errorf("--page-port: %w", err), hint)}
	case port != 0:
		return p.config.Wrong("page.port", err.Error(), hint)
	}
	return console.EnvironmentError{Err: fmt.Errorf("page: %w", err)}
}

func (v *views) close() {
	v.Close()
	v.end()
	v.keeping.Wait()
}
