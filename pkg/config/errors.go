package config

// What is said when something is wrong: one line for each problem, in the order of the file.

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Problem is one thing that is wrong.
type Problem struct {
	Line, Column int // from 1; 0 where only the line, or only the file, is known
	Message      string
}

// Error is everything that is wrong with one file.
type Error struct {
	File     string // as the caller named it
	Problems []Problem

	hint  string
	files []string
	cause error
}

// Error returns one line for each problem, as file:line:column: message.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		where := e.File
		if p.Line > 0 {
			where += fmt.Sprintf(":%d", p.Line)
		}
		if p.Column > 0 {
			where += fmt.Sprintf(":%d", p.Column)
		}
		lines[i] = where + ": " + p.Message
	}
	return strings.Join(lines, "\n")
}

// Hint returns what the user can do, "" where the messages say it.
func (e *Error) Hint() string { return e.hint }

// Unwrap returns why the file could not be read, nil if it could.
func (e *Error) Unwrap() error { return e.cause }

// Files returns the absolute paths whose change may cure the error: the file itself, and what it names but is not there.
func (e *Error) Files() []string { return e.files }

func unreadable(path, abs string, cause error) *Error {
	e := &Error{File: path, files: []string{abs}, cause: cause}
	if !errors.Is(cause, fs.ErrNotExist) {
		var op *fs.PathError
		if errors.As(cause, &op) {
			cause = op.Err // the path is said already
		}
		e.Problems = []Problem{{Message: "cannot be read: " + cause.Error()}}
		return e
	}
	e.Problems = []Problem{{Message: "there is no such file (looked for " + abs + ")"}}
	e.hint = FileName + " says which images to build, which Helm releases to deploy and which ports to forward; " +
		"go to the folder that has one, or write one that starts with \"apiVersion: " + Version + "\""
	return e
}

// failed makes the Error of all problems that were found.
func (d *decoder) failed(path, abs string) *Error {
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &Error{
		File:     path,
		Problems: d.problems,
		hint:     d.hint,
		files:    append([]string{abs}, d.missing...),
	}
}

// didYouMean returns `; did you mean "worker"?`, or "" if no known word is near.
func didYouMean(word string, known []string) string {
	best, least := "", (len(word)+2)/3+1 // up to a third of the letters may be wrong
	for _, k := range known {
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
