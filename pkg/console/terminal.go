package console

import (
	"cmp"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/event"
)

// TerminalWriter writes text for people: whatever a terminal would obey becomes an escape that can
// be read (event.Visible), however the text is cut into writes. It is not safe for concurrent use.
type TerminalWriter struct {
	Out io.Writer
	// colours may pass. What is written must have been made visible before, so that all colours in
	// it are devloop's own.
	colours bool
	rest    []byte // the beginning of a character whose end has not been written yet
}

// ForPrograms returns the writer below a TerminalWriter, for data that has to stay exact. On a
// terminal a person reads it: w stays as it is.
func ForPrograms(w io.Writer) io.Writer {
	v, ok := w.(*TerminalWriter)
	if !ok {
		return w
	}
	switch out := v.Out.(type) {
	case *liveTerminal:
		return v
	case *os.File:
		if IsTerminal(out) {
			return v
		}
	}
	return v.Out
}

// colour is an escape sequence that changes how text looks (SGR), as lipgloss writes it.
var colour = regexp.MustCompile(`\x1b\[[0-9;]*m`)

func (v *TerminalWriter) Write(p []byte) (int, error) {
	text := append(v.rest, p...)
	complete := completeCharacters(text)
	v.rest = append([]byte(nil), text[complete:]...)
	if _, err := v.Out.Write([]byte(v.visible(string(text[:complete])))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (v *TerminalWriter) visible(text string) string {
	if !v.colours {
		return event.Visible(text)
	}
	var out strings.Builder
	last := 0
	for _, at := range colour.FindAllStringIndex(text, -1) {
		out.WriteString(event.Visible(text[last:at[0]]))
		out.WriteString(text[at[0]:at[1]])
		last = at[1]
	}
	out.WriteString(event.Visible(text[last:]))
	return out.String()
}

// completeCharacters returns the length of text without an incomplete UTF-8 character at its end.
func completeCharacters(text []byte) int {
	for i := len(text) - 1; i >= max(0, len(text)-utf8.UTFMax+1); i-- {
		if utf8.RuneStart(text[i]) {
			if utf8.FullRune(text[i:]) {
				return len(text)
			}
			return i
		}
	}
	return len(text)
}

// widthOf returns the columns of the terminal that out writes to, 0 if it is none.
func widthOf(out io.Writer) int {
	if v, ok := out.(*TerminalWriter); ok {
		out = v.Out
	}
	if file, ok := out.(*os.File); ok && IsTerminal(file) {
		return columns(file)
	}
	return 0
}

// InForeground reports whether what is typed is for this process.
func InForeground(terminal *os.File) bool {
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// IsTerminal reports whether f is a terminal now: one that was closed no longer is.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), getTermios)
	return err == nil
}

// symbols returns text with ASCII in place of devloop's own symbols, one character for another,
// where the user's locale says that the terminal shows nothing else.
func symbols(text string) string {
	locale := strings.ToLower(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	if locale == "" || strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8") {
		return text
	}
	return inASCII.Replace(text)
}

var inASCII = strings.NewReplacer("→", ">", "·", "-", "…", "~", "•", "*", "×", "x",
	"━", "=", "─", "-", "│", "|", "┌", "+", "├", "+", "└", "+")
