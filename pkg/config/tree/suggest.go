package tree

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/agext/levenshtein"
)

// DidYouMean returns `; did you mean "worker"?`, or "" if word resembles none of the known words.
func DidYouMean(word string, known []string) string {
	best, limit := "", (len(word)+2)/3+1 // up to a third of the letters may be wrong
	for _, k := range known {
		if len(word)-len(k) >= limit || len(k)-len(word) >= limit {
			continue // at least that many letters are wrong
		}
		n := levenshtein.Distance(strings.ToLower(word), strings.ToLower(k), nil)
		if n < limit && k != word {
			best, limit = k, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

var notLabel = regexp.MustCompile(`[^a-z0-9]+`)

// Label makes a DNS label of text, or returns otherwise if text has no letter or digit.
func Label(text, otherwise string) string {
	const maxLength = 40 // leaves room for what charts append
	label := strings.Trim(notLabel.ReplaceAllString(strings.ToLower(text), "-"), "-")
	return cmp.Or(strings.Trim(label[:min(len(label), maxLength)], "-"), otherwise)
}
