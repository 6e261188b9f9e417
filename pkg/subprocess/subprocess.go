// Package subprocess runs a part of this program in a child process. An endless loop, endless
// recursion or an exit in the code of others then ends only that process.
package subprocess

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrMemory is the error of a process that needed more memory than Limits allow.
	ErrMemory = errors.New("out of memory")
	// ErrStack is that of one whose functions call each other without end.
	ErrStack = errors.New("endless recursion")
)

// maxMessages limits what is kept of the standard error of a process, in bytes.
const maxMessages = 1 << 20

// Command returns a command that starts this program with one argument. When ctx ends, the process
// is killed with all that it started.
func Command(ctx context.Context, argument string) (*exec.Cmd, error) {
	self, err := executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, argument)
	cmd.Args[0] = os.Args[0]
	// A session of its own: Ctrl+C is for devloop, and without a terminal git and ssh ask nothing.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd, nil
}

// executable returns this program, even if another version has replaced its file.
func executable() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}

// Run runs a Command to its end, and returns the first bytes of its output.
func Run(cmd *exec.Cmd, maxOutput int) (*bytes.Buffer, error) {
	output, messages := &limitedBuffer{room: maxOutput}, &limitedBuffer{room: maxMessages}
	cmd.Stdout, cmd.Stderr = output, messages
	if err := cmd.Run(); err != nil {
		return nil, failure(err, messages.content.String())
	}
	return &output.content, nil
}

var (
	outOfMemory = regexp.MustCompile(`out of memory|cannot allocate memory|failed to allocate`)
	// crash matches what the Go runtime prints before the stacks.
	crash = regexp.MustCompile(`(?m)^(?:panic|fatal error): .*`)
)

// failure returns why a process failed, by what it wrote to its standard error.
func failure(err error, messages string) error {
	switch {
	case strings.Contains(messages, "stack exceeds"):
		return ErrStack
	case outOfMemory.MatchString(messages):
		return ErrMemory
	}
	message := crash.FindString(messages)
	if message == "" {
		lines := strings.Split(strings.TrimSpace(messages), "\n")
		message = lines[len(lines)-1]
	}
	return fmt.Errorf("%w: %s", err, message)
}

// Limits are what a process that Command started sets for itself.
type Limits struct {
	Memory uint64        // bytes
	Stack  int           // bytes of the memory, 0 for as many as Go allows
	Time   time.Duration // after which the process exits, in case that its parent was killed
}

// Set sets the limits of this process, which ends if it exceeds one.
func (l Limits) Set() {
	if l.Stack > 0 {
		debug.SetMaxStack(l.Stack)
	}
	memory := unix.Rlimit{Cur: l.Memory, Max: l.Memory}
	_ = unix.Setrlimit(unix.RLIMIT_DATA, &memory) // where that is ignored, the parent's deadline remains
	time.AfterFunc(l.Time, func() { os.Exit(1) })
}

// limitedBuffer keeps the first bytes that are written to it.
type limitedBuffer struct {
	content bytes.Buffer
	room    int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	_, _ = b.content.Write(p[:min(len(p), b.room-b.content.Len())]) // never fails
	return len(p), nil
}
