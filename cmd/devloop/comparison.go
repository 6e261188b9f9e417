package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// comparisonFields are those of an event that tells of a comparison as a log has them, the differences as a table for people.
func comparisonFields(e event.Event, people bool) []any {
	places, known := e.Field("places").([]string)
	if !known {
		return e.Fields
	}
	fields := slices.Clone(e.Fields)
	for i := 0; i+1 < len(fields); i += 2 {
		differences, areDifferences := fields[i+1].(event.Differences)
		switch {
		case fields[i] == "places":
			fields[i+1] = strings.Join(places, ",")
		case areDifferences && people:
			fields[i+1] = console.Table(event.Comparison{Places: places, Differences: differences}, console.TableRows)
		case areDifferences:
			fields[i+1] = differences.String()
		}
	}
	return fields
}

// ofComparison tells whether an event tells of one.
func ofComparison(e event.Event) bool {
	return e.Stage == "proof" && (e.Message == event.LibrariesSame || e.Message == event.LibrariesDiffer)
}

// writeLibraries writes what came of the last comparison, for devloop status.
func writeLibraries(out io.Writer, l *status.Libraries) {
	if l == nil || len(l.Places) < 2 {
		return
	}
	c := event.Comparison{Places: l.Places, Libraries: l.Libraries, Differences: l.Differences}
	if c.Same() {
		_, _ = fmt.Fprintf(out, "\nLIBRARIES\n%s, %s ago\n", sameIn(c), age(l.Compared)) // who flushes the table is told
		return
	}
	table := strings.Replace(console.Table(c, console.TableRows), "library", "LIBRARY", 1)
	_, _ = fmt.Fprintf(out, "\n%s\n", table)
}

// sameIn says that nothing differs.
func sameIn(c event.Comparison) string {
	last := len(c.Places) - 1
	return fmt.Sprintf("the same %d in %s and %s", c.Libraries, strings.Join(c.Places[:last], ", "), c.Places[last])
}
