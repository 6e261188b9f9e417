// Command page serves the page of made-up devloops, so that it can be looked at in a browser in
// all situations without a cluster. It prints an address for each of them, and serves until Ctrl+C:
//
//	go run ./test/page             # all
//	go run ./test/page failed away # these
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
	"github.com/devloop/devloop/pkg/status/web"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := serve(ctx, os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve serves the situations of these names, or all, until ctx ends, and writes their
// addresses to out.
func serve(ctx context.Context, out io.Writer, names []string) error {
	for _, s := range situations {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		d := &devloop{now: time.Now()}
		if s.past {
			d.board = status.NewBoard(past(d.now))
		} else {
			d.board = status.NewBoard(nil)
		}
		sink := event.Sink(d.board.Sink)
		rebuild := func() { d.note("loop", "asked to run", nil) }
		if s.asked != nil {
			rebuild = func() { s.asked(d) }
		}
		actions := web.Actions{Rebuild: rebuild, RebuildRelease: func(string) { rebuild() }, Pause: func(paused bool) {
			d.note("loop", map[bool]string{true: event.Paused, false: event.Resumed}[paused], nil)
		}}
		site := web.New(d.board, nil, actions, sink.Stage("page"))
		defer site.Close()
		address := site.Address(listener.Addr().String())
		d.note("devloop", event.PageServed, event.Page{URL: event.Name(address.String())})
		s.happen(d)
		d.now = time.Time{} // what is still to come happens when it does
		if s.move != nil {
			go s.move(ctx, d)
		}
		server := &http.Server{Handler: site.Handler(listener.Addr().(*net.TCPAddr).Port), ReadHeaderTimeout: time.Minute}
		defer func() { _ = server.Close() }()
		go func() { _ = server.Serve(listener) }()
		_, _ = fmt.Fprintf(out, "%-9s %s\n", s.name, address)
	}
	<-ctx.Done()
	return nil
}
