package skaffold

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/devloop/devloop/pkg/config/tree"
)

// assignment is one value that helm --set sets: text, or a list of texts. They may hold
// placeholders.
type assignment struct {
	path   string
	text   string
	isList bool
	list   []string
}

var (
	setKey  = regexp.MustCompile(`(?s)^((?:\\.|[^\\=,])*)=`)
	setList = regexp.MustCompile(`(?s)^\{((?:\\.|[^\\}])*)\},?`)
	setItem = regexp.MustCompile(`(?s)^((?:\\.|[^\\,])*)\\?(?:,|$)`)
	keyOnly = regexp.MustCompile(`(?s)^(?:\\.|[^\\,])*`)

	escaped = regexp.MustCompile(`(?s)\\(.)`)
)

func unescape(text string) string { return escaped.ReplaceAllString(text, "$1") }

// helmSet reads path=value as helm --set does: a comma begins another path=value, { } hold a list,
// and a backslash makes the next character an ordinary one.
func helmSet(text string) (set []assignment, err error) {
	for rest := text; rest != ""; {
		key := setKey.FindStringSubmatch(rest)
		switch {
		case key == nil:
			return nil, fmt.Errorf("helm --set reads %q as a key without a value: a comma within a value is written \\,",
				keyOnly.FindString(rest))
		case strings.ContainsFunc(key[1], isPlaceholder):
			return nil, fmt.Errorf("helm --set reads what is behind a comma as another key: " +
				"a comma within a value is written \\,")
		}
		rest = rest[len(key[0]):]
		a := assignment{path: key[1], isList: strings.HasPrefix(rest, "{")}
		if a.isList {
			list := setList.FindStringSubmatch(rest)
			if list == nil {
				return nil, fmt.Errorf("helm --set reads { as the beginning of a list, which has no }: " +
					"a { that begins a value is written \\{")
			}
			rest = rest[len(list[0]):]
			for items := list[1] + ","; items != ""; {
				item := setItem.FindStringSubmatch(items)
				a.list = append(a.list, unescape(item[1]))
				items = items[len(item[0]):]
			}
		} else {
			item := setItem.FindStringSubmatch(rest)
			a.text, rest = unescape(item[1]), rest[len(item[0]):]
		}
		set = append(set, a)
	}
	return set, nil
}

// helmTyped returns text with the type that helm --set gives it: what looks like a number is one.
func (s *translator) helmTyped(n *tree.Node, text string) *tree.Node {
	switch {
	case strings.EqualFold(text, "true"), strings.EqualFold(text, "false"):
		return typed(n, "!!bool", strings.ToLower(text))
	case strings.EqualFold(text, "null"):
		return typed(n, "!!null", "null")
	}
	if number, err := strconv.ParseInt(text, 10, 64); err == nil && (text == "0" || text[0] != '0') {
		return typed(n, "!!int", strconv.FormatInt(number, 10))
	}
	return scalar(n, s.templated(text))
}
