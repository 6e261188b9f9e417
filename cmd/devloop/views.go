// Where else than in the terminal one can see how it all stands: the page, and a socket for devloop status, logs and events.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status/web"
)

// views are what is served. They are closed after everything else: how the end goes is worth a look, too.
type views struct {
	asked   chan control.Request // for the loop
	asking  control.Questions
	say     event.Stage
	page    *url.URL // with the token that lets in; nil without one
	site    *web.Site
	server  *control.Server
	keeping sync.WaitGroup // of the last runs
	end     context.CancelFunc
}

// openViews opens the page and the socket. A page that was asked for at a port that is taken is an error; all else is told, and lived without.
func (p *process) openViews(ctx context.Context, d devOptions) (v *views, err error) {
	v = &views{asked: make(chan control.Request, 8)}
	defer func() { //nolint:contextcheck // ctx may have ended
		if err != nil {
			v.close()
		}
	}()
	metrics := web.NewMetrics(p.board)
	p.sink = p.before(metrics.Before(p.log.Sink))
	v.say = p.sink.For("devloop")
	v.server = control.NewServer(v.say)
	v.site = web.New(p.board, metrics, web.Actions{
		Rebuild: func() { v.ask(control.Run) },
		Pause: func(paused bool) {
			if paused {
				v.ask(control.Pause)
			} else {
				v.ask(control.Resume)
			}
		},
	}, v.say)
	keeping, end := context.WithCancel(context.WithoutCancel(ctx))
	v.end = end
	listener, err := control.ListenSocket(ctx, projectID(p.config))
	switch {
	case errors.Is(err, control.ErrAnotherRuns):
		return v, console.EnvironmentError{Err: err}
	case err != nil:
		v.say.Warn("devloop status, logs and events will not find this devloop", err)
	default:
		v.server.Serve(listener, v.site.Local(map[string]web.Question{
			"chain": v.asking.Question("chain"), "libraries": v.asking.Question("libraries")}))
	}
	if d.page {
		listener, err := openPage(ctx, p.config, d.pagePort)
		if err != nil {
			return v, err
		}
		address := listener.Addr().(*net.TCPAddr)
		v.server.Serve(listener, v.site.Handler(address.Port))
		v.page = v.site.Address(address.String())
		p.secrets.Hide(v.site.Token()) // but for the line of the log that shows the address
	}
	v.keeping.Go(func() {
		err := v.say.Guard("keep the last runs", func() error { return p.history.Follow(keeping, p.board) })
		if err != nil {
			v.say.Warn("the last runs will not be known after this devloop", err)
		}
	})
	return v, nil
}

// ask does not block: who asks again and again while nobody listens gets no more by it.
func (v *views) ask(what control.Request) {
	select {
	case v.asked <- what:
	default:
	}
}

// close ends what is served, and waits for it.
func (v *views) close() {
	v.site.Close()
	v.server.Close()
	v.end()
	v.keeping.Wait()
}

// openPage opens the page's address. A port that somebody asked for is that one or none.
func openPage(ctx context.Context, c *config.Config, flag int) (net.Listener, error) {
	const hint = "give the page another port, or leave it out: --page=false"
	switch {
	case flag >= 0:
		listener, err := control.ListenPage(ctx, flag)
		if err != nil {
			return nil, console.UsageError{Err: event.WithHint(fmt.Errorf("--page-port: %w", err), hint)}
		}
		return listener, nil
	case c.Page.Port != 0:
		listener, err := control.ListenPage(ctx, c.Page.Port)
		if err != nil {
			return nil, c.Wrong("page.port", err.Error(), hint)
		}
		return listener, nil
	}
	listener, err := control.ListenPage(ctx, 0)
	if err != nil {
		return nil, console.EnvironmentError{Err: fmt.Errorf("page: %w", err)}
	}
	return listener, nil
}
