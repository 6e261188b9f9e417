package console

// Single keys of a terminal, and what becomes of the terminal when devloop is stopped (Ctrl+Z),
// goes on, or is moved to the background and back.

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/muesli/cancelreader"
	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/event"
)

// foregroundPeriod is how often devloop in the background looks whether it is in the foreground
// again: a shell that moves a running job there tells it nothing.
const foregroundPeriod = time.Second

// Keyboard is a terminal whose keys are read one by one while devloop is in its foreground. Ctrl+C
// and Ctrl+Z stay signals, and what is printed looks as ever.
type Keyboard struct {
	Keys      chan byte
	in        *os.File
	printer   *Printer
	continued chan os.Signal // SIGCONT: devloop was stopped
	running   sync.WaitGroup
	end       context.CancelFunc

	mu      sync.Mutex
	before  *unix.Termios // the terminal's modes, to be given back; nil while they were not changed
	release func()        // ends the reading; nil while nothing is read
}

// OpenKeyboard returns nil where nobody sits, as there is no terminal.
func OpenKeyboard(ctx context.Context, in, out *os.File, p *Printer, say event.Stage) *Keyboard {
	if !IsTerminal(in) || !IsTerminal(out) {
		return nil
	}
	k := &Keyboard{Keys: make(chan byte), in: in, printer: p, continued: make(chan os.Signal, 1)}
	// In the background, devloop goes on: a look at the keyboard, or at the terminal's modes, fails
	// there and must not stop it.
	signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
	// SIGTSTP is not asked for, since Go cannot give it back: shells put the modes right when a job
	// of theirs is stopped.
	signal.Notify(k.continued, syscall.SIGCONT)
	k.take()
	ctx, k.end = context.WithCancel(context.WithoutCancel(ctx)) // the clean-up may be stopped, too
	k.running.Go(func() { say.Keep(ctx, "keyboard", k.run) })
	return k
}

// run has the keys read whenever devloop is in the foreground.
func (k *Keyboard) run(ctx context.Context) {
	for {
		var look <-chan time.Time
		if !k.taken() {
			look = time.After(foregroundPeriod)
		}
		select {
		case <-ctx.Done():
			return
		case <-look:
		case <-k.continued:
			k.giveBack() // the modes are the shell's by now, or devloop is in the background
			k.printer.redraw()
		}
		k.take()
	}
}

// take reads the keys from now on, if devloop is in the foreground.
func (k *Keyboard) take() {
	k.mu.Lock()
	defer k.mu.Unlock()
	fd := int(k.in.Fd())
	if k.release != nil || !InForeground(fd) {
		return
	}
	modes, err := unix.IoctlGetTermios(fd, GetTermios)
	if err != nil {
		return // the terminal is gone
	}
	reader, err := cancelreader.NewReader(k.in)
	if err != nil {
		return
	}
	single := *modes
	single.Lflag &^= unix.ICANON | unix.ECHO
	single.Cc[unix.VMIN], single.Cc[unix.VTIME] = 1, 0
	if unix.IoctlSetTermios(fd, setTermios, &single) != nil {
		_ = reader.Close() // nothing was read
		return
	}
	if k.before == nil || modes.Lflag&unix.ICANON != 0 { // else they are those that were set here before
		k.before = modes
	}
	var reading sync.WaitGroup
	released := make(chan struct{})
	reading.Go(func() {
		_ = event.Guard(func() error { // keys are no longer read then
			k.read(reader, released)
			return nil
		})
	})
	k.release = func() {
		close(released)
		reader.Cancel()
		reading.Wait()
		_ = reader.Close() // of the library's own descriptors
	}
}

// read ends when it is released, with the terminal, or when devloop is in the background.
func (k *Keyboard) read(reader cancelreader.CancelReader, released <-chan struct{}) {
	key := make([]byte, 1)
	for {
		if n, err := reader.Read(key); err != nil || n == 0 {
			return
		}
		select {
		case k.Keys <- key[0]:
		case <-released:
			return
		}
	}
}

// giveBack ends the reading, and gives the terminal its modes back if they are not another job's by
// now.
func (k *Keyboard) giveBack() {
	k.mu.Lock()
	if k.release != nil {
		k.release()
		k.release = nil
	}
	k.mu.Unlock()
	k.RestoreModes()
}

// RestoreModes may be called again, and by any goroutine.
func (k *Keyboard) RestoreModes() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if fd := int(k.in.Fd()); k.before != nil && InForeground(fd) {
		_ = unix.IoctlSetTermios(fd, setTermios, k.before) // a terminal that is gone needs none
	}
}

func (k *Keyboard) taken() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.release != nil
}

func (k *Keyboard) Close() {
	k.end()
	k.running.Wait()
	signal.Stop(k.continued)
	k.giveBack()
}

// InForeground reports whether what is typed is for this process.
func InForeground(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// IsTerminal reports whether there is a terminal behind f now: one that was closed is none any
// more.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), GetTermios)
	return err == nil
}
