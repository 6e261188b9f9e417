package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

// TestOutputThatCannotBeWritten: a reader that has left ends each command quietly, as SIGPIPE does.
// A full disk is an error.
func TestOutputThatCannotBeWritten(t *testing.T) {
	s := show(t, "", &options{}, devOptions{pagePort: -1})
	s.run(1, event.Succeeded, nil)
	s.sink(podLine("web-1", "info", "hello"))
	for _, command := range []string{"status", "status --json", "status --wait healthy", "events",
		"events --log-format json", "logs", "logs --follow=false", "schema", "version", "version --json",
		"completion bash", "completion zsh", "completion fish", "doctor", "init --dask", "--help",
		"status --help", "help logs"} {
		t.Run(command, func(t *testing.T) {
			t.Setenv("HOME", t.TempDir())
			devloop := func(to string) string {
				// Before the reader has left, a pipe takes what is written.
				script := "{ read -r _ < ready; devloop " + command + "; echo $? >&2; } " + to
				cmd := exec.CommandContext(t.Context(), "bash", "-c", "mkfifo ready; "+script)
				cmd.Dir = t.TempDir()
				cmd.Env = append(cmd.Environ(), "DEVLOOP_FILE="+s.file)
				var said strings.Builder
				cmd.Stderr = &said
				if err := cmd.Run(); err != nil {
					t.Fatalf("%v: %s", err, said.String())
				}
				return said.String()
			}
			if said := devloop("| { exec <&-; echo > ready; }"); said != "141\n" {
				t.Errorf("without a reader: %s", said)
			}
			if _, err := os.Stat("/dev/full"); err != nil || strings.Contains(command, "help") { // cobra reports it itself
				return
			}
			said := devloop("> /dev/full & echo > ready; wait")
			if !strings.Contains(said, "write /dev/stdout: no space left on device") || !strings.HasSuffix(said, "\n1\n") {
				t.Errorf("on a full disk: %s", said)
			}
		})
	}
}
