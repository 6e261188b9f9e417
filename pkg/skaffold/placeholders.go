package skaffold

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// placeholder is a character that stands for what devloop's templates say about an image, until the
// text is complete.
type placeholder struct{ function, name string }

const (
	firstPlaceholder = '\U00100000' // the last private use area of Unicode: text from files cannot hold it
	digest           = "digest"     // no function of devloop: images that are not pushed have no digest
)

func isPlaceholder(r rune) bool { return r >= firstPlaceholder }

// placeholder returns the character for what a function says about an image.
func (s *translator) placeholder(function, name string) string {
	p := placeholder{function, name}
	i := slices.Index(s.placeholders, p)
	if i < 0 {
		i = len(s.placeholders)
		s.placeholders = append(s.placeholders, p)
	}
	return string(firstPlaceholder + rune(i))
}

// findPlaceholder returns the first placeholder in text.
func (s *translator) findPlaceholder(text string) (p placeholder, found bool) {
	if i := strings.IndexFunc(text, isPlaceholder); i >= 0 {
		r, _ := utf8.DecodeRuneInString(text[i:])
		return s.placeholders[r-firstPlaceholder], true
	}
	return placeholder{}, false
}

// sample returns text with something in place of each placeholder that any function would change.
func (s *translator) sample(text string) string {
	for i := range s.placeholders {
		text = strings.ReplaceAll(text, string(firstPlaceholder+rune(i)), fmt.Sprintf("Ex.io/a-%d:Tag", i))
	}
	return text
}

// templated returns text with its placeholders as templates of devloop.yaml. A {{ of its own is
// escaped, also one that would arise from a { before a template.
func (s *translator) templated(text string) string {
	var out strings.Builder
	for text != "" {
		end := strings.IndexFunc(text, isPlaceholder)
		if end < 0 {
			out.WriteString(escapeBraces(text))
			break
		}
		before, brace := text[:end], ""
		if strings.HasSuffix(strings.ReplaceAll(before, "{{", ""), "{") {
			before, brace = before[:end-1], `{{ "{" }}`
		}
		p, _ := s.findPlaceholder(text[end:])
		fmt.Fprintf(&out, "%s%s{{ %s %q }}", escapeBraces(before), brace, p.function, p.name)
		text = text[end+len(string(firstPlaceholder)):]
	}
	return out.String()
}

// escapeBraces returns text that means itself where devloop fills in templates.
func escapeBraces(text string) string { return strings.ReplaceAll(text, "{{", `{{ "{{" }}`) }
