// How devloop ends: exit codes, and the error that it ends with, printed once, the facts and what to do about them apart.
package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

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

// PrintEnd prints the error that devloop ends with. With -v the causes follow, one a line.
func (p *Printer) PrintEnd(err error, code int) {
	err = p.Secrets.Error(err)
	if p.File != nil {
		p.File.PrintEnd(err, code)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Live != nil {
		p.Live.bars = nil // of builds that are not waited for
	}
	for _, f := range Facts(err) {
		message := f.Message
		if f.problems == nil { // those are a line each
			message = shorten(message)
		}
		if !p.text {
			f.Message = message
			p.write(event.Event{Time: time.Now(), Stage: "devloop", Phase: event.Failed, Message: "devloop ends", Fields: []any{"code", code}}, f)
			continue
		}
		if f.problems == nil { // else file:line:column comes first, where editors look for it
			message = "devloop: " + message
		}
		_, _ = fmt.Fprintln(p.plain, message)
		if f.Hint != "" {
			_, _ = fmt.Fprintln(p.plain, "  → "+f.Hint)
		}
		if p.verbose {
			for _, cause := range f.causes {
				_, _ = fmt.Fprintln(p.plain, "    because "+cause)
			}
		}
	}
}

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
