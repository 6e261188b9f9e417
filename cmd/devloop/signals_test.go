package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
)

// SIGHUP asks for a run, and does not count: the first Ctrl+C after it is the first.
func TestHangup(t *testing.T) {
	reload := make(chan struct{}, 1)
	ctx, _, stop := interruptible(t.Context(), console.NewPrinter(io.Discard), reload)
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
			t.Fatal("it is not reported")
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

// waiter is a program that has devloop's signals and keys, and a clean-up that lasts until there is
// a file "enough" in the folder that is its argument. It says what happens there on its standard
// output; "cleaned" is a file, too. TestMain makes it a command.
func waiter() {
	dir, p := os.Args[1], console.NewPrinter(os.Stderr)
	reload := make(chan struct{}, 1)
	ctx, interrupts, stop := interruptible(context.Background(), p, reload)
	defer stop()
	var keys <-chan byte
	var keyboard *console.Keyboard
	if k := console.OpenKeyboard(ctx, os.Stdin, os.Stderr, p, event.Stage{}); k != nil {
		interrupts.keyboard.Store(k)
		defer k.Close()
		keys, keyboard = k.Keys(), k
	}
	say := func(what string) { _, _ = fmt.Println(what) } //nolint:forbidigo // the terminal may be gone
	say("waiting")
	for ctx.Err() == nil {
		select {
		case key := <-keys:
			if key == 's' {
				lend(keyboard, p)
				continue
			}
			say("key " + string(key))
		case <-reload:
			say("reload")
		case <-ctx.Done():
		}
	}
	say("cleaning")
	for _, err := os.Stat(filepath.Join(dir, "enough")); err != nil; _, err = os.Stat(filepath.Join(dir, "enough")) {
		if _, err := os.Stat(dir); err != nil {
			os.Exit(exitFailed) // the test is over
		}
		say("still cleaning")
		<-time.After(10 * time.Millisecond)
	}
	if err := os.WriteFile(filepath.Join(dir, "cleaned"), nil, 0o600); err != nil {
		os.Exit(exitFailed)
	}
	say("cleaned")
}

// lend has a program in the terminal that tells which bytes it gets, until it is a q.
func lend(k *console.Keyboard, p *console.Printer) {
	_ = k.Lend(func(raw *console.RawTerminal) error {
		p.Print(event.Event{Time: time.Now(), Stage: "watch", Phase: event.Warned, Message: "meanwhile"})
		_, _ = fmt.Fprint(raw.Out, "lent\r\n")
		key := make([]byte, 1)
		for {
			if _, err := raw.Read(key); err != nil || key[0] == 'q' {
				return err
			}
			_, _ = fmt.Fprintf(raw.Out, "got %d\r\n", key[0])
		}
	})
}

// Each case is what is sent while it waits and cleans up, a signal at a time.
func TestSignals(t *testing.T) {
	const left = "left at once"
	for _, test := range []struct {
		name    string
		ignored string // by the parent
		sent    string
		ends    string
	}{
		{"Ctrl+C", "", "INT", "cleaned"},
		{"Ctrl+C twice", "", "INT INT", left},
		{"Ctrl+\\", "", "QUIT", left},
		{"as systemd does", "", "TERM HUP", "cleaned"},
		{"a hang-up, often, behind a Ctrl+C", "", "INT HUP HUP HUP", "cleaned"},
		{"both kinds", "", "TERM INT", left},
		{"a reload first", "", "HUP INT", "cleaned"},
		{"nohup", "HUP", "HUP HUP TERM", "cleaned"},
		{"in the background of a script", "INT", "INT INT TERM", "cleaned"},
		{"in the background of a script, twice", "INT", "INT TERM INT TERM", left},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			trap := ""
			if test.ignored != "" {
				trap = "trap '' " + test.ignored + "; "
			}
			cmd := exec.Command("sh", "-c", trap+`exec waiter "$1"`, "sh", dir)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill() }() // it has ended, most likely
			said := make(chan string, 10_000)
			go func() {
				defer close(said)
				for lines := bufio.NewScanner(out); lines.Scan(); {
					said <- lines.Text()
				}
			}()
			await := func(what string) bool {
				for line := range said {
					if line == what {
						return true
					}
				}
				return false
			}
			if !await("waiting") {
				t.Fatalf("it does not begin: %s", &stderr)
			}
			cleaning := false
			for _, name := range strings.Fields(test.sent) {
				signal := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP,
					"QUIT": syscall.SIGQUIT}[name]
				if err := cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				ignored := name == test.ignored
				switch {
				case !cleaning && !ignored && name == "HUP":
					await("reload")
				case !cleaning && !ignored:
					cleaning = await("cleaning")
				case cleaning: // it has been heard of when two more lines are written
					for range 2 {
						_ = await("still cleaning")
					}
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "enough"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			cleaned := await("cleaned")
			_ = cmd.Wait()
			if cleaned != (test.ends == "cleaned") || strings.Contains(stderr.String(), left) == cleaned {
				t.Errorf("cleaned up: %v, and it says %q", cleaned, &stderr)
			}
		})
	}
}
