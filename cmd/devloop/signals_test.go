package main

import (
	"io"
	"syscall"
	"testing"
	"time"
)

// SIGHUP asks for a run, and is no impatience: the first Ctrl+C after it is the first.
func TestHangup(t *testing.T) {
	reload := make(chan struct{}, 1)
	ctx, _, stop := interruptible(t.Context(), newPrinter(io.Discard), reload)
	defer stop()
	send := func(s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(syscall.Getpid(), s); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		send(syscall.SIGHUP)
		select {
		case <-reload:
		case <-time.After(time.Minute):
			t.Fatal("it is not told")
		}
	}
	if ctx.Err() != nil {
		t.Fatal("SIGHUP ends it")
	}
	send(syscall.SIGINT)
	select {
	case <-ctx.Done():
	case <-time.After(time.Minute):
		t.Fatal("SIGINT does not end it")
	}
}
