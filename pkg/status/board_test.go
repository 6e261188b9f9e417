package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/devloop/devloop/pkg/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLines(t *testing.T) {
	b := NewBoard(nil)
	if lines, _ := b.Lines(0, 10); lines != nil {
		t.Error("lines out of nothing")
	}
	note := func(n int) {
		for range n {
			b.Sink(event.Event{Stage: "build", Phase: event.Noted, Message: "m"})
			b.Sink(event.Event{Stage: "build", Phase: event.Progress, Message: "m"}) // which is no line
		}
	}
	check := func(after uint64, most int, first, last, gone uint64) {
		t.Helper()
		lines, missed := b.Lines(after, most)
		if len(lines) == 0 || lines[0].Seq != first || lines[len(lines)-1].Seq != last ||
			uint64(len(lines)) != last-first+1 || missed != gone {
			t.Errorf("after %d, at most %d: %d lines, %d missed", after, most, len(lines), missed)
		}
		for i, line := range lines {
			if line.Seq != first+uint64(i) {
				t.Fatalf("line %d is %+v", i, line)
			}
		}
	}
	note(10)
	check(0, 100, 1, 10, 0)
	check(0, 3, 1, 3, 0)
	check(3, 3, 4, 6, 0)
	check(7, 100, 8, 10, 0)
	for _, after := range []uint64{10, 99} {
		if lines, missed := b.Lines(after, 5); lines != nil || missed != 0 {
			t.Error("lines that are not there")
		}
	}
	newest := func(most int, stage string, want uint64) {
		t.Helper()
		if after := b.Newest(most, stage); after != want {
			t.Errorf("the newest %d of %q are behind %d, not %d", most, stage, after, want)
		}
	}
	newest(0, "", 10)
	newest(3, "", 7)
	newest(3, "build", 7)
	newest(3, "pod", 10)
	newest(11, "", 0)
	note(keptOwnLines)
	check(0, 1<<40, 11, keptOwnLines+10, 10)
	check(5, 1<<40, 11, keptOwnLines+10, 5) // the oldest are gone
	check(keptOwnLines, 1<<40, keptOwnLines+1, keptOwnLines+10, 0)

	// Pods that print a lot drive away nothing but what pods printed.
	for range keptPodLines + 100 {
		b.Sink(event.Event{Stage: "pod", Phase: event.Noted, Message: event.PodLog})
	}
	note(1)
	newest(1, "pod", keptOwnLines+10+keptPodLines+100-1)
	newest(2, "build", keptOwnLines+10-1)
	newest(keptPodLines+3, "", keptOwnLines+10-2) // the lines between them that are gone do not count
	newest(1<<40, "", 11)
	lines, missed := b.Lines(0, 1<<40)
	if len(lines) != keptOwnLines+keptPodLines || missed != 11+100 ||
		!slices.IsSortedFunc(lines, func(a, b Line) int { return cmp.Compare(a.Seq, b.Seq) }) {
		t.Errorf("%d lines, %d missed", len(lines), missed)
	}
	if lines[keptOwnLines-2].Event.Message != "m" || lines[keptOwnLines-1].Event.Message != event.PodLog ||
		lines[len(lines)-1].Event.Message != "m" {
		t.Error("they are out of order")
	}
}

// TestChanged: a reader sees each change, however many goroutines send events.
func TestChanged(t *testing.T) {
	b := NewBoard(nil)
	var sending sync.WaitGroup
	const each, senders = 500, 4
	for range senders {
		sending.Go(func() {
			for range each {
				b.Sink(event.Event{Stage: "build", Phase: event.Noted, Message: "m"})
			}
		})
	}
	deadline := time.After(time.Minute)
	for seen := uint64(0); seen < each*senders; {
		changed := b.Changed()
		lines, _ := b.Lines(seen, 1<<40)
		if len(lines) > 0 {
			if lines[0].Seq != seen+1 {
				t.Fatalf("line %d follows %d", lines[0].Seq, seen)
			}
			seen = lines[len(lines)-1].Seq
			continue
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%d of %d seen", seen, each*senders)
		}
	}
	sending.Wait()
}

// TestEndOfARun: the log's line says where the time went, also when it has been JSON meanwhile.
func TestEndOfARun(t *testing.T) {
	b := NewBoard(nil)
	var last event.Event
	sink := b.Record(func(e event.Event) { last = e })
	send := func(at time.Duration, stage string, phase event.Phase, message string, took time.Duration, payload any) {
		sink(event.Event{Time: noon.Add(at), Run: 1, Stage: stage, Phase: phase, Message: message, Took: took,
			Payload: payload, Fields: []any{"x", "y"}})
	}
	worker, client := event.Build{Image: image("worker", "1")}, event.Build{Image: image("client", "1")}
	send(0, "loop", event.Detailed, event.RunStarts, 0, event.RunStart{Why: "start"})
	send(0, "build", event.Started, event.ImageBuilt, 0, worker)
	send(5*time.Second, "build", event.Succeeded, event.ImageBuilt, 5*time.Second, worker)
	send(6*time.Second, "build", event.Started, event.ImageBuilt, 0, client) // and one that is beside it for a while
	send(7*time.Second, "build", event.Succeeded, event.ImageBuilt, 3*time.Second, client)
	send(7400*time.Millisecond, "loop", event.Succeeded, event.RunComplete, 7*time.Second, nil)
	const want = "7.4 s: build 7.0"
	if got := last.Payload.(event.RunEnd).Summary(); got != want || len(last.Fields) != 2 || last.Fields[0] != "x" {
		t.Errorf("%q, %v", got, last.Fields)
	}
	text, err := json.Marshal(last)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"fields":{"total":7.4,"stages":{"build":7},"x":"y"}`) {
		t.Errorf("%s", text)
	}
	var read event.Event
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if got := read.Payload.(event.RunEnd).Summary(); got != want {
		t.Error(got)
	}
}

func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "runs.jsonl")
	h, err := OpenHistory(path)
	if err != nil || len(h.Runs()) != 0 {
		t.Fatalf("%v, %v", h, err)
	}
	b := NewBoard(h.Runs())
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Follow(ctx, b) }()
	for n := 1; n <= keptRuns+5; n++ {
		b.Sink(event.Event{Time: noon.Add(time.Duration(n) * time.Minute), Run: n, Stage: "loop", Phase: event.Detailed,
			Message: event.RunStarts,
			Payload: event.RunStart{Why: "start"}})
		b.Sink(event.Event{Time: noon.Add(time.Duration(n)*time.Minute + time.Second), Run: n, Stage: "loop",
			Phase: event.Failed, Message: event.RunComplete, Err: errors.New("broken")})
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	again, err := OpenHistory(path)
	if err != nil {
		t.Fatal(err)
	}
	runs := again.Runs()
	if len(runs) != keptRuns || runs[0].Number != 6 || runs[keptRuns-1].Number != keptRuns+5 ||
		runs[0].Error != "broken" || runs[0].Seconds != 1 {
		t.Errorf("%d runs: %+v", len(runs), runs)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	// A line that is no run does no harm, a folder in the file's place is sent.
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append([]byte("half a li\n{}\n"), content...), 0o600); err != nil {
		t.Fatal(err)
	}
	if broken, err := OpenHistory(path); err != nil || len(broken.Runs()) != keptRuns {
		t.Errorf("%v, %v", broken, err)
	}
	if err := (&History{path: filepath.Join(path, "below")}).write(nil); err == nil {
		t.Error("a file below a file was written")
	}
}
