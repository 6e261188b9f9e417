package event

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// Printable returns a program's output as one line: escape sequences and control characters are
// removed, other invisible characters are escaped (Visible).
func Printable(text string) string {
	plain := true
	for i := 0; i < len(text) && plain; i++ {
		plain = ' ' <= text[i] && text[i] <= '~'
	}
	if plain { // nearly always
		return text
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(ansi.Strip(text), "\uFFFD"))
	return Visible(text)
}

// Visible returns text with a Go escape (\x1b, \u202e) for everything that a terminal obeys or does
// not show: control characters except newline and tab, Unicode's format characters (writing
// direction, zero width, tags), line and paragraph separators, and invalid UTF-8.
func Visible(text string) string {
	if first := firstUnprintable(text); first < 0 { // nearly always
		return text
	}
	var out strings.Builder
	for text != "" {
		first := firstUnprintable(text)
		if first < 0 {
			first = len(text)
		}
		out.WriteString(text[:first])
		if text = text[first:]; text == "" {
			break
		}
		r, size := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError {
			fmt.Fprintf(&out, `\x%02x`, text[0])
		} else {
			out.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
		text = text[size:]
	}
	return out.String()
}

// firstUnprintable returns the index of the first character that Visible escapes, -1 if there is
// none.
func firstUnprintable(text string) int {
	for i, r := range text {
		switch {
		case ' ' <= r && r <= '~', r == '\n', r == '\t':
		case r == utf8.RuneError:
			if _, size := utf8.DecodeRuneInString(text[i:]); size == 1 {
				return i
			}
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			return i
		}
	}
	return -1
}
