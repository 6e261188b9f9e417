package skaffold

import (
	"fmt"
	"slices"
	"strings"
)

// placeholder is a character that stands for something in a text until the text is complete: what
// devloop's templates say about an image, or a variable that is not set.
type placeholder struct{ function, name string }

const (
	firstPlaceholder = '\U00100000' // the last private use area of Unicode: text from files cannot hold it
	digest           = "digest"     // no function of devloop: images that are not pushed have no digest
	unset            = "unset"      // its name is that of a variable
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

// findPlaceholder returns the first placeholder in text with one of these functions, or with any if
// none are given.
func (s *translator) findPlaceholder(text string, functions ...string) (p placeholder, found bool) {
	for _, r := range text {
		if isPlaceholder(r) {
			p = s.placeholders[r-firstPlaceholder]
			if len(functions) == 0 || slices.Contains(functions, p.function) {
				return p, true
			}
		}
	}
	return placeholder{}, false
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
