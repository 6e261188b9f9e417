package console

import (
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

func TestDifferenceTable(t *testing.T) {
	c := event.Comparison{Places: []string{"worker", ".venv"}, Differences: event.Differences{{Library: "dask", Versions: []string{"2024.1.0", "2024.2.0"}}, {Library: "pyyaml", Versions: []string{"6.0\x1b[31m", ""}}}}
	if got, want := DifferenceTable(c, LoggedDifferences), "library  worker    .venv\ndask     2024.1.0  2024.2.0\npyyaml   6.0       -"; got != want {
		t.Errorf("%s\nnot\n%s", got, want)
	}
	for range 11 {
		c.Differences = append(c.Differences, c.Differences[0])
	}
	if got := DifferenceTable(c, LoggedDifferences); strings.Count(got, "\n") != 13 || strings.Contains(got, "more") {
		t.Errorf("13: %s", got)
	}
	c.Differences = append(c.Differences, c.Differences[0])
	if got := DifferenceTable(c, LoggedDifferences); strings.Count(got, "\n") != 13 || !strings.HasSuffix(got, "\n… and 2 more: devloop skew") {
		t.Errorf("14: %s", got)
	}
	if got := DifferenceTable(c, 0); strings.Count(got, "\n") != 14 {
		t.Errorf("all: %s", got)
	}
	c = event.Comparison{Places: []string{"worker", ".venv"}, Differences: event.Differences{{Library: "a\x1b[31m", Versions: []string{"1\r", "2"}}}}
	if got := DifferenceTable(c, LoggedDifferences); strings.ContainsAny(got, "\x1b\r") {
		t.Errorf("%q", got)
	}
}
