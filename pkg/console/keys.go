package console

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

// foregroundPoll is how often devloop in the background checks whether it is in the foreground
// again: no signal reports it.
const foregroundPoll = time.Second

// Keyboard reads single keys from a terminal while devloop is in its foreground. Ctrl+C and Ctrl+Z
// stay signals, and output looks as ever.
type Keyboard struct {
	keys      chan byte
	in, out   *os.File
	printer   *Printer
	continued chan os.Signal // SIGCONT, after Ctrl+Z
	running   sync.WaitGroup
	end       context.CancelFunc

	mu          sync.Mutex
	original    *unix.Termios // the terminal's modes before they were changed, nil until then
	stopReading func()        // nil while nothing is read
	lent        bool          // to a RawTerminal
	raw         *RawTerminal  // nil unless it is open
}

// OpenKeyboard returns nil without a terminal.
func OpenKeyboard(ctx context.Context, in, out *os.File, p *Printer, stage event.Stage) *Keyboard {
	if !IsTerminal(in) || !IsTerminal(out) {
		return nil
	}
	k := &Keyboard{keys: make(chan byte), in: in, out: out, printer: p, continued: make(chan os.Signal, 1)}
	// These signals stop a process in the background that touches the keyboard or the modes.
	signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
	// SIGTSTP is not caught, since Go cannot pass it on: shells restore the modes when a job stops.
	signal.Notify(k.continued, syscall.SIGCONT)
	k.read()
	ctx, k.end = context.WithCancel(context.WithoutCancel(ctx)) // Ctrl+Z may come during the clean-up
	k.running.Go(func() { stage.Supervise(ctx, "keyboard", k.run) })
	return k
}

// Keys are what is typed.
func (k *Keyboard) Keys() <-chan byte { return k.keys }

// run reads keys whenever devloop is in the foreground.
func (k *Keyboard) run(ctx context.Context) {
	for {
		var poll <-chan time.Time
		if !k.reading() {
			poll = time.After(foregroundPoll)
		}
		select {
		case <-ctx.Done():
			return
		case <-poll:
		case <-k.continued:
			if k.takeAgain() {
				continue
			}
			k.restore() // the modes are the shell's by now, or devloop is in the background
			k.printer.redraw()
		}
		k.read()
	}
}

// read starts to read keys, if devloop is in the foreground.
func (k *Keyboard) read() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopReading != nil || k.lent || !InForeground(k.in) {
		return
	}
	fd := int(k.in.Fd())
	modes, err := unix.IoctlGetTermios(fd, getTermios)
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
	if k.original == nil || modes.Lflag&unix.ICANON != 0 { // else they are those that were set here before
		k.original = modes
	}
	var reading sync.WaitGroup
	stopped := make(chan struct{})
	reading.Go(func() {
		_ = event.Guard(func() error { // after a panic no keys are read
			k.pass(reader, stopped)
			return nil
		})
	})
	k.stopReading = func() {
		close(stopped)
		reader.Cancel()
		reading.Wait()
		_ = reader.Close() // the library's own descriptors
	}
}

// pass sends keys until stopped, the terminal is gone, or devloop is in the background.
func (k *Keyboard) pass(reader cancelreader.CancelReader, stopped <-chan struct{}) {
	key := make([]byte, 1)
	for {
		if n, err := reader.Read(key); err != nil || n == 0 {
			return
		}
		select {
		case k.keys <- key[0]:
		case <-stopped:
			return
		}
	}
}

func (k *Keyboard) reading() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stopReading != nil
}

// restore stops reading, and restores the terminal's modes.
func (k *Keyboard) restore() {
	k.mu.Lock()
	if k.stopReading != nil {
		k.stopReading()
		k.stopReading = nil
	}
	k.mu.Unlock()
	k.RestoreModes()
}

// RestoreModes restores the terminal's modes, unless another job has it by now. It is safe for
// concurrent use.
func (k *Keyboard) RestoreModes() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.original != nil && InForeground(k.in) {
		_ = unix.IoctlSetTermios(int(k.in.Fd()), setTermios, k.original) // a terminal that is gone needs none
	}
}

// Close restores the terminal.
func (k *Keyboard) Close() {
	k.end()
	k.running.Wait()
	signal.Stop(k.continued)
	k.restore()
}
