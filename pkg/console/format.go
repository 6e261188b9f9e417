package console

import (
	"fmt"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/devloop/devloop/pkg/event"
)

// Size returns bytes with a unit.
func Size(bytes uint64) string {
	switch {
	case bytes < 1e5:
		return fmt.Sprintf("%.1f kB", float64(bytes)/1e3)
	case bytes < 1e9:
		return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(bytes)/1e9)
}

// OrDash returns text, or "-" if it is empty.
func OrDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// Brief returns as much of an error as a table has room for.
func Brief(text string) string {
	const room = 100 // columns
	line, _, _ := strings.Cut(text, "\n")
	return ansi.Truncate(event.Printable(line), room, "…")
}

// Age returns how long ago something was, in its largest unit.
func Age(since time.Time) string {
	switch d := time.Since(since); {
	case since.IsZero():
		return "-"
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0fm", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0fh", d.Hours())
	default:
		return fmt.Sprintf("%.0fd", d.Hours()/24)
	}
}
