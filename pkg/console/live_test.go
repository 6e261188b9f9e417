package console

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tonistiigi/vt100"

	"github.com/devloop/devloop/pkg/event"
)

// TestLive looks at a terminal after each event.
func TestLive(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	screen := vt100.NewVT100(8, defaultWidth)
	p := NewPrinter(writer) // no terminal: a pipe gets nothing that is drawn again
	if p.live != nil {
		t.Fatal("a pipe is taken for a terminal")
	}
	p.live = &liveTerminal{File: writer}
	p.out, p.terminal = p.live, writer
	p.Configure(FormatText, false, false)
	shown := func() string {
		t.Helper()
		buffer := make([]byte, 64<<10)
		if err := reader.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := reader.Read(buffer); err == nil {
			// A terminal makes both of a line's end.
			if _, err := screen.Write([]byte(strings.ReplaceAll(string(buffer[:n]), "\n", "\r\n"))); err != nil {
				t.Fatal(err)
			}
		}
		var lines []string
		for _, row := range screen.Content {
			if line := strings.TrimRight(string(row), " \x00"); line != "" {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "\n")
	}
	worker, client := event.Image{Name: "worker", Ref: "worker:1"}, event.Image{Name: "client", Ref: "client:2"}
	progress := func(image event.Image, step string, done int) {
		p.Print(event.Event{Time: noon, Stage: "build", Phase: event.Progress, Message: event.BuildingImage,
			Payload: event.Build{Image: image, Step: step, Done: done, Total: 8,
				Since: time.Now().Add(400 * time.Millisecond)}})
	}
	ended := func(image event.Image, phase event.Phase) {
		p.Print(event.Event{Time: noon, Stage: "build", Phase: phase, Message: event.ImageBuilt,
			Payload: event.Build{Image: image}})
	}
	note := func(message string) {
		p.Print(event.Event{Time: noon, Stage: "deploy", Phase: event.Noted, Message: message})
	}
	bar := func(name, bar, right string) string {
		return fmt.Sprintf("  build    %-19s  %-42s%5s", name, bar, right)
	}
	two := bar("worker", "━━━━──────────── 2/8  [2/5] RUN a", "0 s")
	all := bar("worker", "━━━━━━━━━━━━━━━━ 8/8  [5/5] RUN b", "0 s")
	second := bar("client", "──────────────── 0/8  long long long long…", "0 s")
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() { progress(worker, "[2/5] RUN a", 2) }, two},
		{func() { note("one") }, "   one\n" + two},
		{func() { progress(client, strings.Repeat("long ", 30), 0) }, "   one\n" + two + "\n" + second},
		{func() { progress(worker, "[5/5] RUN b", 8); note("two") }, "   one\n   two\n" + all + "\n" + second},
		{func() { ended(worker, event.Succeeded); ended(client, event.Superseded) },
			"   one\n   two\n  build    worker               all from the cache                        0.0 s"},
	} {
		step.do()
		if got := shown(); got != step.want {
			t.Errorf("it shows\n%s\nand should\n%s", got, step.want)
		}
	}
}
