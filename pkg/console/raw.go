package console

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/muesli/cancelreader"
	"golang.org/x/term"
	"k8s.io/client-go/tools/remotecommand"
)

// RawTerminal is a terminal that a program elsewhere has for itself: each key goes to it, Ctrl+C
// and Ctrl+Z included, and all that it writes is shown as it is. Close it.
type RawTerminal struct {
	Out *os.File

	in       *os.File
	keys     cancelreader.CancelReader
	reading  sync.Mutex // held by a Read
	original *term.State
	restored sync.Once
}

// OpenRawTerminal takes a terminal's keys from in, and shows what is written on out.
func OpenRawTerminal(in, out *os.File) (*RawTerminal, error) {
	keys, err := cancelreader.NewReader(in)
	if err != nil {
		return nil, err
	}
	original, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, errors.Join(err, keys.Close())
	}
	return &RawTerminal{Out: out, in: in, keys: keys, original: original}, nil
}

// Read reads keys until Close.
func (t *RawTerminal) Read(p []byte) (int, error) {
	t.reading.Lock()
	defer t.reading.Unlock()
	n, err := t.keys.Read(p)
	if errors.Is(err, cancelreader.ErrCanceled) {
		err = io.EOF
	}
	return n, err
}

// Sizes has the size of the terminal: first as it is, then whenever it changes, until ctx ends.
func (t *RawTerminal) Sizes(ctx context.Context) <-chan remotecommand.TerminalSize {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	sizes := make(chan remotecommand.TerminalSize)
	go func() {
		defer close(sizes)
		defer signal.Stop(changed)
		for {
			next := sizes
			width, height, err := term.GetSize(int(t.Out.Fd()))
			if err != nil || width <= 0 || height <= 0 { // it does not tell
				next = nil
			}
			select {
			case next <- remotecommand.TerminalSize{Width: uint16(width), Height: uint16(height)}:
			case <-changed:
				continue
			case <-ctx.Done():
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}

// again takes the terminal again, after its shell had it meanwhile (Ctrl+Z of another job, fg).
func (t *RawTerminal) again() { _, _ = term.MakeRaw(int(t.in.Fd())) }

// Restore restores the terminal's modes. It is safe for concurrent use.
func (t *RawTerminal) Restore() {
	t.restored.Do(func() { _ = term.Restore(int(t.in.Fd()), t.original) }) // a terminal that is gone needs none
}

// Close ends a Read, and restores the terminal.
func (t *RawTerminal) Close() {
	t.keys.Cancel()
	t.reading.Lock() // so that no key is taken from who reads next
	defer t.reading.Unlock()
	_ = t.keys.Close() // the library's own descriptors
	t.Restore()
}
