package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func shell(script string) Command {
	return Command{Args: []string{"/bin/sh", "-c", script}, StopSignal: syscall.SIGTERM, GracePeriod: time.Second,
		MaxLine: 32}
}

func TestLines(t *testing.T) {
	c := shell(`pwd; echo "$WHO"; printf 'one\r\n\ntwo\n'; printf '%0100d\n' 7 >&2; printf 'no end'`)
	c.Folder, c.Env = "/", []string{"WHO=me"}
	var lines []string
	if err := c.Run(t.Context(), func(line string) { lines = append(lines, line) }, nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"/", "me", "one", "two", strings.Repeat("0", 32), "no end"}
	if !slices.Equal(lines, want) {
		t.Errorf("%q, not %q", lines, want)
	}
}

func TestErrors(t *testing.T) {
	nothing := func(string) {}
	if err := shell("exit 7").Run(t.Context(), nothing, nil); err == nil || err.Error() != "exit status 7" {
		t.Error(err)
	}
	if err := (Command{Args: []string{"/not/there"}, MaxLine: 32}).Run(t.Context(), nothing,
		func(int) { t.Error("it began") }); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	late := errors.New("too late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, late)
	defer cancel()
	if err := shell("sleep 600").Run(ctx, nothing, nil); !errors.Is(err, late) {
		t.Error(err)
	}
}

// Background processes of a command end with it, unless Background is set.
func TestWhatStays(t *testing.T) {
	for _, stays := range []bool{false, true} {
		c := shell("sleep 600 & echo $!")
		c.Background = stays
		group, child := 0, 0
		err := c.Run(t.Context(), func(line string) { _, _ = fmt.Sscan(line, &child) },
			func(began int) { group = began })
		if err != nil || group == 0 || child == 0 {
			t.Fatalf("%v: group %d, child %d", err, group, child)
		}
		if got := !dead(t, child, !stays); got != stays {
			t.Errorf("may stay %v, stays %v", stays, got)
		}
		_ = syscall.Kill(-group, syscall.SIGKILL)
	}
}

// dead reports whether a process has ended; with soon it waits for that. A zombie counts.
func dead(t *testing.T, pid int, soon bool) bool {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		state, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "stat"))
		if err != nil || strings.Contains(string(state), ") Z ") {
			return true
		}
		if !soon || time.Now().After(deadline) {
			return false
		}
	}
}

// TestKillWithUs kills a process that runs a command: what the command started ends, too.
func TestKillWithUs(t *testing.T) {
	if os.Getenv("RUN_AND_WAIT") != "" {
		_ = shell("sleep 600 & echo $! $$; wait").Run(t.Context(),
			func(line string) { _, _ = fmt.Fprintln(os.Stdout, line) }, nil)
		return
	}
	runner := exec.Command(os.Args[0], "-test.run=^TestKillWithUs$")
	runner.Env = append(os.Environ(), "RUN_AND_WAIT=1")
	out, err := runner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := runner.Start(); err != nil {
		t.Fatal(err)
	}
	var child, parent int
	_, scanErr := fmt.Fscan(out, &child, &parent)
	if err := runner.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = runner.Wait() // it was killed
	if scanErr != nil {
		t.Fatal(scanErr)
	}
	for what, pid := range map[string]int{"the command": parent, "what it has started": child} {
		if !dead(t, pid, true) {
			t.Errorf("%s goes on", what)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
