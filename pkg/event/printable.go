package event

import (
	"strings"
	"unicode"

	"github.com/charmbracelet/x/ansi"
)

// Printable is what some program has said, in one line and without what a terminal would obey: escape sequences, control characters, changes of
// the direction of writing.
func Printable(text string) string {
	plain := true
	for i := 0; i < len(text) && plain; i++ {
		plain = ' ' <= text[i] && text[i] <= '~'
	}
	if plain { // nearly always
		return text
	}
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(ansi.Strip(text), "\uFFFD"))
}
