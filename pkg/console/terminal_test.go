package console

import (
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/muesli/termenv"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/test/terminal"
)

// The writer shows the same however the text is cut, and lets nothing through.
func TestVisibleWriter(t *testing.T) {
	text := terminal.Hostile + "世界\x1b[31m🙂\n" + terminal.Hostile + "\n"
	want := event.Visible(text)
	for size := 1; size <= len(text); size++ {
		var out strings.Builder
		v := &TerminalWriter{Out: &out}
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
	if _, err := io.WriteString(&TerminalWriter{Out: &out, colours: true},
		"\x1b[1;31mred\x1b[0m \x1b[2J\x1b]0;x\x07"); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "\x1b[1;31mred\x1b[0m "+`\x1b[2J\x1b]0;x\a`; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func FuzzVisibleWriter(f *testing.F) {
	f.Add([]byte(terminal.Hostile), uint64(1))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		var out strings.Builder
		v := &TerminalWriter{Out: &out}
		cuts := rand.New(rand.NewPCG(seed, 0))
		for rest := append(text, '\n'); len(rest) > 0; {
			n := 1 + cuts.IntN(len(rest))
			if _, err := v.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if left := terminal.Unprintable(out.String(), false); left != "" {
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
		{Stage: "config", Phase: event.Warned, Message: text,
			Fields: []any{"key " + text, text, "err", errors.New(text), "list", []string{text}, "lines", text + "\n" + text},
			Err:    err},
		{Run: 1, Stage: "loop", Phase: event.Failed, Message: event.RunComplete, Err: err},
		{Stage: event.PodStage, Phase: event.Noted, Message: event.PodLog,
			Payload: event.LogLine{Level: event.Info, Line: text, ContainerRef: event.ContainerRef{
				PodRef: event.PodRef{Pod: event.Name(text)}, Container: event.Name(text)}}},
		{Stage: "proof", Phase: event.Warned, Message: event.ClustersOutdated,
			Payload: event.OutdatedClusters{Clusters: event.DaskClusters{{Name: event.Name(text), Owner: text, Image: text}}}},
		{Stage: "proof", Phase: event.Failed, Message: event.ChainChecked,
			Payload: event.Chain{Links: event.Links{{Image: event.Name(text), Name: event.Name(text), Is: text}}}, Err: err},
	}
}

// The log has devloop's own colours, and of what others say only text.
func TestHostileLines(t *testing.T) {
	for _, format := range []string{FormatText, formatLogfmt} {
		for _, colours := range []bool{false, true} {
			var out strings.Builder
			p := NewPrinter(&out)
			p.Configure(format, true, false)
			if colours {
				p.lines.SetColorProfile(termenv.TrueColor)
			}
			for _, e := range hostileEvents(terminal.Hostile) {
				p.Print(e)
			}
			p.PrintError(event.WithHint(errors.New(terminal.Hostile), terminal.Hostile), 1)
			if left := terminal.Unprintable(out.String(), colours); left != "" {
				t.Errorf("%s: %q in %q", format, left, out.String())
			}
			if strings.Contains(out.String(), "\x1b[8m") {
				t.Errorf("%s: another's colour in %q", format, out.String())
			}
			if colours && format == FormatText && !colour.MatchString(out.String()) {
				t.Errorf("no colours: %q", out.String())
			}
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add(terminal.Hostile)
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range []string{FormatText, formatLogfmt} {
			var out strings.Builder
			p := NewPrinter(&out)
			p.Configure(format, true, false)
			for _, e := range hostileEvents(text) {
				p.Print(e)
			}
			p.PrintError(event.WithHint(errors.New(text), text), 1)
			if left := terminal.Unprintable(out.String(), false); left != "" {
				t.Errorf("%s: %q in %q", format, left, out.String())
			}
		}
	})
}
