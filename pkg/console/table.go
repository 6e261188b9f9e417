package console

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/devloop/devloop/pkg/event"
)

// TableRows is how many differences a table in a log shows.
const TableRows = 12

// Table returns the differences as lines, the first rows of them, or all if rows is 0.
func Table(c event.Comparison, rows int) string {
	shown := c.Differences
	if rows > 0 && len(shown) > rows+1 { // a line that says "1 more" is no shorter
		shown = shown[:rows]
	}
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, row := range append(event.Differences{{Library: "library", Versions: c.Places}}, shown...) {
		cells := []string{event.Printable(row.Library)}
		for _, version := range row.Versions {
			cells = append(cells, cmp.Or(event.Printable(version), "-"))
		}
		_, _ = fmt.Fprintln(table, strings.Join(cells, "\t")) // a Builder takes all
	}
	_ = table.Flush()
	if more := len(c.Differences) - len(shown); more > 0 {
		fmt.Fprintf(&out, "… and %d more: devloop skew\n", more)
	}
	return strings.TrimSuffix(out.String(), "\n")
}
