// How devloop ends: exit codes, and the error that it ends with, printed once, the facts and what to do about them apart.
package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
)

// EnvironmentError marks what is wrong around devloop, rather than with its work or input.
type EnvironmentError struct{ Err error }

func (e EnvironmentError) Error() string { return e.Err.Error() }
func (e EnvironmentError) Unwrap() error { return e.Err }

// UsageError marks a command line that makes no sense.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// ReportedError marks what the log has said already.
type ReportedError struct{ Err error }

func (e ReportedError) Error() string { return e.Err.Error() }
func (e ReportedError) Unwrap() error { return e.Err }

var ErrInterrupted = errors.New("interrupted")

// fact is one thing that went wrong.
type fact struct {
	Message string
	Hint    string
	causes  []string

	problems problemList // nil unless the message has a line for each
}

// problemList is an error with problems in files: its text has a line for each, which begins with its
// place, and its JSON is a list of them.
type problemList interface {
	error
	json.Marshaler
}

// Facts takes joined errors apart, and leaves out what was said before, here or in the log.
func Facts(err error) []fact {
	if _, told := err.(ReportedError); told { //nolint:errorlint // this part alone, not what it was joined to
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
		var all []fact
		for _, part := range parts {
			for _, f := range Facts(part) {
				if !slices.ContainsFunc(all, func(known fact) bool { return known.Message == f.Message }) {
					all = append(all, f)
				}
			}
		}
		return all
	}
	f := fact{Message: err.Error(), Hint: event.Hint(err), causes: causes(err)}
	if errors.As(err, &f.problems) {
		f.causes = causes(errors.Unwrap(f.problems))
	}
	return []fact{f}
}

// causes walks down an error's chain: what each link adds, and its Go type. An error that is a chain of one says all itself.
func causes(err error) []string {
	var chain []string
	for err != nil {
		inner := errors.Unwrap(err)
		message := err.Error()
		if inner != nil {
			message = strings.TrimSuffix(strings.TrimSuffix(message, inner.Error()), ": ")
		}
		if message != "" { // else a marker, which adds nothing to say
			chain = append(chain, fmt.Sprintf("%s (%T)", message, err))
		}
		err = inner
	}
	if len(chain) < 2 {
		return nil
	}
	return chain
}
