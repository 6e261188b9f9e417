// Tests of runs that another devloop has written.
package status

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func historyOf(t *testing.T, lines ...string) *History {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runs.jsonl")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := OpenHistory(path)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// line is a run with what the others do not have.
func line(n int, more string) string {
	return fmt.Sprintf(`{"number":%d,"why":"change","started":"2026-11-01T12:00:00Z","outcome":"succeeded",`+
		`"seconds":2%s}`, n, more)
}

func TestChangesOfAnEarlierRun(t *testing.T) {
	many := strings.Repeat(`{"name":"a","change":"added"},`, 1000) + `{"name":"b","change":"mislaid"}`
	h := historyOf(t, line(1, `,"changes":[{"file":""},{"file":"requirements.txt","lines":[`+many+`],"more":-7}`+
		strings.Repeat(`,{"file":"values.yaml"}`, 1000)+`]`), line(2, `,"changes":7`), line(3, ""))
	if len(h.Runs()) != 2 {
		t.Fatalf("%d runs", len(h.Runs()))
	}
	changes := h.Runs()[0].Changes
	if len(changes) != keptChanges || len(changes[0].Lines) != keptChanges || changes[0].More != 1001-keptChanges {
		t.Errorf("%d files, %v", len(changes), changes)
	}
	if got := h.Runs()[1].Changes; got != nil {
		t.Errorf("%v", got)
	}
}

func TestRunsOfAnotherDevloop(t *testing.T) {
	for _, test := range []struct {
		name, line string
		kept       bool
	}{
		{"as it should be", line(7, ""), true},
		{"an outcome that is not known", line(7, `,"outcome":"postponed"`), true},
		{"a key that is not known", line(7, `,"mood":{"a":[1]}`), true},
		{"nothing", `{}`, false},
		{"no object", `["number"]`, false},
		{"null", `null`, false},
		{"half a line", line(7, "")[:30], false},
		{"a number that is a text", line(7, `,"seconds":"two"`), false},
		{"a negative time", line(7, `,"seconds":-1`), false},
		{"a time without end", line(7, `,"seconds":1e300`), false},
		{"no outcome", line(7, `,"outcome":""`), false},
		{"still under way", line(7, `,"outcome":"running"`), false},
		{"a novel for an outcome", line(7, `,"outcome":"`+strings.Repeat("x", 1000)+`"`), false},
		{"no number", line(0, ""), false},
		{"a beginning that is none", line(7, `,"started":"yesterday"`), false},
		{"a line without end", line(7, `,"error":"`+strings.Repeat("x", runLength)+`"`), false},
	} {
		h := historyOf(t, line(1, ""), test.line, line(9, ""))
		runs := h.Runs()
		if want := map[bool]int{true: 3, false: 2}[test.kept]; len(runs) != want || runs[0].Number != 1 ||
			runs[len(runs)-1].Number != 9 {
			t.Errorf("%s: %d runs", test.name, len(runs))
		}
		for _, run := range runs {
			if _, err := json.Marshal(run); err != nil || run.Ended().Before(run.Started) || run.Stages == nil ||
				run.Spans == nil {
				t.Errorf("%s: %+v, %v", test.name, run, err)
			}
		}
	}
}

func TestPartsOfARunOfAnotherDevloop(t *testing.T) {
	span := `{"stage":"teleport","name":"x","started":"2026-11-01T12:00:00Z","seconds":%s,"outcome":"%s","bytes":-5}`
	spans := fmt.Sprintf(span+","+span+","+span, "1", "postponed", "-1", "failed", "1", "running")
	many := strings.Repeat(fmt.Sprintf(span, "1", "failed")+",", 2*keptSpans)
	run := historyOf(t, line(7,
		`,"bytes":-1,"stages":[{"name":"teleport","seconds":1},{"name":"build","seconds":-1},{"seconds":1}],`+
			`"spans":[`+spans+`,{}]`)).Runs()[0]
	if len(run.Stages) != 1 || run.Stages[0].Name != "teleport" || run.Bytes != 0 {
		t.Errorf("%+v", run)
	}
	if len(run.Spans) != 2 || run.Spans[0].Outcome != "postponed" || run.Spans[1].Outcome != Succeeded ||
		run.Spans[0].Bytes != 0 {
		t.Errorf("%+v", run.Spans)
	}
	if run := historyOf(t, line(7, `,"spans":[`+strings.TrimSuffix(many,
		",")+`]`)).Runs()[0]; len(run.Spans) != keptSpans {
		t.Errorf("%d bars", len(run.Spans))
	}
}

// Of a file that has become large, the newest runs are read; what is no file is not waited for.
func TestHistoryThatIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runs.jsonl")
	file, err := os.Create(path)
	if err == nil {
		err = file.Truncate(1 << 40) // a hole, which takes no place
	}
	if err == nil {
		_, err = file.Seek(0, 2)
	}
	if err == nil {
		_, err = file.WriteString("\n" + line(9, "") + "\n")
	}
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if h, err := OpenHistory(path); err != nil || len(h.Runs()) != 1 || h.Runs()[0].Number != 9 {
		t.Errorf("of a large one: %v, %v", h.Runs(), err)
	}

	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, t.TempDir(), "/dev/zero"} {
		done := make(chan error, 1)
		go func() {
			_, err := OpenHistory(path)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", path, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s holds up the start", path)
		}
	}
}
