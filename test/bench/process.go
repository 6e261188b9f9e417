// The programs that are measured: child processes whose lines are read with the time at which they
// came.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a running child, in a process group of its own: Ctrl+C on the terminal is for the
// bench, which then ends it.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{} // closed when it has ended and all of its output was read

	mu    sync.Mutex
	lines []line
	rest  []byte        // of a line that has not ended
	next  int           // the line at which await goes on
	first int           // the line at which it went on after the last skip
	grown chan struct{} // closed and replaced when lines grow
	log   *os.File      // nil for none
}

type line struct {
	text string
	at   time.Time
}

// start starts a program in dir, with more variables in its environment, and has it killed at the
// end of the benchmark if it still runs then.
func (t *testbed) start(ctx context.Context, dir string, env []string, name string, args ...string) (*process, error) {
	p := &process{
		name:  filepath.Base(name),
		cmd:   exec.CommandContext(context.WithoutCancel(ctx), name, args...), // outlives ctx: it is stopped in order
		done:  make(chan struct{}),
		grown: make(chan struct{}),
	}
	p.cmd.Dir, p.cmd.Env = dir, append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = time.Second // for the output of grandchildren that outlive it
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if t.logs != "" {
		if p.log, err = os.OpenFile(filepath.Join(t.logs, p.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC,
			0o644); err != nil {
			return nil, err
		}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // who waits for done reads ProcessState
		if p.log != nil {
			_ = p.log.Close()
		}
	}()
	t.cleanup(func(context.Context) error {
		p.kill()
		return nil
	})
	return p, nil
}

// Write takes what the program prints.
func (p *process) Write(b []byte) (int, error) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, b...)
	for {
		text, rest, ended := bytes.Cut(p.rest, []byte("\n"))
		if !ended {
			break
		}
		p.lines = append(p.lines, line{string(text), now})
		p.rest = rest
	}
	close(p.grown)
	p.grown = make(chan struct{})
	if p.log != nil {
		return p.log.Write(b)
	}
	return len(b), nil
}

// await returns the first line that contains text, among those that came since the last call of
// await or skip.
func (p *process) await(ctx context.Context, text string) (line, error) {
	for ended := false; ; {
		p.mu.Lock()
		grown := p.grown
		for p.next < len(p.lines) {
			found := p.lines[p.next]
			p.next++
			if strings.Contains(found.text, text) {
				p.mu.Unlock()
				return found, nil
			}
		}
		p.mu.Unlock()
		if ended {
			return line{}, p.failure(fmt.Sprintf("ended (%s) before it said %q", p.cmd.ProcessState, text))
		}
		select {
		case <-grown:
		case <-p.done:
			ended = true
		case <-ctx.Done():
			return line{}, p.failure(fmt.Sprintf("did not say %q: %v", text, context.Cause(ctx)))
		}
	}
}

// skip makes await forget the lines so far.
func (p *process) skip() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = len(p.lines)
	p.first = p.next
}

// said returns the lines since the last skip, up to the one that await returned last.
func (p *process) said() []line {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines[p.first:p.next])
}

// finish closes stdin and waits for the process, which has to succeed.
func (p *process) finish(ctx context.Context) error {
	_ = p.stdin.Close() // Wait has closed it if the process has ended
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return p.failure(fmt.Sprintf("did not end: %v", context.Cause(ctx)))
	}
	if !p.cmd.ProcessState.Success() {
		return p.failure("ended with " + p.cmd.ProcessState.String())
	}
	return nil
}

// interrupt does as Ctrl+C, and waits for the process, which has to succeed.
func (p *process) interrupt(ctx context.Context) error {
	_ = p.cmd.Process.Signal(os.Interrupt) // it may have ended: finish reports how
	return p.finish(ctx)
}

// kill ends the process and its children at once. It is safe to call when it has ended.
func (p *process) kill() {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may just have ended
		<-p.done
	}
}

// failure is what happened and the last that the program said.
func (p *process) failure(what string) error {
	const tail = 15
	p.mu.Lock()
	defer p.mu.Unlock()
	said := []string{p.name + " " + what + "; its last lines:"}
	for _, l := range p.lines[max(0, len(p.lines)-tail):] {
		said = append(said, "  "+l.text)
	}
	return errors.New(strings.Join(said, "\n"))
}

// output runs a program to its end and returns what it printed to stdout, without the white space
// around it.
func output(ctx context.Context, name string, args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(bytes.TrimSpace(out)), nil
}
