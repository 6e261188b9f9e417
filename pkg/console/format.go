package console

import (
	"fmt"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"k8s.io/apimachinery/pkg/util/duration"

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

// Age returns how long ago something was, as kubectl shows it; "-" for the zero time.
func Age(since time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return duration.HumanDuration(time.Since(since))
}
