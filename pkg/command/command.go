// Package command runs programs of the user's: in a process group of their own, what they print told line by line, and ended with all that they
// started, also when the process that runs them is killed.
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
	Args       []string
	Folder     string
	Env        []string
	Ask        syscall.Signal // that asks it to end, when the context does
	Goodbye    time.Duration  // that it has for it, before it is killed
	Line       int            // bytes of a line that are told
	Background bool           // what it leaves running when it has ended well may stay
}

// Run runs c to its end. tell gets each line of its output that is not empty, the beginning of a long one, one after the other; began, which may be nil,
// the process group. When ctx ends first, the error is its cause.
func (c Command) Run(ctx context.Context, tell func(line string), began func(group int)) error {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Env = c.Folder, c.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl+C is devloop's
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, c.Ask) }
	cmd.WaitDelay = c.Goodbye
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	read := make(chan struct{})
	var broken any // what tell has panicked with
	go func() {
		defer close(read)
		defer func() {
			if broken = recover(); broken != nil {
				_ = out.CloseWithError(io.ErrClosedPipe) // the program need not wait for a reader
			}
		}()
		c.read(out, tell)
	}()
	err := cmd.Start()
	if err == nil {
		ended := endWithUs(cmd.Process.Pid)
		if began != nil {
			began(cmd.Process.Pid)
		}
		err = cmd.Wait()
		ended()
		if ctx.Err() != nil || errors.Is(err, exec.ErrWaitDelay) && !c.Background {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what did not want to end
		}
	}
	_ = in.Close()
	<-read
	if broken != nil {
		panic(broken) // as if tell had been called here
	}
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay): // it ended well, and left something in the background
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// endWithUs has a process group killed when this process ends before ended is called, however it
// ends: a shell waits for the end of a pipe that only this process holds. (Linux could tell the
// group's first process by itself, but not those that this one has started.) Where there is no
// shell, nothing is lost but that.
func endWithUs(group int) (ended func()) {
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
		_, _ = io.WriteString(alive, "ended\n") // else somebody has ended the shell
		_ = alive.Close()
		_ = shell.Wait()
	}
}

// read tells lines until there are no more.
func (c Command) read(out io.Reader, tell func(line string)) {
	cut := false // the rest of a long line is left out
	for lines := bufio.NewReaderSize(out, c.Line); ; {
		line, err := lines.ReadSlice('\n')
		text, rest := strings.TrimRight(string(line), "\r\n"), cut
		if cut = errors.Is(err, bufio.ErrBufferFull); text != "" && !rest {
			tell(text)
		}
		if err != nil && !cut {
			return
		}
	}
}
