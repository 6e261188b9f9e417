package main

import (
	"errors"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
)

// Exit codes.
const (
	exitFailed      = 1   // devloop could not do what was asked
	exitInput       = 2   // the command line or devloop.yaml is wrong
	exitEnvironment = 3   // cluster, Docker: something around devloop is missing
	exitInterrupted = 130 // by a second Ctrl+C during the clean-up, or the first one of a command that ends by itself
)

func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, console.ErrInterrupted):
		return exitInterrupted
	case is[*tree.Error](err), is[console.UsageError](err), is[control.AmbiguousError](err):
		return exitInput
	case is[console.EnvironmentError](err), is[control.NotRunningError](err):
		return exitEnvironment
	}
	return exitFailed
}

// is reports whether an E is in err's chain.
func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}
