package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v: %v, not %v", c.values, got, c.want)
		}
	}
}

func TestRound(t *testing.T) {
	for value, want := range map[float64]float64{0: 0, 0.041678: 0.0417, 9.8765: 9.88, 12345: 12300, -0.5: -0.5} {
		if got := round(value); got != want {
			t.Errorf("round(%v) is %v, not %v", value, got, want)
		}
	}
}

func TestGoals(t *testing.T) {
	ours, theirs := []float64{0.3, 0.2, 0.4}, []float64{1, 2, 1}
	for _, c := range []struct {
		goal   string
		theirs []float64
		met    bool
		wrong  string
	}{
		{"<=0.35", theirs, true, ""},
		{"<=0.29", theirs, false, ""},
		{"<= 0.3", theirs, false, "number"},
		{">=0.25", theirs, true, ""},
		{">=0.9", theirs, false, ""},
		{"<=0.3 s", theirs, true, ""},
		{"<=0.3s", nil, true, ""},
		{"<=0.2 s", nil, false, ""},
		{"<=0.35", nil, false, "nothing to compare with"},
		{"<=300 ms", nil, false, "not in s"},
		{"0.35", theirs, false, "begin"},
		{"<=s", theirs, false, "number"},
	} {
		f, err := compare(benchmark{name: "a/b", unit: "s", goal: c.goal}, ours, c.theirs)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("goal %q: error %v does not say %q", c.goal, err, c.wrong)
			}
			continue
		}
		if err != nil || f.Met != c.met {
			t.Errorf("goal %q of %+v: met %v, error %v", c.goal, f, f.Met, err)
		}
	}
}

// A count may be 0 on either side, which has no ratio.
func TestCountOfNothing(t *testing.T) {
	b := benchmark{name: "a/b", unit: "requests", goal: "<=0 requests"}
	for theirs, ratio := range map[float64]bool{0: false, 8: true} {
		f, err := compare(b, []float64{0}, []float64{theirs})
		if err != nil || !f.Met || *f.Theirs != theirs || (f.Ratio != nil) != ratio {
			t.Errorf("0 and %v: %+v, error %v", theirs, f, err)
		}
		if err := writeJSON(filepath.Join(t.TempDir(), "out.json"), []figure{f}); err != nil {
			t.Error(err)
		}
		table([]figure{f}, "Here.")
	}
}

// turns is a benchmark whose sides write down when they were asked.
func turns(order *[]string, ours, theirs []float64) benchmark {
	side := func(name string, values []float64) sample {
		return func(context.Context) (float64, error) {
			*order = append(*order, name)
			if len(values) == 0 {
				return 0, errors.New("it broke")
			}
			value := values[0]
			values = values[1:]
			return value, nil
		}
	}
	return benchmark{name: "a/b", unit: "s", goal: "<=0.5",
		prepare: func(_ context.Context, t *testbed) (sample, sample, error) {
			for _, undone := range []string{"second", "first"} {
				t.cleanup(func(context.Context) error {
					*order = append(*order, undone)
					return nil
				})
			}
			return side("ours", ours), side("theirs", theirs), nil
		}}
}

func TestMeasure(t *testing.T) {
	var order []string
	figures, err := measure(t.Context(), turns(&order, []float64{100, 1, 2, 3}, []float64{100, 9, 8, 7}),
		&testbed{dir: t.TempDir()}, 3)
	if err != nil || len(figures) != 1 {
		t.Fatal(figures, err)
	}
	f := figures[0]
	if got := strings.Join(order, " "); got != "ours theirs ours theirs ours theirs ours theirs first second" {
		t.Error("not in turns, or not undone in reverse:", got)
	}
	if f.Ours != 2 || *f.Theirs != 8 || *f.Ratio != 0.25 || f.Runs != 3 || !f.Met {
		t.Errorf("the warm-up counts, or the medians are wrong: %+v", f)
	}
}

func TestMeasureFails(t *testing.T) {
	var order []string
	_, err := measure(t.Context(), turns(&order, []float64{1, 1, 1}, []float64{1, 1}), &testbed{dir: t.TempDir()}, 3)
	if err == nil || err.Error() != "run 2 of 3: ours 1 s: theirs: it broke" {
		t.Error("the error does not say which sample failed:", err)
	}
	if got := strings.Join(order[len(order)-2:], " "); got != "first second" {
		t.Error("not undone:", got)
	}
}

func TestJSON(t *testing.T) {
	compared, err := compare(benchmark{name: "load/small-change", unit: "s", goal: "<=0.05"}, []float64{0.41},
		[]float64{9.8})
	if err != nil {
		t.Fatal(err)
	}
	bounded, err := compare(benchmark{name: "watch/idle", unit: "ms", goal: "<=50 ms"}, []float64{70}, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "out.json")
	if err := writeJSON(file, []figure{compared, bounded}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := `[
  {"name":"load/small-change","ours":0.41,"theirs":9.8,"unit":"s","ratio":0.0418,"goal":"<=0.05","met":true,"runs":1},
  {"name":"watch/idle","ours":70,"unit":"ms","goal":"<=50 ms","met":false,"runs":1}
]
`
	if string(got) != want {
		t.Errorf("out.json is\n%s, not\n%s", got, want)
	}
	if !json.Valid(got) {
		t.Error("and it is not JSON")
	}
}

func TestTable(t *testing.T) {
	compared, err := compare(benchmark{name: "a/b", unit: "s", goal: "<=0.35", alternative: "this | that"},
		[]float64{1.004, 3, 2}, []float64{5})
	if err != nil {
		t.Fatal(err)
	}
	bounded, err := compare(benchmark{name: "c/d", unit: "ms", goal: "<=1 ms"}, []float64{2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `|     | devloop    | alternative | ratio | goal   | met    | the alternative |
| --- | ---------- | ----------- | ----- | ------ | ------ | --------------- |
| a/b | 2 s (1–3)  | 5 s (5–5)   | 0.4   | <=0.35 | **no** | this \| that    |
| c/d | 2 ms (2–2) |             |       | <=1 ms | **no** |                 |

Medians (smallest–largest sample). Here.
`
	if got := table([]figure{compared, bounded}, "Here."); got != want {
		t.Errorf("the table is\n%s, not\n%s", got, want)
	}
}

func TestChoose(t *testing.T) {
	for name, want := range map[string]int{"": len(benchmarks), "served": 2, "served/save-to-served": 1, "serve": 0,
		"served/": 0, "save/docker": 6, "save/docker/host": 2} {
		if got := choose(name); len(got) != want {
			t.Errorf("%q chooses %d benchmarks, not %d", name, len(got), want)
		}
	}
}

func TestBenchmarksAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range benchmarks {
		if _, err := parseGoal(b.goal); err != nil || !regexp.MustCompile(`^[a-z]+(/[a-z0-9-]+)+$`).MatchString(b.name) ||
			seen[b.name] || b.unit == "" || b.prepare == nil {
			t.Errorf("%+v: %v", b, err)
		}
		if b.proven != "" {
			if _, err := compare(benchmark{unit: b.unit, goal: b.proven}, []float64{1}, nil); err != nil {
				t.Errorf("%+v: %v", b, err)
			}
		}
		seen[b.name] = true
	}
}

// The Helm beside which devloop is measured is the one that is part of it.
func TestSameHelm(t *testing.T) {
	var versions [][]string
	for _, file := range []string{filepath.Join("..", "..", "go.mod"), filepath.Join("helm", "go.mod")} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, regexp.MustCompile(`helm\.sh/helm/v3 v\S+`).FindAllString(string(content), -1))
	}
	if len(versions[0]) != 1 || !reflect.DeepEqual(versions[0], versions[1]) {
		t.Errorf("versions of Helm differ: %v", versions)
	}
}

func TestProcess(t *testing.T) {
	bed := &testbed{dir: t.TempDir(), logs: t.TempDir()}
	p, err := bed.start(t.Context(), bed.dir, []string{"GREETING=hello"}, "sh", "-c",
		`echo "$GREETING"; echo next; cat; echo last; exit 3`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hello", "next"} {
		if l, err := p.await(t.Context(), want[1:]); err != nil || l.text != want {
			t.Fatalf("%q is not %q: %v", l.text, want, err)
		}
	}
	err = p.finish(t.Context()) // closes stdin, so that cat ends
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "\n  last") {
		t.Error("the error does not say how it ended and what it said:", err)
	}
	if _, err := p.await(t.Context(), "never"); err == nil || !strings.Contains(err.Error(), `before it said "never"`) {
		t.Error("a program that has ended is waited for:", err)
	}
	log, err := os.ReadFile(filepath.Join(bed.logs, "sh.log"))
	if err != nil || string(log) != "hello\nnext\nlast\n" {
		t.Errorf("logged: %q, %v", log, err)
	}
	if err := bed.close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var missed outage
		ask := func(takes time.Duration, err error) {
			began := time.Now()
			if err := wait(t.Context(), takes); err != nil {
				t.Fatal(err)
			}
			missed.asked(began, err)
		}
		down := errors.New("connection refused")
		ask(time.Second, nil)
		ask(time.Second, down)
		ask(time.Second, down)
		ask(time.Second, nil) // which waited
		ask(time.Second, nil)
		ask(2*time.Second, down)
		ask(time.Second, nil)
		if missed.seconds != 6 {
			t.Errorf("no answers for %v s", missed.seconds)
		}
	})
}
