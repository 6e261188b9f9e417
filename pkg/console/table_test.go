package console

import (
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

func TestDifferenceTable(t *testing.T) {
	c := event.Comparison{Places: []string{"worker", ".venv"},
		Differences: event.Differences{{Library: "dask", Versions: []string{"2024.1.0", "2024.2.0"}},
			{Library: "pyyaml", Versions: []string{"6.0\x1b[31m", ""}}}}
	if got, want := differenceTable(c),
		"library  worker    .venv\ndask     2024.1.0  2024.2.0\npyyaml   6.0       -"; got != want {
		t.Errorf("%s\nnot\n%s", got, want)
	}
	for range 11 {
		c.Differences = append(c.Differences, c.Differences[0])
	}
	if got := differenceTable(c); strings.Count(got, "\n") != 13 || strings.Contains(got, "more") {
		t.Errorf("13: %s", got)
	}
	c.Differences = append(c.Differences, c.Differences[0])
	if got := differenceTable(c); strings.Count(got, "\n") != 13 ||
		!strings.HasSuffix(got, "\n… and 2 more: devloop skew") {
		t.Errorf("14: %s", got)
	}
	var all strings.Builder
	table := NewTable(&all)
	table.Differences("library", c, 0)
	if err := table.Flush(); err != nil || strings.Count(all.String(), "\n") != 15 {
		t.Errorf("all: %s, %v", &all, err)
	}
	c = event.Comparison{Places: []string{"worker", ".venv"},
		Differences: event.Differences{{Library: "a\x1b[31m", Versions: []string{"1\r", "2"}}}}
	if got := differenceTable(c); strings.ContainsAny(got, "\x1b\r") {
		t.Errorf("%q", got)
	}
}
