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
	exitInterrupted = 130 // a second Ctrl+C cut the clean-up short, or the first one a command that ends by itself
)

func exitCode(err error) int {
	var (
		invalid     *tree.Error
		usage       console.UsageError
		environment console.EnvironmentError
		notRunning  control.NotRunningError
		ambiguous   control.AmbiguousError
	)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, console.ErrInterrupted):
		return exitInterrupted
	case errors.As(err, &invalid), errors.As(err, &usage), errors.As(err, &ambiguous):
		return exitInput
	case errors.As(err, &environment), errors.As(err, &notRunning):
		return exitEnvironment
	}
	return exitFailed
}
