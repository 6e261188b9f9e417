// Package terminal is for tests of what a terminal shows.
package terminal

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Hostile has one of each kind of character that does not print.
const Hostile = "a\x1b]0;title\x07\x1b[8mb\x9b31m\u009b2J\u202ec\u2066\u200b\u2028\ufeff\U000e0041\r\x7fd\xe4\xb8"

var colours = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// Unprintable returns the characters of text that a terminal would obey or not show. Colours count
// unless coloured.
func Unprintable(text string, coloured bool) string {
	if coloured {
		text = colours.ReplaceAllString(text, "")
	}
	if !utf8.ValidString(text) {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return r
		}
		return -1
	}, text)
}
