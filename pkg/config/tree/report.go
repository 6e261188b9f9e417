package tree

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

const (
	maxProblems = 50   // that an Error holds
	maxNotes    = 1000 // each line of a skaffold.yaml may have one
	maxMessage  = 1000 // bytes of a problem's message, which may quote the file
)

// Problem is one thing that is wrong.
type Problem struct {
	File    string `json:"file"`             // as the caller named it, or the assignment: "--set forwards[0].local=x"
	Line    int    `json:"line,omitempty"`   // from 1; 0 where only the file is known
	Column  int    `json:"column,omitempty"` // from 1; 0 where only the line is known
	Message string `json:"message"`

	Order int `json:"-"` // of the file among all that were read
}

// String returns file:line:column: message, on one line.
func (p Problem) String() string {
	place := p.File
	if p.Line > 0 {
		place += fmt.Sprintf(":%d", p.Line)
	}
	if p.Column > 0 {
		place += fmt.Sprintf(":%d", p.Column)
	}
	return strings.ReplaceAll(place+": "+p.Message, "\n", `\n`)
}

// Note is something that a file of another format says and devloop does differently.
type Note struct {
	Problem
	Harmless bool // nothing is lost: devloop adds or assumes something, or has the same effect
}

// Original is a file of another format, to be translated into the tree of a devloop.yaml.
type Original struct {
	Path      string  // absolute
	Documents []*Node // at least one
	Profiles  []string
	Dir       string // that the paths of the tree have to be relative to, absolute; "" if the translator may choose
	Whole     bool   // all of it, even if the user chose a part
}

// Translation is a file of another format as the tree of a devloop.yaml. Its nodes keep their
// place in that file.
type Translation struct {
	Root      *Node    // nil if the file could not be translated, which is reported
	Dir       string   // that its paths are relative to, absolute
	Format    string   // the apiVersion of the file
	Profiles  []string // of the Original, or those in their place
	Notes     []Note   // how devloop differs
	Files     []string // also read, absolute
	Variables []string // of the environment, that were filled in
	IsPart    bool     // the user chose a part of the file
}

// Error is everything that is wrong with a configuration.
type Error struct {
	Problems []Problem // the first ones
	More     int       // how many others there are

	hint  string
	files []string
	cause error
}

// MarshalJSON returns the list of the problems.
func (e *Error) MarshalJSON() ([]byte, error) { return json.Marshal(e.Problems) }

// Error returns one line per problem.
func (e *Error) Error() string {
	var lines []string
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	if e.More > 0 {
		lines = append(lines, andMore(e.More))
	}
	return strings.Join(lines, "\n")
}

// andMore writes n as 12,345.
func andMore(n int) string { return message.NewPrinter(language.English).Sprintf("and %d more", n) }

// Hint returns what the user can do, "" where the messages say it.
func (e *Error) Hint() string { return e.hint }

// Unwrap returns why a file could not be read, nil if all could.
func (e *Error) Unwrap() error { return e.cause }

// Files returns the absolute paths whose change may fix the error: the files that were read, and
// those that are named but missing.
func (e *Error) Files() []string { return e.files }

// Report collects what is wrong. The zero value is ready to use.
type Report struct {
	Problems []Problem
	Hint     string // for the user
	Cause    error  // why a file could not be read

	reported map[Problem]bool  // the files and what they are merged into are checked alike
	missing  []string          // absolute paths that are named but not there
	checked  map[string]string // what CheckFile and CheckFolder found, by kind and path
}

// Wrong reports a problem with the value n.
func (r *Report) Wrong(n *Node, format string, args ...any) {
	r.Add(n.Origin, ProblemAt(n, fmt.Sprintf(format, args...)))
}

// ProblemAt returns a problem with the place of n.
func ProblemAt(n *Node, message string) Problem {
	if n.Path != "" {
		message = n.Path + ": " + message
	}
	p := Problem{File: n.Origin.Name, Message: shorten(message), Order: n.Origin.Order}
	if !n.Origin.Assignment {
		p.Line, p.Column = n.Line, n.Column
	}
	return p
}

// shorten keeps the beginning of a message, which says where it is, and the end, which says what
// is wrong.
func shorten(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage/2]+" … "+message[len(message)-maxMessage/2:], "")
}

// Taken reports that n has the name that other has already.
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

// Unreadable reports why the file at path cannot be read.
func (r *Report) Unreadable(from *Origin, path string, err error) {
	r.Cause = err
	if errors.Is(err, fs.ErrNotExist) {
		r.Add(from, Problem{Message: "there is no such file (looked for " + path + ")"})
		return
	}
	r.Add(from, Problem{Message: "cannot be read: " + Reason(err).Error()})
}

// Reason returns err without the path of its file.
func Reason(err error) error {
	var op *fs.PathError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Add reports a problem of an origin, once.
func (r *Report) Add(from *Origin, p Problem) {
	p.File, p.Order, p.Message = from.Name, from.Order, shorten(p.Message)
	if r.reported[p] {
		return
	}
	if r.reported == nil {
		r.reported = map[Problem]bool{}
	}
	r.reported[p] = true
	r.Problems = append(r.Problems, p)
}

// AsError returns the problems in the order of their places. files are the absolute paths that
// were read.
func (r *Report) AsError(files []string) *Error {
	slices.SortStableFunc(r.Problems, comparePlaces)
	shown := r.Problems[:min(maxProblems, len(r.Problems))]
	return &Error{Problems: slices.Clone(shown), More: len(r.Problems) - len(shown), hint: r.Hint,
		files: slices.Concat(files, r.missing), cause: r.Cause}
}

// SortedNotes returns the notes in the order of their places, at most the first 1000.
func SortedNotes(notes []Note) []Note {
	slices.SortStableFunc(notes, func(a, b Note) int { return comparePlaces(a.Problem, b.Problem) })
	more := len(notes) - maxNotes
	if more <= 0 {
		return notes
	}
	last := Note{Problem: notes[maxNotes].Problem}
	last.Line, last.Column, last.Message = 0, 0, andMore(more)
	return append(notes[:maxNotes:maxNotes], last)
}

func comparePlaces(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.File, b.File),
		cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}
