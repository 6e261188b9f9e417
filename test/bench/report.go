// What comes out: a table for people, out.json for comparing over time.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// table returns the figures in Markdown, as they go into docs/figures.md: medians, with the
// smallest and the largest sample behind them. Below it stands where and when this was measured.
func table(figures []figure, where string) string {
	rows := [][]string{{"", "devloop", "alternative", "ratio", "goal", "met", "the alternative"}, nil}
	for _, f := range figures {
		row := []string{f.Name, spread(f.Ours, f.ours, f.Unit), "", "", f.Goal, "**no**", f.alternative}
		if f.Theirs != nil {
			row[2] = spread(*f.Theirs, f.theirs, f.Unit)
		}
		if f.Ratio != nil {
			row[3] = number(*f.Ratio)
		}
		if f.Met {
			row[5] = "yes"
		}
		rows = append(rows, row)
	}
	var b strings.Builder
	b.WriteString(markdown(rows))
	fmt.Fprintf(&b, "\nMedians (smallest–largest sample). %s\n", where)
	for _, f := range figures {
		if len(f.saves) > 0 {
			fmt.Fprintf(&b, "\n%s, stage by stage, in seconds since the save:\n\n%s", f.Name, stageTable(f.saves))
		}
	}
	return b.String()
}

// markdown lays a table out; nil stands for the line below its head.
func markdown(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range row {
			row[i] = strings.ReplaceAll(row[i], "|", `\|`)
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]), len("---"))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, width := range widths {
			cell := strings.Repeat("-", width)
			if row != nil {
				cell = row[i] + strings.Repeat(" ", width-utf8.RuneCountInString(row[i]))
			}
			b.WriteString("| " + cell + " ")
		}
		b.WriteString("|\n")
	}
	return b.String()
}

func spread(median float64, samples []float64, unit string) string {
	return fmt.Sprintf("%s (%s–%s)", quantity(median, unit), number(slices.Min(samples)), number(slices.Max(samples)))
}

func quantity(value float64, unit string) string { return number(value) + " " + unit }

func number(value float64) string { return strconv.FormatFloat(round(value), 'f', -1, 64) }

// machine tells when and on what the figures were measured.
func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %s, %d cores.", time.Now().Format(time.DateOnly), model, runtime.NumCPU())
}

// writeJSON writes the figures of this run to file, one a line.
func writeJSON(file string, figures []figure) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false) // a goal is "<=0.35", not "\u003c=0.35"
	for i, f := range figures {
		b.WriteString(map[bool]string{true: "[\n  ", false: "  "}[i == 0])
		if err := encoder.Encode(f); err != nil {
			return err
		}
		if i < len(figures)-1 {
			b.Truncate(b.Len() - 1)
			b.WriteString(",\n")
		}
	}
	b.WriteString("]\n")
	return os.WriteFile(file, b.Bytes(), 0o644)
}
