package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/pods"
	"github.com/devloop/devloop/pkg/session"
)

// keyActions are what the keys o and s do, beside the loop.
type keyActions struct {
	keyboard *console.Keyboard
	session  *session.Session
	views    *views
	stage    event.Stage

	inShell atomic.Bool // or about to be: a key that is pressed twice opens one
	running sync.WaitGroup
}

func (a *keyActions) start(ctx context.Context, action func(context.Context)) {
	a.running.Go(func() { _ = a.stage.Recover("key", func() { action(ctx) }) })
}

// openPage opens the page in a browser, and tells its address again.
func (a *keyActions) openPage(ctx context.Context) {
	if a.views.page == nil {
		a.stage.Note("there is no page", "because", "--page=false")
		return
	}
	a.stage.Note(event.PageServed, event.Page{URL: event.Name(a.views.page.String())})
	address, err := a.views.ForBrowser(a.views.page)
	if err == nil {
		err = openBrowser(ctx, address)
	}
	if err != nil && ctx.Err() == nil {
		a.stage.Note("no browser is opened", "reason", err.Error(), "hint", event.Hint(err))
	}
}

// openShell gives the terminal to a shell in a pod, while devloop goes on.
func (a *keyActions) openShell(ctx context.Context) {
	if !a.inShell.CompareAndSwap(false, true) {
		return
	}
	defer a.inShell.Store(false)
	lend := func(ctx context.Context, in pods.Container, run func(pods.Streams) error) error {
		return a.keyboard.Lend(func(raw *console.RawTerminal) error {
			_, _ = fmt.Fprintf(raw.Out, "a shell in %s/%s, container %s; exit or Ctrl+D leads back to devloop\r\n",
				event.Printable(in.Namespace), event.Printable(in.Pod), event.Printable(in.Name)) // else nobody sees it
			return runOn(ctx, raw, run)
		})
	}
	err := a.session.Exec(ctx, session.Exec{Streams: lend})
	var exit *pods.ExitError
	if err == nil || ctx.Err() != nil || errors.As(err, &exit) && exit.Why == nil {
		return
	}
	a.stage.Warn("no shell", err)
}
