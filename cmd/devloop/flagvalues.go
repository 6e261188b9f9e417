package main

import (
	"errors"
	"fmt"
	"math"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/config/tree"
)

// limited is the value of a flag that takes some texts only. Its Set says in words for the user
// what is wrong with a text.
type limited interface {
	allowed() string // what the flag takes
}

// choice is one of a few words.
type choice[T ~string] struct {
	value   *T
	what    string // "format"
	choices []string
}

func (c choice[T]) String() string  { return string(*c.value) }
func (c choice[T]) Type() string    { return c.what }
func (c choice[T]) allowed() string { return "use one of " + strings.Join(c.choices, ", ") }
func (c choice[T]) Set(text string) error {
	if !slices.Contains(c.choices, text) {
		return fmt.Errorf("there is no %s %q%s", c.what, text, tree.DidYouMean(text, c.choices))
	}
	*c.value = T(text)
	return nil
}

// port is a local port, negative if the flag was not given.
type port int

func (p *port) Type() string { return "port" }
func (*port) allowed() string {
	return "use a number from 1 to 65535, or 0 for 10360, or else a free one"
}
func (p *port) String() string {
	if *p < 0 {
		return ""
	}
	return strconv.Itoa(int(*p))
}

func (p *port) Set(text string) error {
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is not a valid port", text)
	}
	*p = port(number)
	return nil
}

// lineCount is how many lines are shown.
type lineCount uint

const allLines lineCount = math.MaxUint32

func (n *lineCount) Type() string  { return "lines" }
func (*lineCount) allowed() string { return "use a number from 0, or all" }
func (n *lineCount) String() string {
	if *n == allLines {
		return "all"
	}
	return strconv.FormatUint(uint64(*n), 10)
}

func (n *lineCount) Set(text string) error {
	if text == "all" {
		*n = allLines
		return nil
	}
	number, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return fmt.Errorf("%q is not a valid number of lines", text)
	}
	*n = lineCount(number)
	return nil
}

// duration is more than 0.
type duration time.Duration

func (d *duration) String() string { return time.Duration(*d).String() }
func (d *duration) Type() string   { return "duration" }
func (*duration) allowed() string {
	return "use a duration of more than 0: numbers with units (ms, s, m, h), like 30s or 1m30s"
}

func (d *duration) Set(text string) error {
	parsed, err := time.ParseDuration(text)
	if err != nil || parsed <= 0 {
		return fmt.Errorf("%q is not a valid duration", text)
	}
	*d = duration(parsed)
	return nil
}

// podPattern is a regular expression for the names of pods.
type podPattern string

func (p *podPattern) String() string { return string(*p) }
func (p *podPattern) Type() string   { return "pattern" }
func (*podPattern) allowed() string  { return "use a regular expression, like dask-.*|gateway" }
func (p *podPattern) Set(text string) error {
	if err := checkPattern(text); err != nil {
		return err
	}
	*p = podPattern(text)
	return nil
}

// checkPattern returns what is wrong with a regular expression.
func checkPattern(text string) error {
	_, err := syntax.Parse(text, syntax.Perl)
	var wrong *syntax.Error
	if errors.As(err, &wrong) {
		return fmt.Errorf("%q is not a valid regular expression: %s in %s", text, wrong.Code, wrong.Expr)
	}
	return err
}
