package event

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestVisible(t *testing.T) {
	for _, test := range []struct{ name, text, visible, printable string }{
		{"text", "plain: é 世界 🙂 a\u00a0b", "plain: é 世界 🙂 a\u00a0b", "plain: é 世界 🙂 a b"},
		{"lines and columns", "a\tb\nc", "a\tb\nc", "a b c"},
		{"a colour", "\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`, "red"},
		{"a title", "\x1b]0;mine\x07x", `\x1b]0;mine\ax`, "x"},
		{"written over", "real\rfake\b", `real\rfake\b`, "real fake"},
		{"a null, and delete", "a\x00b\x7fc", `a\x00b\x7fc`, "abc"},
		{"C1 as UTF-8", "a\u009b31mb\u0085c", `a\u009b31mb\u0085c`, "a31mb c"},
		{"C1 as a byte", "a\x9b31mb", `a\x9b31mb`, "ab"},
		{"half a character", "a\xe4\xb8", `a\xe4\xb8`, "a\uFFFD"},
		{"a replacement that is written", "a\uFFFDb", "a\uFFFDb", "a\uFFFDb"},
		{"embeddings and overrides", "\u202a\u202b\u202c\u202d\u202e", `\u202a\u202b\u202c\u202d\u202e`,
			`\u202a\u202b\u202c\u202d\u202e`},
		{"isolates", "\u2066\u2067\u2068\u2069", `\u2066\u2067\u2068\u2069`, `\u2066\u2067\u2068\u2069`},
		{"marks of direction", "\u200e\u200f\u061c", `\u200e\u200f\u061c`, `\u200e\u200f\u061c`},
		{"separators", "a\u2028b\u2029c", `a\u2028b\u2029c`, "a b c"},
		{"zero width, BOM", "\u200b\u200c\u200d\u2060\ufeff", `\u200b\u200c\u200d\u2060\ufeff`,
			`\u200b\u200c\u200d\u2060\ufeff`},
		{"tags", "a\U000e0041\U000e007f", `a\U000e0041\U000e007f`, `a\U000e0041\U000e007f`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Visible(test.text); got != test.visible {
				t.Errorf("Visible: %q, not %q", got, test.visible)
			}
			if got := Printable(test.text); got != test.printable {
				t.Errorf("Printable: %q, not %q", got, test.printable)
			}
		})
	}
}

func FuzzVisible(f *testing.F) {
	f.Add("\x1b]0;x\x07\u202e\x9b\xff\U000e0041")
	f.Fuzz(func(t *testing.T, text string) {
		for _, shown := range []string{Visible(text), Printable(text)} {
			if !utf8.ValidString(shown) || strings.ContainsFunc(shown, func(r rune) bool {
				return r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
			}) {
				t.Errorf("%q is shown as %q", text, shown)
			}
			if again := Visible(shown); again != shown {
				t.Errorf("%q once more is %q", shown, again)
			}
		}
		if strings.ContainsAny(Printable(text), "\n\t") {
			t.Errorf("%q is no line", Printable(text))
		}
	})
}
