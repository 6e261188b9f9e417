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

// interrupts are the signals with which the user ends a command.
type interrupts struct {
	session  atomic.Pointer[session.Session]     // nil until something may be deployed
	keyboard atomic.Pointer[console.Keyboard]    // nil without one
	raw      atomic.Pointer[console.RawTerminal] // nil unless a command in a pod has the terminal
	printer  *console.Printer
	signals  chan os.Signal
	reload   chan<- struct{} // receives SIGHUPs; nil if they end the command
}

// interrupt has the effect of Ctrl+C.
func (i *interrupts) interrupt() {
	select {
	case i.signals <- os.Interrupt:
	default: // enough signals wait
	}
}

// interruptible returns a context that ends with the first Ctrl+C or SIGTERM; the second one exits
// at once and says what stays behind. So does SIGQUIT (Ctrl+\).
//
// SIGHUP goes to reload; without reload, or when the terminal is gone, it ends the context. It
// never counts as a second Ctrl+C: kernel and shell both send it when a terminal closes, and
// systemd sends it after a SIGTERM.
//
// Signals that the parent ignored (nohup, a script's &) stay ignored. Stop ends the context and
// restores the signals.
func interruptible(parent context.Context, out *console.Printer, reload chan<- struct{}) (
	ctx context.Context, i *interrupts, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	i = &interrupts{printer: out, signals: make(chan os.Signal, 8), reload: reload}
	original := terminals()
	notify(i.signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	stopped := make(chan struct{})
	go func() {
		_ = event.Sink(out.Print).Stage("devloop").Recover("signals", func() { i.handle(stopped, cancel, original) })
		cancel() // after a panic, no signal could
	}()
	return ctx, i, sync.OnceFunc(func() {
		cancel()
		signal.Stop(i.signals)
		close(stopped)
	})
}

// notify is signal.Notify for those signals that are not ignored.
func notify(to chan<- os.Signal, signals ...os.Signal) {
	if signals = slices.DeleteFunc(signals, signal.Ignored); len(signals) > 0 { // none would mean all
		signal.Notify(to, signals...)
	}
}

// handle handles signals until stopped is closed. Original are the terminals at the start.
func (i *interrupts) handle(stopped <-chan struct{}, end func(), original [3]bool) {
	ending, interrupted := false, false
	for {
		select {
		case s := <-i.signals:
			switch {
			case s == syscall.SIGHUP && !ending && i.reload != nil && original == terminals():
				select {
				case i.reload <- struct{}{}:
				default: // one is pending
				}
			case s == syscall.SIGQUIT:
				i.exit("by SIGQUIT")
			case s != syscall.SIGHUP && interrupted:
				i.exit("again")
			default:
				ending, interrupted = true, interrupted || s != syscall.SIGHUP
				end()
			}
		case <-stopped:
			return
		}
	}
}

// terminals reports which of the standard files are terminals; a closed one no longer is.
func terminals() [3]bool {
	return [3]bool{console.IsTerminal(os.Stdin), console.IsTerminal(os.Stdout), console.IsTerminal(os.Stderr)}
}

// exit ends the process in the middle of its work and says what stays behind.
func (i *interrupts) exit(cause string) {
	time.AfterFunc(time.Second, func() { os.Exit(exitInterrupted) }) // a terminal may no longer take lines
	if k := i.keyboard.Load(); k != nil {
		k.RestoreModes()
	}
	if t := i.raw.Load(); t != nil {
		t.Restore()
	}
	err := fmt.Errorf("%w %s: left at once", console.ErrInterrupted, cause)
	if s := i.session.Load(); s != nil {
		if left := s.Abandon(); len(left) > 0 {
			err = event.WithHint(fmt.Errorf("%w; still there: %s", err, strings.Join(left, ", ")),
				"devloop delete removes it")
		}
	}
	i.printer.PrintError(err, exitInterrupted)
	os.Exit(exitInterrupted)
}
