package console

import (
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
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
			fields[i+1] = Table(event.Comparison{Places: places, Differences: differences}, TableRows)
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
