package test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// libScript returns a script of test/ that goes on with lines, and what it prints.
func libScript(t *testing.T, lines string, env ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(t.Context(), "bash", "-c", "set -euo pipefail; . cluster/lib.sh\n"+lines)
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	cmd.Env = append(os.Environ(), "V=", "DEVLOOP_TEST_PART=", "DEVLOOP_TEST_CACHE="+t.TempDir())
	cmd.Env = append(cmd.Env, env...)
	return cmd, &printed
}

func TestPart(t *testing.T) {
	for _, c := range []struct {
		name, lines string
		env         []string
		exit        int
		want, never []string
	}{
		{name: "is quiet", lines: `part a 1 "doing a" echo details; echo done`,
			want: []string{"done\n"}, never: []string{"details"}},
		{name: "shows all of what fails", lines: `part a 1 "doing a" bash -c 'seq -f line-%g 99; exit 3'; echo "not reached"`,
			exit: 99, want: []string{"line-1\n", "line-99\n", "doing a: failed after "}, never: []string{"not reached"}},
		{name: "ends at the first command that fails", lines: `f() { false; echo "not reached"; }; part a 1 "doing a" f`,
			exit: 99, want: []string{"failed: false"}, never: []string{"not reached"}},
		{name: "is not reported again by its callers",
			lines: `bash -c '. cluster/lib.sh; part a 1 "doing a" sh -c "exit 3"'`,
			exit:  99, want: []string{"error: "}},
		{name: "within a part",
			lines: `f() { part b 1 "doing b" bash -c 'echo why; false'; echo "not reached"; }; part a 1 "doing a" f`,
			exit:  99, want: []string{"why\n", "doing a: failed"}, never: []string{"not reached"}},
		{name: "leaves the script's folder and variables",
			lines: `f() { cd /; a=2; }; a=1; part a 1 "doing a" f; echo "$a ${PWD##*/}"`,
			want:  []string{"1 test\n"}},
		{name: "leaves them when its output is shown, too",
			lines: `f() { cd /; a=2; }; a=1; part a 1 "doing a" f; echo "$a ${PWD##*/}"`,
			env:   []string{"V=1"}, want: []string{"1 test\n"}},
		{name: "shown, it ends at the first command that fails",
			lines: `f() { false; echo "not reached"; }; part a 1 "doing a" f`,
			env:   []string{"V=1"}, exit: 99, want: []string{"failed: false", "error: "}, never: []string{"not reached"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd, printed := libScript(t, c.lines, c.env...)
			_ = cmd.Run()
			if cmd.ProcessState.ExitCode() != c.exit {
				t.Errorf("exit code %d, want %d", cmd.ProcessState.ExitCode(), c.exit)
			}
			for _, want := range c.want {
				if strings.Count(printed.String(), want) != 1 {
					t.Errorf("it does not print %q once:\n%s", want, printed)
				}
			}
			for _, never := range c.never {
				if strings.Contains(printed.String(), never) {
					t.Errorf("it prints %q:\n%s", never, printed)
				}
			}
		})
	}
}

// A supervisor sends SIGTERM to the script alone; a terminal that closes takes no message.
func TestInterruptedPart(t *testing.T) {
	for _, c := range []struct {
		signal syscall.Signal
		lines  string
		exit   int
	}{
		{syscall.SIGTERM, "", 143},
		{syscall.SIGHUP, "exec 2>/dev/full\n", 129},
	} {
		t.Run(c.signal.String(), func(t *testing.T) {
			running := filepath.Join(t.TempDir(), "running")
			if err := syscall.Mkfifo(running, 0o600); err != nil {
				t.Fatal(err)
			}
			const f = `f() { exec 9> "$RUNNING"; echo >&9; exec sleep 1000; }; part a 1 "doing a" f`
			cmd, printed := libScript(t, c.lines+f, "RUNNING="+running)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pipe, err := os.Open(running) // ends with the program that has its other end
			if err != nil {
				t.Fatal(err)
			}
			defer pipe.Close()
			_ = pipe.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := pipe.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Process.Signal(c.signal)
			_ = cmd.Wait()
			if cmd.ProcessState.ExitCode() != c.exit {
				t.Errorf("exit code %d, want %d:\n%s", cmd.ProcessState.ExitCode(), c.exit, printed)
			}
			if _, err := io.Copy(io.Discard, pipe); err != nil {
				t.Errorf("what it ran still runs: %v", err)
			}
		})
	}
}

func TestSecondRun(t *testing.T) {
	programs := t.TempDir()
	for _, name := range []string{"minikube", "go"} { // none runs; nothing is built
		if err := os.WriteFile(filepath.Join(programs, name), []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// The test is the other make run.
	cmd, printed := libScript(t, `remember $PPID "$CACHE/make-run"; status=0; ./run || status=$?
		[ ! -e "$CACHE/images" ] && [ ! -e "$CACHE/log" ] || echo "it has begun"; exit $status`,
		"PATH="+programs+":"+os.Getenv("PATH"))
	_ = cmd.Run()
	if want := "end that one, process " + strconv.Itoa(os.Getpid()); cmd.ProcessState.ExitCode() != 99 ||
		strings.Count(printed.String(), "\n") != 1 || !strings.Contains(printed.String(), want) {
		t.Errorf("exit code %d: %s", cmd.ProcessState.ExitCode(), printed)
	}
}
