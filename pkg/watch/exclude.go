package watch

// What a folder's Path excludes.

import (
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher"
)

// filter is a list of patterns in the syntax of .dockerignore. A nil filter excludes nothing.
type filter struct {
	base     string
	patterns *patternmatcher.PatternMatcher
	negated  [][]string // the patterns that include something again, split at their slashes
}

// newFilter returns nil for a list that cannot be parsed: the build reports the mistake, and too
// many changes do no harm.
func newFilter(base string, patterns []string) *filter {
	if len(patterns) == 0 {
		return nil
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return nil
	}
	f := &filter{base: strings.TrimSuffix(filepath.Clean(base), "/") + "/", patterns: matcher}
	for _, p := range matcher.Patterns() {
		if p.Exclusion() {
			f.negated = append(f.negated, strings.Split(p.String(), "/"))
		}
	}
	return f
}

func (f *filter) excludes(path string) bool {
	if f == nil {
		return false
	}
	name, below := strings.CutPrefix(path, f.base)
	if !below {
		return false
	}
	out, err := f.patterns.MatchesOrParentMatches(name)
	return out && err == nil
}

// includesBelow tells whether something below an excluded folder may be included again.
func (f *filter) includesBelow(folder string) bool {
	parts := strings.Split(strings.TrimPrefix(folder, f.base), "/")
	for _, pattern := range f.negated {
		if reachesBelow(pattern, parts) {
			return true
		}
	}
	return false
}

// reachesBelow tells whether a pattern may match something below a folder. One that matches the
// folder itself, or a parent, does not: it has decided about the folder already.
func reachesBelow(pattern, folder []string) bool {
	for i, name := range folder {
		if i == len(pattern) {
			return false
		}
		if strings.Contains(pattern[i], "**") {
			return true
		}
		if match, err := filepath.Match(pattern[i], name); err != nil || !match {
			return false
		}
	}
	return len(pattern) > len(folder)
}
