package subprocess

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// programs are what a process does that has one of these names as its only argument.
var programs = map[string]func(){
	"print":  func() { _, _ = os.Stdout.WriteString("0123456789") },
	"fail":   func() { fmt.Fprintln(os.Stderr, "a warning\nthe reason"); os.Exit(3) },
	"panic":  func() { panic("the reason") },
	"hang":   forever,
	"expire": func() { Limits{Memory: 1 << 30, Time: time.Millisecond}.Set(); forever() },
	"grow": func() {
		Limits{Memory: 64 << 20, Time: time.Minute}.Set()
		for kept := [][]byte{}; ; {
			kept = append(kept, make([]byte, 1<<20))
		}
	},
	"recurse": func() {
		Limits{Memory: 1 << 30, Stack: 1 << 20, Time: time.Minute}.Set()
		os.Exit(recurse(0))
	},
}

func forever() {
	for i := 0; ; i++ {
		runtime.KeepAlive(i)
	}
}

func recurse(n int) int {
	if n < 0 {
		return n
	}
	return recurse(n+1) + n
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && programs[os.Args[1]] != nil {
		programs[os.Args[1]]()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func TestRun(t *testing.T) {
	for argument, want := range map[string]struct {
		output string
		err    string // a part of it
		is     error
	}{
		"print":   {output: "01234567"}, // the first eight bytes
		"fail":    {err: "exit status 3: the reason"},
		"panic":   {err: "exit status 2: panic: the reason"},
		"expire":  {err: "exit status 1"},
		"grow":    {is: ErrMemory},
		"recurse": {is: ErrStack},
	} {
		t.Run(argument, func(t *testing.T) {
			cmd, err := Command(t.Context(), argument)
			if err != nil {
				t.Fatal(err)
			}
			output, err := Run(cmd, 8)
			switch {
			case want.is != nil && !errors.Is(err, want.is), want.is == nil && (err == nil) != (want.err == ""),
				want.err != "" && !strings.Contains(err.Error(), want.err):
				t.Errorf("the error is %v", err)
			case err == nil && output.String() != want.output:
				t.Errorf("it wrote %q", output)
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	cmd, err := Command(ctx, "hang")
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if _, err := Run(cmd, 8); !errors.As(err, &exit) || exit.Success() {
		t.Errorf("the error is %v", err)
	}
}
