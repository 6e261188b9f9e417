package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/config/tree"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/status"
	"github.com/devloop/devloop/test/terminal"
)

// What a state says in its reasons stays in its line of devloop status.
func TestHostileStatus(t *testing.T) {
	var out strings.Builder
	forged := terminal.Hostile + "\nforged line\tx"
	err := writeStatus(&console.TerminalWriter{Out: &out}, status.State{Project: "p", Cluster: "c", Health: status.Failed,
		Reason: forged,
		Pods:   []status.Pod{{Name: "web", Phase: "Pending", Reason: forged}},
		Old:    event.DaskClusters{{Namespace: "ns", Name: "one", Owner: forged, Image: forged}},
		Runs:   []status.Run{{Number: 1, Files: forged, Outcome: status.RunFailed, Error: forged}}})
	if left := terminal.Unprintable(out.String(), false); err != nil || left != "" {
		t.Errorf("%v, %q in %q", err, left, out.String())
	}
	if regexp.MustCompile(`(?m)^forged`).MatchString(out.String()) {
		t.Errorf("a line of its own:\n%s", out.String())
	}
}

// What a command ends with, what cobra says, and data: exact in a file.
func TestHostileCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("devloop.yaml",
		[]byte("apiVersion: devloop/v1\nname: x\n\"k\\e]0;title\\a\\u202e\": 1\nprofiles: { \"p\\e[8m\": {} }\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"render"}, {"--\x1b]0;x\x07"}, {"\x1b]0;x\x07"}, {"help", "\u202ex"},
		{"-f", "\x1b[8m.yaml"}, {"__complete", "--profile", ""},
		{"init", "--from", "\u202e"}, {"status", "--wait", "\x1b[2J"}, {"logs", "("}} {
		stdout, stderr := runHere(t, args...)
		if left := terminal.Unprintable(stdout+stderr, false); left != "" {
			t.Errorf("%q: %q in %q and %q", args, left, stdout, stderr)
		}
		if stdout+stderr == "" {
			t.Errorf("%q says nothing", args)
		}
	}
}

// However much of a skaffold.yaml is noted, the log has few lines of it.
func TestNotesInTheLogAreFew(t *testing.T) {
	var messages []string
	c := &config.Config{Format: "skaffold/v4beta11", Notes: make([]tree.Note, 1000)}
	session.ReportConfig(func(e event.Event) { messages = append(messages, e.Message+fmt.Sprint(e.Fields...)) }, nil, c)
	if last := messages[len(messages)-1]; len(messages) != session.ShownNotes+3 ||
		last != "more of it is not as skaffold has itnotes950" {
		t.Errorf("%d, %s", len(messages), last)
	}
}

// runHere runs the command line in this process, and returns what it writes to two files.
func runHere(t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		file, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		files[i] = file
	}
	o := &options{printer: console.NewPrinter(files[1])}
	root := newRootCommand(o)
	root.SetOut(&console.TerminalWriter{Out: files[0]})
	root.SetErr(&console.TerminalWriter{Out: files[1]})
	root.SetArgs(args)
	if err := root.ExecuteContext(t.Context()); err != nil {
		o.printer.PrintError(err, exitCode(err))
	}
	var said [2]string
	for i, file := range files {
		content, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		said[i] = string(content)
	}
	return said[0], said[1]
}
