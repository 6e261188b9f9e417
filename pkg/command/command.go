// Package command runs the user's programs: each in a process group of its own, its output reported
// line by line. Everything that it started ends with it, even if this process is killed.
package command

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Command is a program to run.
type Command struct {
	Args        []string
	Folder      string
	Env         []string
	StopSignal  syscall.Signal // when the context ends
	GracePeriod time.Duration  // from StopSignal to SIGKILL
	MaxLine     int            // bytes of a line that are reported
	Background  bool           // what it started may outlive its success
}

// Run runs c to its end. onLine gets each line of its output that is not empty, one after the
// other; started, which may be nil, the process group. When ctx ends first, the error is its cause.
func (c Command) Run(ctx context.Context, onLine func(line string), started func(group int)) error {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Env = c.Folder, c.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl+C is devloop's
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, c.StopSignal) }
	cmd.WaitDelay = c.GracePeriod
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	read := make(chan struct{})
	var panicked any // in onLine
	go func() {
		defer close(read)
		defer func() {
			if panicked = recover(); panicked != nil {
				_ = out.CloseWithError(io.ErrClosedPipe) // or the program would wait for a reader
			}
		}()
		c.read(out, onLine)
	}()
	err := cmd.Start()
	if err == nil {
		ended := killWithUs(cmd.Process.Pid)
		if started != nil {
			started(cmd.Process.Pid)
		}
		err = cmd.Wait()
		ended()
		if ctx.Err() != nil || errors.Is(err, exec.ErrWaitDelay) && !c.Background {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what ignored the signal
		}
	}
	_ = in.Close()
	<-read
	if panicked != nil {
		panic(panicked) // as if onLine had been called here
	}
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay): // it succeeded, and left something in the background
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// killWithUs kills a process group if this process ends, in whatever way, before ended is called: a
// shell waits for the end of a pipe that only this process holds. (Linux's PDEATHSIG would reach
// only the group's first process.) Without a shell, only this is lost.
func killWithUs(group int) (ended func()) {
	const script = `read -r ended || kill -s KILL -- "-$0"`
	shell := exec.Command("/bin/sh", "-c", script, strconv.Itoa(group)) //nolint:noctx // it ends with the group
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}             // Ctrl+C and a hang-up are not for it
	alive, err := shell.StdinPipe()
	if err == nil {
		err = shell.Start()
	}
	if err != nil {
		return func() {}
	}
	return func() {
		_, _ = io.WriteString(alive, "ended\n") // fails if the shell was killed
		_ = alive.Close()
		_ = shell.Wait()
	}
}

// read returns when there are no more lines.
func (c Command) read(out io.Reader, onLine func(line string)) {
	cut := false // the line is too long: its rest is skipped
	for lines := bufio.NewReaderSize(out, c.MaxLine); ; {
		line, err := lines.ReadSlice('\n')
		text, rest := strings.TrimRight(string(line), "\r\n"), cut
		if cut = errors.Is(err, bufio.ErrBufferFull); text != "" && !rest {
			onLine(text)
		}
		if err != nil && !cut {
			return
		}
	}
}
