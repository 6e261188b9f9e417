package main

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/pods"
)

// Exit codes.
const (
	exitFailed      = 1   // devloop could not do what was asked
	exitInput       = 2   // the command line or devloop.yaml is wrong
	exitEnvironment = 3   // cluster, Docker: something around devloop is missing
	exitInterrupted = 130 // by a second Ctrl+C during the clean-up, or the first one of a command that ends by itself
	exitUnread      = 141 // nobody reads the output any more; what shells report for a program that SIGPIPE ended
)

func exitCode(err error) int {
	var command *pods.ExitError
	switch {
	case err == nil:
		return 0
	case isUnread(err):
		return exitUnread
	case errors.Is(err, console.ErrInterrupted):
		return exitInterrupted
	case errors.As(err, &command):
		return command.Code
	case is[*tree.Error](err), is[console.UsageError](err), is[control.AmbiguousError](err):
		return exitInput
	case is[console.EnvironmentError](err), is[control.NotRunningError](err):
		return exitEnvironment
	}
	return exitFailed
}

// isUnread reports whether who read standard output has left, as in "devloop status | head". Then
// there is nothing to say.
func isUnread(err error) bool {
	var failed *fs.PathError
	return errors.As(err, &failed) && failed.Path == os.Stdout.Name() && errors.Is(failed, syscall.EPIPE)
}

// is reports whether an E is in err's chain.
func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}
