package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// evil is an error that cannot even be read.
type evil struct{}

func (evil) Error() string { panic("unreadable") }

// What shows events panics over one: that is reported, once, and the next one is shown.
func TestLogAfterAPanic(t *testing.T) {
	var out bytes.Buffer
	stderr := os.Stderr
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stderr = write
	printer := console.NewPrinter(&out)
	l := console.NewLogger(printer)
	p := &process{secrets: &event.Secrets{}, board: status.NewBoard(nil), printer: printer, log: l}
	sink := p.before(l.Sink)
	for range 2 { // the board panics over it, and the log does
		sink(event.Event{Stage: "devloop", Phase: event.Failed, Message: event.ReleaseApplied,
			Payload: event.Release{Name: "web", Namespace: "n"}, Err: evil{}})
	}
	sink.Stage("deploy").Note("it goes on")
	l.Close()
	os.Stderr = stderr
	_ = write.Close()
	var plain bytes.Buffer
	if _, err := plain.ReadFrom(read); err != nil {
		t.Fatal(err)
	}
	if said := out.String(); !strings.Contains(said, "it goes on") || strings.Count(said, "please report") != 1 {
		t.Errorf("shown:\n%s", said)
	}
	said := plain.String()
	if strings.Count(said, "please report") != 1 || !strings.Contains(said, `"release applied" cannot be shown`) {
		t.Errorf("past the log: %q", said)
	}
	lines, _ := p.board.Lines(0, 100)
	if !slices.ContainsFunc(lines, func(l status.Line) bool { return l.Event.Message == "it goes on" }) {
		t.Error("the board does not go on")
	}
}
