package tree

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

var notLabel = regexp.MustCompile(`[^a-z0-9]+`)

// Label makes a name that Kubernetes takes out of any text; otherwise is for a text that has nothing for it.
func Label(text, otherwise string) string {
	const longest = 40 // leaves room for what charts add
	made := strings.Trim(notLabel.ReplaceAllString(strings.ToLower(text), "-"), "-")
	return cmp.Or(strings.Trim(made[:min(len(made), longest)], "-"), otherwise)
}

// DidYouMean returns `; did you mean "worker"?`, or "" if no known word is near.
func DidYouMean(word string, known []string) string {
	best, least := "", (len(word)+2)/3+1 // up to a third of the letters may be wrong
	for _, k := range known {
		if len(word)-len(k) >= least || len(k)-len(word) >= least {
			continue // that many letters are wrong at least
		}
		if n := edits(strings.ToLower(word), strings.ToLower(k)); n < least && k != word {
			best, least = k, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// edits is the Levenshtein distance of two words.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
