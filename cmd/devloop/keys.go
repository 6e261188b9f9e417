// Single keys of a terminal.
package main

import (
	"os"
	"sync"

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
	if foreground, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err != nil || foreground != unix.Getpgrp() {
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
	k.restore = sync.OnceFunc(func() { _ = unix.IoctlSetTermios(fd, setTermios, before) }) // a terminal that is gone needs none
	k.reading.Go(k.read)
	return k
}

// read ends with close, or with the terminal.
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
