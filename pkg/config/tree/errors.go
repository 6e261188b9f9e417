package tree

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

	Order int // of the file among all that was read
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

// Note is what is said of a place in a skaffold.yaml that was read.
type Note struct {
	Problem
	Harmless bool // nothing is lost: devloop adds or assumes something, or comes to the same in another way
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

const (
	// maxProblems is how many problems are reported at once.
	maxProblems = 50
	// maxNotes is how many notes are returned: each line of a skaffold.yaml may differ from what skaffold makes of it.
	maxNotes = 1000
	// maxMessage is how much of a problem is reported, in bytes: it may quote what the file
	// says.
	maxMessage = 1000
)

// shortened keeps the beginning of a message, which says where it is, and the end, which says what
// is wrong.
func shortened(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage/2]+" … "+message[len(message)-maxMessage/2:], "")
}

// Report collects what is wrong.
type Report struct {
	Problems []Problem
	seen     map[Problem]bool // values are checked in their file and in the whole, but told of once
	Hint     string
	Cause    error
	missing  []string          // absolute paths that are named in vain
	looked   map[string]string // what exists said
}

// Wrong reports what is wrong with the value n.
func (r *Report) Wrong(n *Node, format string, args ...any) {
	r.Add(n.Origin, ProblemAt(n, fmt.Sprintf(format, args...)))
}

// ProblemAt is what is said of the value n.
func ProblemAt(n *Node, message string) Problem {
	if n.Path != "" {
		message = n.Path + ": " + message
	}
	p := Problem{File: n.Origin.Name, Line: n.Line, Column: n.Column, Message: shortened(message), Order: n.Origin.Order}
	if n.Origin.Assignment {
		p.Line, p.Column = 0, 0
	}
	return p
}

func (r *Report) Add(from *Origin, p Problem) {
	p.File, p.Order, p.Message = from.Name, from.Order, shortened(p.Message)
	if !r.seen[p] {
		if r.seen == nil {
			r.seen = map[Problem]bool{}
		}
		r.seen[p] = true
		r.Problems = append(r.Problems, p)
	}
}

// Reason is why a file cannot be read, without its path.
func Reason(err error) error {
	var op *fs.PathError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func (r *Report) Unreadable(from *Origin, path string, err error) {
	r.Cause = err
	if !errors.Is(err, fs.ErrNotExist) {
		r.Add(from, Problem{Message: "cannot be read: " + Reason(err).Error()})
		return
	}
	r.Add(from, Problem{Message: "there is no such file (looked for " + path + ")"})
}

// Failed makes the Error of all problems that were found. files are the absolute paths that were read.
func (r *Report) Failed(files []string) *Error {
	slices.SortStableFunc(r.Problems, byPlace)
	shown := r.Problems[:min(maxProblems, len(r.Problems))]
	return &Error{Problems: slices.Clone(shown), More: len(r.Problems) - len(shown), hint: r.Hint,
		files: append(slices.Clone(files), r.missing...), cause: r.Cause}
}

// SortedNotes returns the notes in the order of their places; of very many, the first.
func SortedNotes(notes []Note) []Note {
	slices.SortStableFunc(notes, func(a, b Note) int { return byPlace(a.Problem, b.Problem) })
	more := len(notes) - maxNotes
	if more <= 0 {
		return notes
	}
	last := Note{Problem: notes[maxNotes].Problem}
	last.Line, last.Column, last.Message = 0, 0, "and "+thousands(more)+" more"
	return append(notes[:maxNotes:maxNotes], last)
}

// byPlace orders problems by file, line and column.
func byPlace(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

// Taken reports n, since other has that name.
func (r *Report) Taken(n *Node, name string, other *Node) {
	switch {
	case other.Origin == n.Origin && !n.Origin.Assignment:
		r.Wrong(n, "%s is taken already, on line %d", name, other.Line)
	case other.Origin.Assignment:
		r.Wrong(n, "%s is taken already, by %s", name, other.Origin.Name)
	default:
		r.Wrong(n, "%s is taken already, on line %d of %s", name, other.Line, other.Origin.Name)
	}
}
