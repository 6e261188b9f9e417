package console

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/devloop/devloop/pkg/event"
)

// Table writes rows in aligned columns, and "-" for an empty cell. Flush it.
type Table struct {
	out    *tabwriter.Writer
	header []any
}

// NewTable returns a Table that writes to out.
func NewTable(out io.Writer) *Table {
	return &Table{out: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
}

// Header begins a section. It is written with the section's first row; a section without rows leaves
// nothing.
func (t *Table) Header(cells ...any) { t.header = cells }

// Row writes a row.
func (t *Table) Row(cells ...any) {
	if t.header != nil {
		header := t.header
		t.header = nil
		t.Row(header...)
	}
	texts := make([]string, len(cells))
	for i, cell := range cells {
		texts[i] = OrDash(event.Printable(fmt.Sprint(cell)))
	}
	t.Line(strings.Join(texts, "\t"))
}

// Line writes text as it is.
func (t *Table) Line(text string) { _, _ = fmt.Fprintln(t.out, text) } // Flush returns the error

// Flush writes what is left, and returns the first error.
func (t *Table) Flush() error { return t.out.Flush() }

// LoggedDifferences is how many differences a log shows.
const LoggedDifferences = 12

// DifferenceTable returns the first rows of the differences, or all if rows is 0, a line each.
func DifferenceTable(c event.Comparison, rows int) string {
	shown := c.Differences
	if rows > 0 && len(shown) > rows+1 { // a line that says "1 more" is no shorter
		shown = shown[:rows]
	}
	var out strings.Builder
	table := NewTable(&out)
	for _, row := range append(event.Differences{{Library: "library", Versions: c.Places}}, shown...) {
		cells := []any{row.Library}
		for _, version := range row.Versions {
			cells = append(cells, version)
		}
		table.Row(cells...)
	}
	_ = table.Flush() // a Builder takes all
	if more := len(c.Differences) - len(shown); more > 0 {
		fmt.Fprintf(&out, "… and %d more: devloop skew\n", more)
	}
	return strings.TrimSuffix(out.String(), "\n")
}
