package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
)

// EnvironmentError marks what is wrong around devloop: a cluster that does not answer, a missing
// program.
type EnvironmentError struct{ Err error }

func (e EnvironmentError) Error() string { return e.Err.Error() }
func (e EnvironmentError) Unwrap() error { return e.Err }

// UsageError marks a wrong command line.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// ReportedError marks an error that is already logged.
type ReportedError struct{ Err error }

func (e ReportedError) Error() string { return e.Err.Error() }
func (e ReportedError) Unwrap() error { return e.Err }

// ErrInterrupted ends a command that the user interrupted.
var ErrInterrupted = errors.New("interrupted")

// Fact is one thing that went wrong, and what to do about it.
type Fact struct {
	Message string
	Hint    string // "" if there is none
	causes  []string

	problems problemList // nil unless the message has a line for each
}

// problemList is an error about several places in files. Its text has a line for each, which begins
// with the place; its JSON is a list.
type problemList interface {
	error
	json.Marshaler
}

// Facts takes joined errors apart. It leaves out duplicates and what is already logged.
func Facts(err error) []Fact {
	if _, reported := err.(ReportedError); reported { //nolint:errorlint // this part alone, not what it was joined to
		return nil
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if inner.Error() != err.Error() {
			break
		}
		parts := event.Joined(inner)
		if len(parts) == 0 {
			continue
		}
		var all []Fact
		for _, part := range parts {
			for _, f := range Facts(part) {
				if !slices.ContainsFunc(all, func(known Fact) bool { return known.Message == f.Message }) {
					all = append(all, f)
				}
			}
		}
		return all
	}
	f := Fact{Message: err.Error(), Hint: event.Hint(err), causes: causes(err)}
	if errors.As(err, &f.problems) {
		f.causes = causes(errors.Unwrap(f.problems))
	}
	return []Fact{f}
}

// factOf is about the error of an event. Only the end of a run has causes.
func factOf(e event.Event) (f Fact) {
	if e.Err == nil || e.Phase == event.Superseded || e.Phase == event.Interrupted {
		return f
	}
	f.Message, f.Hint = e.Err.Error(), event.Hint(e.Err)
	if e.Stage == "loop" {
		f.causes = causes(e.Err)
	}
	return f
}

// causes returns what each error of a chain adds, and its Go type; nil for a chain of one.
func causes(err error) []string {
	var chain []string
	for err != nil {
		inner := errors.Unwrap(err)
		message := err.Error()
		if inner != nil {
			message = strings.TrimSuffix(strings.TrimSuffix(message, inner.Error()), ": ")
		}
		if message != "" { // a marker adds nothing
			chain = append(chain, fmt.Sprintf("%s (%T)", message, err))
		}
		err = inner
	}
	if len(chain) < 2 {
		return nil
	}
	return chain
}
