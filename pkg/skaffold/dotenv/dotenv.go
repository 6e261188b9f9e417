// Package dotenv reads files of variables as github.com/joho/godotenv 1.5 does, which itself has no
// bound on what variables of variables make.
package dotenv

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxValue = 1 << 20 // bytes of one variable

// Variable is one NAME=value.
type Variable struct {
	Name, Value string
	Line        int
}

const blanks = " \t\v\f\r\u0085\u00a0" // white space within a line

var (
	statement   = regexp.MustCompile(`^(?:export[` + blanks + `]+)?([\pL\pN_.` + blanks + `]*)[=:][` + blanks + `]*`)
	nameAtEnd   = regexp.MustCompile(`^[\pL\pN_.` + blanks + `]+$`)
	quoted      = regexp.MustCompile(`(?s)^(?:"(?:|.*?[^\\])"|'(?:|.*?[^\\])')`)
	unquoted    = regexp.MustCompile(`^[^\n\r]*`)
	lastComment = regexp.MustCompile(`^(.*)[` + blanks + `]#`) // of several # in a line, the last one counts
	lineBreak   = strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\\`, `\\`)
	backslash   = regexp.MustCompile(`\\([^$])`)
	reference   = regexp.MustCompile(`\\?\$\(?\{?([A-Z0-9_]*)\}?`)
)

// Parse returns the variables in text. The message says why the line cannot be read; it is "" if
// all can.
func Parse(text string) (list []Variable, line int, message string) {
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return nil, 1, "this is no text"
	}
	known := map[string]string{}
	rest := strings.ReplaceAll(text, "\r\n", "\n")
	line = 1
	skip := func(to string) {
		line += strings.Count(rest[:len(rest)-len(to)], "\n")
		rest = to
	}
	for {
		skip(strings.TrimLeftFunc(rest, unicode.IsSpace))
		if rest == "" || nameAtEnd.MatchString(rest) { // which godotenv ignores
			return list, 0, ""
		}
		if rest[0] == '#' {
			skip(rest[strings.IndexByte(rest+"\n", '\n'):])
			continue
		}
		m := statement.FindStringSubmatch(rest)
		if m == nil {
			return nil, line, "this is no NAME=value"
		}
		name, after := strings.TrimRightFunc(m[1], unicode.IsSpace), rest[len(m[0]):]
		value, isShort := "", true
		if strings.HasPrefix(after, `"`) || strings.HasPrefix(after, `'`) {
			value = quoted.FindString(after)
			if value == "" {
				return nil, line, "the quote has no end"
			}
			after = after[len(value):]
			quote := value[:1]
			value = strings.Trim(value[:len(value)-1], quote)
			if quote == `"` {
				value, isShort = fillIn(backslash.ReplaceAllString(lineBreak.Replace(value), "$1"), known)
			}
		} else {
			value = unquoted.FindString(after)
			after = after[len(value):]
			if before := lastComment.FindStringSubmatch(value); before != nil {
				value = before[1]
			}
			value, isShort = fillIn(strings.Trim(value, blanks), known)
		}
		if !isShort {
			return nil, line, "the value has more than 1 MiB"
		}
		known[name] = value
		list = append(list, Variable{name, value, line})
		skip(after)
	}
}

// fillIn replaces the variables that the file set before, $A or ${A}, and also $(A without what
// follows; others are empty. isShort is false if the result would be too long.
func fillIn(text string, known map[string]string) (filled string, isShort bool) {
	left := maxValue
	filled = reference.ReplaceAllStringFunc(text, func(match string) string {
		name := reference.FindStringSubmatch(match)[1]
		switch {
		case match[0] == '\\':
			return match[1:]
		case name == "":
			return match
		}
		if left -= len(known[name]); left < 0 {
			return ""
		}
		return known[name]
	})
	return filled, left >= 0
}
