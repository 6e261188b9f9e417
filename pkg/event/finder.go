package event

import (
	"cmp"
	"slices"
	"strings"
)

const (
	// cutMark stands where a text was cut.
	cutMark = "…"
	// longText is from what length on, in bytes, a text may have been cut without a mark: by a
	// limit of what was read.
	longText = 1000
	// longestCut is how much of a secret is recognized at a cut, and across the ends of lines, in
	// bytes.
	longestCut = longestEncoded
)

// finder finds secrets in texts: whole ones, those that were wrapped into several lines, and what a
// cut has left of one. It does not change, so it may be used by several goroutines.
type finder struct {
	replacer      *strings.Replacer
	begin, finish map[string][]string // secrets by their first and by their last bytes, shortest of them
}

func newFinder(secrets []string) *finder {
	// The longer ones go first: one may contain another.
	slices.SortFunc(secrets, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	f := &finder{begin: map[string][]string{}, finish: map[string][]string{}}
	pairs := make([]string, 0, 2*len(secrets))
	for _, secret := range secrets {
		pairs = append(pairs, secret, Hidden)
		first, last := secret[:shortest], secret[len(secret)-shortest:]
		f.begin[first] = append(f.begin[first], secret)
		f.finish[last] = append(f.finish[last], secret)
	}
	f.replacer = strings.NewReplacer(pairs...)
	return f
}

func (f *finder) hide(text string) string {
	return f.cut(f.replacer.Replace(f.wrapped(text)))
}

// wrapped hides secrets that continue on the next line, whatever its indentation.
func (f *finder) wrapped(text string) string {
	if !strings.Contains(text, "\n") {
		return text
	}
	flat, ends := make([]byte, 0, len(text)), []int(nil)
	at := make([]int, 0, len(text)) // where in text a byte of flat is
	indent := false
	for i := range len(text) {
		switch c := text[i]; {
		case c == '\n':
			indent = true
			ends = append(ends, len(flat))
		case c == '\r', indent && (c == ' ' || c == '\t'):
		default:
			indent = false
			flat, at = append(flat, c), append(at, i)
		}
	}
	var out strings.Builder
	done := 0 // of text
	for i, line := 0, string(flat); i <= len(line)-2*shortest; i++ {
		for len(ends) > 0 && ends[0] <= i {
			ends = ends[1:]
		}
		if len(ends) == 0 {
			break
		}
		if i+longestCut < ends[0] {
			i = ends[0] - longestCut
		}
		for _, secret := range f.begin[line[i:i+shortest]] {
			if len(secret) >= 2*shortest && ends[0] < i+len(secret) && strings.HasPrefix(line[i:], secret) {
				out.WriteString(text[done:at[i]])
				out.WriteString(Hidden)
				i += len(secret) - 1
				done = at[i] + 1
				break
			}
		}
	}
	if done == 0 {
		return text
	}
	return out.String() + text[done:]
}

// cut hides what a cut has left of a secret: its beginning or its end.
func (f *finder) cut(text string) string {
	if len(text) < longText && !strings.Contains(text, cutMark) { // nearly always
		return text
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		parts, isLong := strings.Split(line, cutMark), len(line) >= longText
		for j, part := range parts {
			if j > 0 || isLong || i == 0 && len(text) >= longText {
				part = f.cutBegin(part)
			}
			if j < len(parts)-1 || isLong || i == len(lines)-1 && len(text) >= longText {
				part = f.cutEnd(part)
			}
			parts[j] = part
		}
		lines[i] = strings.Join(parts, cutMark)
	}
	return strings.Join(lines, "\n")
}

// cutEnd hides the longest beginning of a secret at the end of a text.
func (f *finder) cutEnd(text string) string {
	part := strings.TrimRight(text, " ")
	for i := max(0, len(part)-longestCut); i <= len(part)-shortest; i++ {
		for _, secret := range f.begin[part[i:i+shortest]] {
			if strings.HasPrefix(secret, part[i:]) {
				return part[:i] + Hidden + text[len(part):]
			}
		}
	}
	return text
}

// cutBegin hides the longest end of a secret at the beginning of a text.
func (f *finder) cutBegin(text string) string {
	part := strings.TrimLeft(text, " ")
	for end := min(len(part), longestCut); end >= shortest; end-- {
		for _, secret := range f.finish[part[end-shortest:end]] {
			if strings.HasSuffix(secret, part[:end]) {
				return text[:len(text)-len(part)] + Hidden + part[end:]
			}
		}
	}
	return text
}
