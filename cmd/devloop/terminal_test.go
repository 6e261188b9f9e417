package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/muesli/termenv"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// hostile has one of each kind of character that does not print.
const hostile = "a\x1b]0;title\x07\x1b[8mb\x9b31m\u009b2J\u202ec\u2066\u200b\u2028\ufeff\U000e0041\r\x7fd\xe4\xb8"

// unprintable returns what of text a terminal would obey, or does not show, but for colours where
// they may be.
func unprintable(text string, colours bool) string {
	if colours {
		text = colour.ReplaceAllString(text, "")
	}
	if !utf8.ValidString(text) {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return r
		}
		return -1
	}, text)
}

// The writer shows the same however the text is cut, and lets nothing through.
func TestVisibleWriter(t *testing.T) {
	text := hostile + "世界\x1b[31m🙂\n" + hostile + "\n"
	want := event.Visible(text)
	for size := 1; size <= len(text); size++ {
		var out strings.Builder
		v := &visible{out: &out}
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			if written, err := io.WriteString(v, rest[:n]); err != nil || written != n {
				t.Fatal(written, err)
			}
			rest = rest[n:]
		}
		if out.String() != want {
			t.Fatalf("in pieces of %d: %q, not %q", size, out.String(), want)
		}
	}
	var out strings.Builder
	if _, err := io.WriteString(&visible{out: &out, colours: true}, "\x1b[1;31mred\x1b[0m \x1b[2J\x1b]0;x\x07"); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "\x1b[1;31mred\x1b[0m "+`\x1b[2J\x1b]0;x\a`; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func FuzzVisibleWriter(f *testing.F) {
	f.Add([]byte(hostile), uint64(1))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		var out strings.Builder
		v := &visible{out: &out}
		cuts := rand.New(rand.NewPCG(seed, 0))
		for rest := append(text, '\n'); len(rest) > 0; {
			n := 1 + cuts.IntN(len(rest))
			if _, err := v.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if left := unprintable(out.String(), false); left != "" {
			t.Errorf("%q", left)
		}
		if out.String() != event.Visible(string(text)+"\n") {
			t.Errorf("%q", out.String())
		}
	})
}

// hostileEvents have it in every place.
func hostileEvents(text string) []event.Event {
	err := event.WithHint(errors.New(text+"\n"+text), text)
	return []event.Event{
		{Stage: "config", Phase: event.Warned, Message: text, Fields: []any{"key " + text, text, "err", errors.New(text), "list", []string{text}, "lines", text + "\n" + text}, Err: err},
		{Run: 1, Stage: "loop", Phase: event.Failed, Message: event.RunComplete, Err: err},
		{Stage: event.PodStage, Phase: event.Noted, Message: event.PodLog, Fields: []any{"pod", text, "container", text, "level", "info", "line", text}},
		{Stage: "proof", Phase: event.Warned, Message: event.ClustersOld, Fields: []any{"clusters", event.DaskClusters{{Name: text, Owner: text, Image: text}}}},
		{Stage: "proof", Phase: event.Failed, Message: event.ChainChecked, Fields: []any{"links", event.Links{{Image: text, Name: text, Is: text}}}, Err: err},
	}
}

// The log has devloop's own colours, and of what others say only text.
func TestHostileLines(t *testing.T) {
	for _, format := range []string{formatText, formatLogfmt} {
		for _, colours := range []bool{false, true} {
			var out strings.Builder
			p := newPrinter(&out)
			p.configure(format, true, false)
			if colours {
				p.lines.SetColorProfile(termenv.TrueColor)
			}
			for _, e := range hostileEvents(hostile) {
				p.event(e)
			}
			p.end(event.WithHint(errors.New(hostile), hostile), 1)
			if left := unprintable(out.String(), colours); left != "" {
				t.Errorf("%s: %q in %q", format, left, out.String())
			}
			if strings.Contains(out.String(), "\x1b[8m") {
				t.Errorf("%s: another's colour in %q", format, out.String())
			}
			if colours && format == formatText && !colour.MatchString(out.String()) {
				t.Errorf("no colours: %q", out.String())
			}
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add(hostile)
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range []string{formatText, formatLogfmt} {
			var out strings.Builder
			p := newPrinter(&out)
			p.configure(format, true, false)
			for _, e := range hostileEvents(text) {
				p.event(e)
			}
			p.end(event.WithHint(errors.New(text), text), 1)
			if left := unprintable(out.String(), false); left != "" {
				t.Errorf("%s: %q in %q", format, left, out.String())
			}
		}
	})
}

// What a state says in its reasons stays in its line of devloop status.
func TestHostileStatus(t *testing.T) {
	var out strings.Builder
	forged := hostile + "\nforged line\tx"
	err := writeStatus(&visible{out: &out}, status.State{Project: "p", Cluster: "c", Health: status.Failed, Reason: forged,
		Pods: []status.Pod{{Name: "web", Phase: "Pending", Reason: forged}},
		Old:  event.DaskClusters{{Namespace: "ns", Name: "one", Owner: forged, Image: forged}},
		Runs: []status.Run{{Number: 1, Files: forged, Outcome: status.Broken, Error: forged}}})
	if left := unprintable(out.String(), false); err != nil || left != "" {
		t.Errorf("%v, %q in %q", err, left, out.String())
	}
	if regexp.MustCompile(`(?m)^forged`).MatchString(out.String()) {
		t.Errorf("a line of its own:\n%s", out.String())
	}
}

// What a command ends with, what cobra says, and data: exact in a file.
func TestHostileCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("devloop.yaml", []byte("apiVersion: devloop/v1\nname: x\n\"k\\e]0;title\\a\\u202e\": 1\nprofiles: { \"p\\e[8m\": {} }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"render"}, {"--\x1b]0;x\x07"}, {"\x1b]0;x\x07"}, {"help", "\u202ex"}, {"-f", "\x1b[8m.yaml"}, {"__complete", "--profile", ""},
		{"init", "--from", "\u202e"}, {"status", "--wait", "\x1b[2J"}, {"logs", "("}} {
		stdout, stderr := runHere(t, args...)
		if left := unprintable(stdout+stderr, false); left != "" {
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
	c := &config.Config{Format: "skaffold/v4beta11", Notes: make([]config.Note, 1000)}
	tellConfig(func(e event.Event) { messages = append(messages, e.Message+fmt.Sprint(e.Fields...)) }, nil, c)
	if last := messages[len(messages)-1]; len(messages) != shownNotes+3 || last != "more of it is not as skaffold has itnotes950" {
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
	o := &options{printer: newPrinter(files[1])}
	root := newRootCommand(o)
	root.SetOut(&visible{out: files[0]})
	root.SetErr(&visible{out: files[1]})
	root.SetArgs(args)
	if err := root.ExecuteContext(t.Context()); err != nil {
		o.printer.end(err, exitCode(err))
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
