// Single keys of a terminal.
package main

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/muesli/cancelreader"
	"golang.org/x/sys/unix"
)

// keyboard is a terminal whose keys are read one by one. Ctrl+C and Ctrl+Z stay signals, and what is printed looks as ever.
type keyboard struct {
	keys    chan byte
	reader  cancelreader.CancelReader
	reading sync.WaitGroup
	ended   chan struct{}
	restore func() // gives the terminal its modes back; it may be called again
}

// openKeyboard returns nil where nobody sits: no terminal, or one that another job of the shell has.
func openKeyboard(in, out *os.File) *keyboard {
	fd := int(in.Fd())
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil || !isTerminal(out) {
		return nil
	}
	if !inForeground(fd) {
		return nil
	}
	reader, err := cancelreader.NewReader(in)
	if err != nil {
		return nil
	}
	single := *before
	single.Lflag &^= unix.ICANON | unix.ECHO
	single.Cc[unix.VMIN], single.Cc[unix.VTIME] = 1, 0
	if unix.IoctlSetTermios(fd, setTermios, &single) != nil {
		_ = reader.Close() // nothing was read
		return nil
	}
	k := &keyboard{keys: make(chan byte), reader: reader, ended: make(chan struct{})}
	k.restore = sync.OnceFunc(func() {
		if inForeground(fd) { // else they are another job's
			_ = unix.IoctlSetTermios(fd, setTermios, before) // a terminal that is gone needs none
		}
	})
	// Sent to the background, devloop goes on: a look at the keyboard fails there, and must not stop it.
	signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
	k.reading.Go(k.read)
	return k
}

// inForeground reports whether what is typed is for this process.
func inForeground(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// read ends with close, with the terminal, or when something is typed while devloop is in the background.
func (k *keyboard) read() {
	key := make([]byte, 1)
	for {
		if n, err := k.reader.Read(key); err != nil || n == 0 {
			return
		}
		select {
		case k.keys <- key[0]:
		case <-k.ended:
			return
		}
	}
}

func (k *keyboard) close() {
	close(k.ended)
	k.reader.Cancel()
	k.reading.Wait()
	_ = k.reader.Close() // of the library's own descriptors
	k.restore()
}

// isTerminal reports whether there is a terminal behind f now: one that was closed is none any more.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), getTermios)
	return err == nil
}
