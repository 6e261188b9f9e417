package event

import (
	"errors"
	"reflect"
)

// hinted is an error with advice. The fact and the advice are kept apart, so that one place prints
// both.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }
func (h hinted) Hint() string  { return h.hint }

// WithHint returns err with what the user can do about it.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return hinted{err, hint}
}

// Hint returns the outermost advice in err's chain, or "".
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// transient is an error that may pass by itself.
type transient struct{ error }

func (t transient) Unwrap() error { return t.error }

// Transient marks an error that may pass by itself, as when a daemon restarts: a retry makes sense
// though no file has changed.
func Transient(err error) error {
	if err == nil || IsTransient(err) {
		return err
	}
	return transient{err}
}

// IsTransient reports whether a part of err was marked by Transient.
func IsTransient(err error) bool {
	var t transient
	return errors.As(err, &t)
}

var joinType = reflect.TypeOf(errors.Join(ErrSuperseded))

// Joined returns the errors that errors.Join made err from, nil if err was made in another way.
func Joined(err error) []error {
	if reflect.TypeOf(err) != joinType {
		return nil
	}
	return err.(interface{ Unwrap() []error }).Unwrap() // by its type
}
