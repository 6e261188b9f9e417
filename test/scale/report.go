// What comes out: a table for people, and the law by which each row grows.
package main

import (
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// row is one thing that was measured at all sizes.
type row struct {
	name   string
	values []float64
}

// table returns Markdown, as it goes into docs/figures.md.
func table(taken []measured) string {
	var rows []row
	add := func(name string, of func(m measured) float64) {
		r := row{name: name}
		for _, m := range taken {
			r.values = append(r.values, of(m))
		}
		rows = append(rows, r)
	}
	add("images", func(m measured) float64 { return float64(m.Images) })
	add("releases", func(m measured) float64 { return float64(m.Releases) })
	add("nodes", func(m measured) float64 { return float64(m.Nodes) })
	add("pods", func(m measured) float64 { return float64(m.Pods) })
	add("files of the largest context", func(m measured) float64 { return float64(m.Files) })
	given := len(rows)
	add("start, everything there already (s)", func(m measured) float64 { return m.start })
	add("unchanged run (s)", func(m measured) float64 { return median(m.unchanged) })
	add("processor's time for it (s)", func(m measured) float64 { return median(m.cpu) })
	add("hashing in it (s)", func(m measured) float64 { return median(m.hashed) })
	add("one file saved: its hashing (s)", func(m measured) float64 { return median(m.rehashed) })
	add("one file saved: the whole run (s)", func(m measured) float64 { return median(m.saved) })
	add("memory at most (MB)", func(m measured) float64 { return m.memory })
	add("goroutines", func(m measured) float64 { return m.routines })
	add("threads", func(m measured) float64 { return m.threads })
	add("descriptors", func(m measured) float64 { return m.files })
	add("requests of an unchanged run", func(m measured) float64 { return sum(m.requests) })
	for _, name := range slices.Sorted(maps.Keys(taken[len(taken)-1].requests)) {
		if taken[len(taken)-1].requests[name] > 0 {
			add("· "+name, func(m measured) float64 { return m.requests[name] })
		}
	}
	var b strings.Builder
	b.WriteString("| |" + strings.Repeat(" |", len(taken)) + " grows |\n" + strings.Repeat("| --- ", len(taken)+2) + "|\n")
	for i, r := range rows {
		b.WriteString("| " + r.name + " |")
		for _, value := range r.values {
			b.WriteString(" " + number(value) + " |")
		}
		law := ""
		if i >= given {
			law = lawOf(r.values, taken)
		}
		b.WriteString(" " + law + " |\n")
	}
	fmt.Fprintf(&b, "\nMedians of %d. %s, %d cores.\n", len(taken[0].unchanged), time.Now().Format(time.DateOnly),
		runtime.NumCPU())
	return b.String()
}

// lawOf names how values grow with the size: by the exponent between the two largest sizes, since
// what is constant weighs less there.
func lawOf(values []float64, taken []measured) string {
	last := len(values) - 1
	if last == 0 || values[last-1] <= 0 || values[last] <= 0 {
		return ""
	}
	exponent := math.Log(values[last]/values[last-1]) / math.Log(float64(taken[last].Images)/float64(taken[last-1].Images))
	law := "faster than linear"
	switch {
	case exponent < 0.2:
		law = "not"
	case exponent < 0.8:
		law = "less than linear"
	case exponent < 1.2:
		law = "linear"
	}
	return fmt.Sprintf("%s (n^%.1f)", law, exponent)
}

func sum(counts map[string]float64) (total float64) {
	for _, count := range counts {
		total += count
	}
	return total
}

// median returns the middle one of values, or the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// number has three significant digits.
func number(value float64) string {
	if value >= 100 || value == math.Trunc(value) {
		return strconv.FormatFloat(value, 'f', 0, 64)
	}
	return strconv.FormatFloat(value, 'g', 3, 64)
}
