// One figure: both sides measured in the same run, in turns, and their medians compared.
package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	prepareTimeout = 10 * time.Minute // the first build, load and deployment of both sides
	sampleTimeout  = 4 * time.Minute
	cleanupTimeout = 2 * time.Minute
)

// benchmark is one row of the table.
type benchmark struct {
	name        string
	unit        string // of its samples
	goal        string // "<=0.35" or ">=0.9" bounds the ratio ours/theirs; with a unit, "<=50 ms", ours alone
	alternative string // what theirs is, in a few words; "" where there is none
	// prepare makes both sides ready; theirs is nil where there is no alternative. What has to be
	// undone is given to t.cleanup.
	prepare func(ctx context.Context, t *testbed) (ours, theirs sample, err error)
	runs    int // at most, where a sample takes long; 0 for as many as are asked for
	// proven is the goal of NAME-proven, a figure of the same saves: until the run was complete, what
	// runs was compared with what is on the disk, and devloop said so. "" where there is none.
	proven string
}

// sample measures once, in the benchmark's unit. It returns when the next sample can begin
// undisturbed.
type sample func(ctx context.Context) (float64, error)

// testbed is what a benchmark is given.
type testbed struct {
	dir     string                           // of this benchmark alone
	shared  string                           // of all benchmarks of this run
	logs    string                           // for what the measured programs print, "" for nowhere
	env     []string                         // of devloop, besides the usual
	saves   []save                           // that were recorded stage by stage, one with each of our samples
	outages struct{ ours, theirs []float64 } // of the samples, in seconds
	undo    []func(context.Context) error
}

// outage adds up the time in which a client gets no answers: from a question that fails to the next
// one that does not.
type outage struct {
	since   time.Time // zero while it gets answers
	seconds float64
}

// asked is called after each question, which began then.
func (o *outage) asked(began time.Time, err error) {
	switch {
	case err != nil && o.since.IsZero():
		o.since = began
	case err == nil && !o.since.IsZero():
		o.seconds += time.Since(o.since).Seconds()
		o.since = time.Time{}
	}
}

// cleanup has f called when the benchmark has ended, last one first, whether it failed or not.
func (t *testbed) cleanup(f func(context.Context) error) { t.undo = append(t.undo, f) }

func (t *testbed) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	var errs []error
	for _, f := range slices.Backward(t.undo) {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

// figure is a benchmark's result: medians, in its unit. Its JSON is what out.json holds; theirs and
// ratio are absent where there is no alternative, and ratio where theirs is 0.
type figure struct {
	Name   string   `json:"name"`
	Ours   float64  `json:"ours"`
	Theirs *float64 `json:"theirs,omitempty"`
	Unit   string   `json:"unit"`
	Ratio  *float64 `json:"ratio,omitempty"`
	Goal   string   `json:"goal"`
	Met    bool     `json:"met"`
	Runs   int      `json:"runs"`

	alternative  string
	ours, theirs []float64 // the samples
	saves        []save    // none where stages are not recorded
}

// measure takes runs samples of each side in turns, after one of each that does not count: it warms
// the caches.
func measure(ctx context.Context, b benchmark, t *testbed, runs int) (figures []figure, err error) {
	if _, err := parseGoal(b.goal); err != nil {
		return nil, err
	}
	if b.runs > 0 {
		runs = min(runs, b.runs)
	}
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return nil, err
	}
	if t.logs != "" {
		t.logs = filepath.Join(t.logs, filepath.FromSlash(b.name))
		if err := os.MkdirAll(t.logs, 0o755); err != nil {
			return nil, err
		}
	}
	defer func() { err = errors.Join(err, t.close(ctx)) }()
	progress(b, "preparing")
	preparing, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	takeOurs, takeTheirs, err := b.prepare(preparing, t)
	if err != nil {
		return nil, err
	}
	var ours, theirs []float64
	for i := range runs + 1 {
		said := fmt.Sprintf("run %d of %d", i, runs)
		if i == 0 {
			said = "warm-up"
		}
		value, err := take(ctx, takeOurs)
		if err != nil {
			return nil, fmt.Errorf("%s: ours: %w", said, err)
		}
		ours = append(ours, value)
		said += ": ours " + quantity(value, b.unit)
		if takeTheirs != nil {
			if value, err = take(ctx, takeTheirs); err != nil {
				return nil, fmt.Errorf("%s: theirs: %w", said, err)
			}
			theirs = append(theirs, value)
			said += ", theirs " + quantity(value, b.unit)
		}
		progress(b, said)
	}
	if takeTheirs != nil {
		theirs = theirs[1:]
	}
	f, err := compare(b, ours[1:], theirs)
	if err != nil {
		return nil, err
	}
	figures = []figure{f}
	if len(t.saves) > 0 {
		figures[0].saves = t.saves[1:]
		if err := writeSaves(t.logs, figures[0].saves); err != nil {
			return nil, err
		}
	}
	others, err := otherFigures(b, t, runs)
	return append(figures, others...), err
}

// otherFigures returns the figures that were taken with the same samples.
func otherFigures(b benchmark, t *testbed, runs int) (figures []figure, err error) {
	if b.proven != "" {
		var complete []float64
		for _, s := range t.saves {
			complete = append(complete, s.Complete)
		}
		proven, err := compare(benchmark{name: b.name + "-proven", unit: b.unit, goal: b.proven}, lastOf(complete, runs), nil)
		if err != nil {
			return nil, err
		}
		figures = append(figures, proven)
	}
	if len(t.outages.ours) > 0 {
		f, err := compare(benchmark{name: b.name + "-outage", unit: "s", goal: "<=0 s", alternative: b.alternative},
			lastOf(t.outages.ours, runs), lastOf(t.outages.theirs, runs))
		if err != nil {
			return nil, err
		}
		f.Met = slices.Max(f.ours) == 0 // a median hides what happens in every third save
		figures = append(figures, f)
	}
	return figures, nil
}

// lastOf returns the last n values: the samples before them do not count.
func lastOf(values []float64, n int) []float64 { return values[max(0, len(values)-n):] }

func take(ctx context.Context, s sample) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	return s(ctx)
}

func progress(b benchmark, what string) { fmt.Fprintf(os.Stderr, "bench: %s: %s\n", b.name, what) }

// compare makes the figure of the samples; theirs is empty where there is no alternative.
func compare(b benchmark, ours, theirs []float64) (figure, error) {
	f := figure{Name: b.name, Unit: b.unit, Goal: b.goal, Runs: len(ours), alternative: b.alternative, ours: ours,
		theirs: theirs}
	f.Ours = round(median(ours))
	if len(theirs) > 0 {
		t := round(median(theirs))
		f.Theirs = &t
		if t != 0 { // a count may be
			r := round(median(ours) / median(theirs))
			f.Ratio = &r
		}
	}
	g, err := parseGoal(b.goal)
	switch {
	case err != nil:
		return f, err
	case g.unit == b.unit:
		f.Met = g.met(f.Ours)
	case g.unit != "":
		return f, fmt.Errorf("the goal %q is not in %s", b.goal, b.unit)
	case f.Ratio == nil:
		return f, fmt.Errorf("the goal %q is a ratio, and there is nothing to compare with", b.goal)
	default:
		f.Met = g.met(*f.Ratio)
	}
	return f, nil
}

// goal is a bound on the ratio, or, with a unit, on ours.
type goal struct {
	atMost bool // else at least
	bound  float64
	unit   string
}

func parseGoal(text string) (g goal, err error) {
	rest, atMost := strings.CutPrefix(text, "<=")
	if !atMost {
		var atLeast bool
		if rest, atLeast = strings.CutPrefix(text, ">="); !atLeast {
			return g, fmt.Errorf("the goal %q does not begin with <= or >=", text)
		}
	}
	number := strings.TrimLeft(rest, "0123456789.")
	g = goal{atMost: atMost, unit: strings.TrimSpace(number)}
	g.bound, err = strconv.ParseFloat(rest[:len(rest)-len(number)], 64)
	if err != nil {
		return g, fmt.Errorf("the goal %q has no number: %w", text, err)
	}
	return g, nil
}

func (g goal) met(value float64) bool {
	if g.atMost {
		return value <= g.bound
	}
	return value >= g.bound
}

// median returns the middle one of values, or the mean of the two in the middle; there has to be
// one.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// round keeps three significant digits: more would be noise.
func round(value float64) float64 {
	if value == 0 {
		return 0
	}
	shift := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(value))))
	return math.Round(value*shift) / shift
}
