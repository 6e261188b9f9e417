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
	if similar := Similar(word, known); similar != "" {
		return fmt.Sprintf("; did you mean %q?", similar)
	}
	return ""
}

// Similar returns the known word that word resembles most, "" if there is none. Up to a third of
// the letters may be wrong.
func Similar(word string, known []string) string {
	best, limit := "", (len(word)+2)/3+1
	for _, k := range known {
		if len(word)-len(k) >= limit || len(k)-len(word) >= limit {
			continue // at least that many letters are wrong
		}
		if n := typos(strings.ToLower(word), strings.ToLower(k)); n < limit && k != word {
			best, limit = k, n
		}
	}
	return best
}

// IsTypo tells whether word is surely meant to be a known word: but for - and _, and upper case, it
// has one wrong letter, or two of many.
func IsTypo(word, known string) bool {
	plain := strings.NewReplacer("-", "", "_", "")
	word, known = plain.Replace(strings.ToLower(word)), strings.ToLower(known)
	return typos(word, known) <= max(1, min(2, len(known)/4))
}

// typos returns how many letters are wrong, missing or too many. Two that changed places are one.
func typos(word, known string) int {
	if len(word) == len(known) {
		for i := 1; i < len(word); i++ {
			if word[:i-1] == known[:i-1] && word[i-1] == known[i] && word[i] == known[i-1] && word[i+1:] == known[i+1:] {
				return 1
			}
		}
	}
	return levenshtein.Distance(word, known, nil)
}

var notLabel = regexp.MustCompile(`[^a-z0-9]+`)

// Label makes a DNS label of text, or returns otherwise if text has no letter or digit.
func Label(text, otherwise string) string {
	const maxLength = 40 // leaves room for what charts append
	label := strings.Trim(notLabel.ReplaceAllString(strings.ToLower(text), "-"), "-")
	return cmp.Or(strings.Trim(label[:min(len(label), maxLength)], "-"), otherwise)
}
