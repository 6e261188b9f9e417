package main

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// recordedSave is a save of requirements.txt, as devloop logged it in JSON.
func recordedSave(t *testing.T) save {
	t.Helper()
	text, err := os.ReadFile("testdata/save.json")
	if err != nil {
		t.Fatal(err)
	}
	var lines []line
	for l := range bytes.Lines(text) {
		lines = append(lines, line{text: string(l)})
	}
	s, err := newSave(lines, time.Date(2026, 11, 30, 2, 21, 47, 815e6, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRecordedSave(t *testing.T) {
	s := recordedSave(t)
	if s.Complete != 11.26 {
		t.Errorf("complete after %v s", s.Complete)
	}
	var got []string
	at := 0.0
	for _, part := range s.CriticalPath {
		if part.From != at {
			t.Errorf("a hole of the critical path before %+v", part)
		}
		at = part.To
		if took := part.To - part.From; took >= 0.05 {
			got = append(got, fmt.Sprintf("%.2f %s", took, part.Name))
		}
	}
	if at != s.Complete {
		t.Errorf("the critical path ends at %v", at)
	}
	want := []string{"0.10 run starts", "0.25 image built daskclient", "0.07   load build context",
		"0.33   RUN sed -i '/^# Changes often/,$ { /^-/!d; …", "3.36   RUN pip install -r /opt/platform/requiremen…",
		"0.07   exporting to image (2)", "0.82 image loaded daskclient", "0.09 until: image verified worker",
		"1.27 image verified worker", "0.13 until: release applied dask-session", "0.05 release applied dask-session",
		"0.25 until: release applied dask-gateway", "0.91 release applied dask-gateway", "0.80 rollout complete",
		"0.50   pod api-dask-gateway starts", "1.50   pod api-dask-gateway becomes ready", "0.17 rollout complete",
		"0.12 platform answers", "0.16 chain checked"}
	if !reflect.DeepEqual(want, got) {
		t.Errorf("the critical path is\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCriticalPath(t *testing.T) {
	for what, c := range map[string]struct {
		stages, want []stage
	}{
		"nothing is known": {nil, []stage{{Name: "until: the end", To: 9}}},
		"of two at a time, what ended last counts": {
			[]stage{{Name: "short", From: 0, To: 3}, {Name: "long", From: 0, To: 8}, {Name: "last", From: 8, To: 9}},
			[]stage{{Name: "long", To: 8}, {Name: "last", From: 8, To: 9}},
		},
		"a hole is of what was under way": {
			[]stage{{Name: "first", From: 0, To: 3}, {Name: "beside", From: 2, To: 9}, {Name: "last", From: 6, To: 9.001}},
			[]stage{{Name: "first", To: 3}, {Name: "beside", From: 3, To: 6}, {Name: "last", From: 6, To: 9}},
		},
		"but not of a part": {
			[]stage{{Name: "first", To: 3}, {Name: "part", From: 3, To: 9.5, Of: "all"}, {Name: "last", From: 6, To: 9}},
			[]stage{{Name: "first", To: 3}, {Name: "until: last", From: 3, To: 6}, {Name: "last", From: 6, To: 9}},
		},
		"or else of what came after it": {
			[]stage{{Name: "first", From: 0, To: 3}, {Name: "last", From: 6, To: 9}},
			[]stage{{Name: "first", To: 3}, {Name: "until: last", From: 3, To: 6}, {Name: "last", From: 6, To: 9}},
		},
		"a stage counts by its parts": {
			[]stage{{Name: "all a", From: 1, To: 9}, {Name: "part", From: 2, To: 8, Of: "all"}, {Name: "first", To: 1}},
			[]stage{{Name: "first", To: 1}, {Name: "all a", From: 1, To: 2}, {Name: "part", From: 2, To: 8},
				{Name: "all a", From: 8, To: 9}},
		},
	} {
		got := criticalPath(c.stages, 9)
		for i := range got {
			got[i].Of = ""
		}
		if !reflect.DeepEqual(c.want, got) {
			t.Errorf("%s: %+v, not %+v", what, got, c.want)
		}
	}
}

func TestStageTable(t *testing.T) {
	saves := []save{recordedSave(t), recordedSave(t)}
	saves[1].Stages[0].To += 2
	table := stageTable(saves)
	for _, row := range []string{
		"| run starts                                     | 0.00   | 1.10 (0.10–2.10) | 0.10                 |",
		"| **run complete**                               | 11.26  |                  | 11.26                |",
	} {
		if !strings.Contains(table, row) {
			t.Errorf("no row\n%s in\n%s", row, table)
		}
	}
	if strings.Contains(table, "inputs hashed") {
		t.Error("what takes next to no time is shown")
	}
}
