package config

// What is said when something is wrong: one line for each problem, in the order of the files and their lines.

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong.
type Problem struct {
	File    string `json:"file"`             // as the caller named it, or the assignment: "--set forwards[0].local=x"
	Line    int    `json:"line,omitempty"`   // from 1; 0 where only the file is known
	Column  int    `json:"column,omitempty"` // from 1; 0 where only the line is known
	Message string `json:"message"`

	order int // of the file among all that was read
}

// String returns file:line:column: message, on one line.
func (p Problem) String() string {
	where := p.File
	if p.Line > 0 {
		where += fmt.Sprintf(":%d", p.Line)
	}
	if p.Column > 0 {
		where += fmt.Sprintf(":%d", p.Column)
	}
	return strings.ReplaceAll(where+": "+p.Message, "\n", `\n`)
}

// Error is everything that is wrong with a configuration.
type Error struct {
	Problems []Problem // the first ones
	More     int       // how many there are behind those

	hint  string
	files []string
	cause error
}

// Error returns one line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	if e.More > 0 {
		lines = append(lines, "and "+thousands(e.More)+" more")
	}
	return strings.Join(lines, "\n")
}

// MarshalJSON returns the list of the problems.
func (e *Error) MarshalJSON() ([]byte, error) { return json.Marshal(e.Problems) }

// thousands writes a number with a comma before each three digits.
func thousands(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Hint returns what the user can do, "" where the messages say it.
func (e *Error) Hint() string { return e.hint }

// Unwrap returns why a file could not be read, nil if all could.
func (e *Error) Unwrap() error { return e.cause }

// Files returns the absolute paths whose change may cure the error: the files that were read, and what they name but is
// not there.
func (e *Error) Files() []string { return e.files }

// Wrong returns an error about a value of a valid configuration that turned out to be wrong later: a local port that
// another process has. It has the position of the value at path ("forwards[0].local"), or of what is nearest to it where
// the value was left out. The hint may be "".
func (c *Config) Wrong(path, message, hint string) *Error {
	r := &report{hint: hint}
	if c.root == nil { // not made by Load
		r.add(&origin{name: FileName}, Problem{Message: path + ": " + message})
		return r.failed(c.files)
	}
	at, rest := c.root, path
	for rest != "" {
		child, below := child(at, rest)
		if child == nil {
			break
		}
		at, rest = child, below
	}
	value := *at
	if value.path != "" { // where it stands in its own file may have another name
		value.path += rest
	} else {
		value.path = path
	}
	r.wrong(&value, "%s", message)
	return r.failed(c.files)
}

// WrongValue is Wrong for a value of the release of that name: key is the one it has in set or setString, or the way to it
// in inlineValues, "a.b.c".
func (c *Config) WrongValue(release, in, key, message, hint string) *Error {
	i := slices.IndexFunc(c.Releases, func(r Release) bool { return r.Name == release })
	return c.Wrong(strings.TrimSuffix(fmt.Sprintf("releases[%d].%s.%s", i, in, key), "."), message, hint)
}

// child returns the child that a path begins with, and the rest of the path; nil if there is none.
func child(n *node, path string) (child *node, rest string) {
	for i, item := range n.items {
		if rest, ok := strings.CutPrefix(path, fmt.Sprintf("[%d]", i)); ok {
			return item, rest
		}
	}
	path = strings.TrimPrefix(path, ".")
	for _, e := range n.entries { // keys may have dots: the longest one is meant
		below, ok := strings.CutPrefix(path, e.key.Value)
		if ok && (below == "" || below[0] == '.' || below[0] == '[') && (child == nil || len(below) < len(rest)) {
			child, rest = e.value, below
		}
	}
	return child, rest
}

const (
	// mostProblems is how many problems are reported at once.
	mostProblems = 50
	// mostNotes is the same for what is noted of a skaffold.yaml, of which each line may differ
	// from what skaffold makes of it.
	mostNotes = 1000
	// longestMessage is how much of a problem is reported, in bytes: it may quote what the file
	// says.
	longestMessage = 1000
)

// shortened keeps the beginning of a message, which says where it is, and the end, which says what
// is wrong.
func shortened(message string) string {
	if len(message) <= longestMessage {
		return message
	}
	return strings.ToValidUTF8(message[:longestMessage/2]+" … "+message[len(message)-longestMessage/2:], "")
}

// report collects what is wrong.
type report struct {
	problems []Problem
	seen     map[Problem]bool // values are checked in their file and in the whole, but told of once
	hint     string
	cause    error
	missing  []string          // absolute paths that are named in vain
	looked   map[string]string // what exists said
	foreign  bool              // a file is of another version
}

// wrong reports what is wrong with the value n.
func (r *report) wrong(n *node, format string, args ...any) {
	r.add(n.origin, problemAt(n, fmt.Sprintf(format, args...)))
}

// problemAt is what is said of the value n.
func problemAt(n *node, message string) Problem {
	if n.path != "" {
		message = n.path + ": " + message
	}
	p := Problem{File: n.origin.name, Line: n.Line, Column: n.Column, Message: message, order: n.origin.order}
	if n.origin.assignment {
		p.Line, p.Column = 0, 0
	}
	return p
}

func (r *report) add(from *origin, p Problem) {
	p.File, p.order, p.Message = from.name, from.order, shortened(p.Message)
	if !r.seen[p] {
		if r.seen == nil {
			r.seen = map[Problem]bool{}
		}
		r.seen[p] = true
		r.problems = append(r.problems, p)
	}
}

// cause is why a file cannot be read, without its path.
func cause(err error) error {
	var op *fs.PathError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func (r *report) unreadable(from *origin, path string, err error) {
	r.cause = err
	if !errors.Is(err, fs.ErrNotExist) {
		r.add(from, Problem{Message: "cannot be read: " + cause(err).Error()})
		return
	}
	r.add(from, Problem{Message: "there is no such file (looked for " + path + ")"})
	if from.order == 0 {
		r.hint = FileName + " says which images to build, which Helm releases to deploy and which ports to forward (a skaffold.yaml is read, too); " +
			"go to the folder that has one, or let devloop init write it"
	}
}

// failed makes the Error of all problems that were found. files are the absolute paths that were read.
func (r *report) failed(files []string) *Error {
	slices.SortStableFunc(r.problems, byPlace)
	shown := r.problems[:min(mostProblems, len(r.problems))]
	return &Error{Problems: slices.Clone(shown), More: len(r.problems) - len(shown), hint: r.hint,
		files: append(slices.Clone(files), r.missing...), cause: r.cause}
}

func byPlace(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

// didYouMean returns `; did you mean "worker"?`, or "" if no known word is near.
func didYouMean(word string, known []string) string {
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
