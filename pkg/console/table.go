package console

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/charmbracelet/x/ansi"

	"github.com/devloop/devloop/pkg/event"
)

// Table writes rows in aligned columns. Flush it.
type Table struct {
	out    *tabwriter.Writer
	header []any
	begun  bool
	width  int
}

// NewTable returns a Table that writes to out.
func NewTable(out io.Writer) *Table {
	return &Table{out: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), width: widthOf(out)}
}

// OnTerminal reports whether a person reads it.
func (t *Table) OnTerminal() bool { return t.width > 0 }

// Fits reports whether the rows fit the terminal, true if it is none.
func (t *Table) Fits(rows [][]string) bool {
	widths := map[int]int{}
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], ansi.StringWidth(cell))
		}
	}
	sum := 0
	for _, width := range widths {
		sum += width + 2
	}
	return t.width == 0 || sum-2 <= t.width
}

// Header begins a section, which a blank line separates from what stands before it. It is written
// with the section's first row: without rows, nothing is.
func (t *Table) Header(cells ...any) { t.header = cells }

// Row writes a row. An empty cell becomes "-".
func (t *Table) Row(cells ...any) {
	if header := t.header; header != nil {
		t.header = nil
		if t.begun {
			t.write("")
		}
		t.Row(header...)
	}
	texts := make([]string, len(cells))
	for i, cell := range cells {
		texts[i] = OrDash(event.Printable(fmt.Sprint(cell)))
	}
	t.write(strings.Join(texts, "\t"))
}

// Line writes a line without columns.
func (t *Table) Line(format string, args ...any) {
	t.write(event.Printable(fmt.Sprintf(format, args...)))
}

func (t *Table) write(line string) {
	t.begun = true
	_, _ = fmt.Fprintln(t.out, line) // Flush returns the error
}

// Flush writes what is left, and returns the first error.
func (t *Table) Flush() error { return t.out.Flush() }

// LoggedDifferences is how many differences a log shows.
const LoggedDifferences = 12

// Differences writes a section of the first differences, or of all if limit is 0. Title is that of
// the libraries' column.
func (t *Table) Differences(title string, c event.Comparison, limit int) {
	shown := c.Differences
	if limit > 0 && len(shown) > limit+1 { // a line that says "1 more" is no shorter
		shown = shown[:limit]
	}
	row := func(first string, texts []string) []any {
		cells := []any{first}
		for _, text := range texts {
			cells = append(cells, text)
		}
		return cells
	}
	t.Header(row(title, c.Places)...)
	for _, d := range shown {
		t.Row(row(d.Library, d.Versions)...)
	}
	if more := len(c.Differences) - len(shown); more > 0 {
		t.Line("… and %d more: devloop skew", more)
	}
}

// differenceTable returns what a log shows of the differences.
func differenceTable(c event.Comparison) string {
	var out strings.Builder
	table := NewTable(&out)
	table.Differences("library", c, LoggedDifferences)
	_ = table.Flush() // a Builder takes all
	return strings.TrimSuffix(out.String(), "\n")
}
