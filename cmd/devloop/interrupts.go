// The end: what Ctrl+C does the first time and the second time, and the clean-up.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/session"
)

// patience is the user's: it ends with the second Ctrl+C, or SIGTERM. Until there is a session,
// nothing was deployed.
type patience struct {
	session  atomic.Pointer[session.Session]
	keyboard atomic.Pointer[console.Keyboard]
	printer  *console.Printer
	signals  chan os.Signal
}

// enough is what Ctrl+C says, by another key.
func (p *patience) enough() {
	select {
	case p.signals <- os.Interrupt:
	default: // it has been said
	}
}

// interruptible returns a context that ends with the first Ctrl+C or SIGTERM; with the second one
// the process ends at once, saying what stays behind. A hang-up ends the context, too, unless there
// is reload to tell of it and the terminal is still there; but it is no impatience, however often
// it comes: when a terminal is closed, the kernel and the shell both send it, and systemd sends it
// behind a SIGTERM. SIGQUIT (Ctrl+\) leaves at once. Signals that the parent ignored (nohup, a
// script's &) stay ignored. Stop gives the signals back.
func interruptible(parent context.Context, out *console.Printer, reload chan<- struct{}) (ctx context.Context, p *patience, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	p = &patience{printer: out, signals: make(chan os.Signal, 8)}
	before := terminals()
	notify(p.signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	stopped := make(chan struct{})
	go func() {
		_ = event.Sink(out.Print).For("devloop").Contain("signals", func() {
			p.heed(stopped, cancel, func() bool { return reload != nil && before == terminals() }, reload)
		})
		cancel() // without it, nobody could
	}()
	return ctx, p, sync.OnceFunc(func() {
		cancel()
		signal.Stop(p.signals)
		close(stopped)
	})
}

// notify is signal.Notify for those signals that are not ignored.
func notify(to chan<- os.Signal, signals ...os.Signal) {
	if signals = slices.DeleteFunc(signals, signal.Ignored); len(signals) > 0 { // none would mean all
		signal.Notify(to, signals...)
	}
}

// heed does what signals ask for, until stopped is closed.
func (p *patience) heed(stopped <-chan struct{}, end func(), reloads func() bool, reload chan<- struct{}) {
	ending, asked := false, false
	for {
		select {
		case s := <-p.signals:
			switch {
			case s == syscall.SIGHUP && (ending || !reloads()):
				ending = true
				end()
			case s == syscall.SIGHUP:
				select {
				case reload <- struct{}{}:
				default: // one is waiting to be seen
				}
			case s == syscall.SIGQUIT:
				p.leave("by SIGQUIT")
			case asked:
				p.leave("again")
			default:
				ending, asked = true, true
				end()
			}
		case <-stopped:
			return
		}
	}
}

// terminals tells which of the standard files are terminals; one that was closed is none any more.
func terminals() [3]bool {
	return [3]bool{console.IsTerminal(os.Stdin), console.IsTerminal(os.Stdout), console.IsTerminal(os.Stderr)}
}

// leave ends the process in the middle of its work and says what stays. How says what asked for it.
func (p *patience) leave(how string) {
	time.AfterFunc(time.Second, func() { os.Exit(exitInterrupted) }) // a terminal that takes no more lines must not hold us
	if k := p.keyboard.Load(); k != nil {
		k.RestoreModes()
	}
	err := fmt.Errorf("%w %s: left at once", console.ErrInterrupted, how)
	if s := p.session.Load(); s != nil {
		if left := s.Abandon(); len(left) > 0 {
			err = event.WithHint(fmt.Errorf("%w; still there: %s", err, strings.Join(left, ", ")), "devloop delete removes it")
		}
	}
	p.printer.PrintError(err, exitInterrupted)
	os.Exit(exitInterrupted)
}
