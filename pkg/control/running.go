package control

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/devloop/devloop/pkg/status"
)

// Running is a devloop of this user that runs.
type Running struct {
	PID   int // 0 if the system does not tell
	State status.State
}

// FindRunning returns the devloops that run. One that does not answer is left out.
func FindRunning(ctx context.Context) (found []Running) {
	all, err := allRunning(ctx)
	if err != nil {
		return nil // without the folder of the sockets, none answers
	}
	for _, c := range all {
		found = append(found, Running{int(c.pid.Load()), c.State})
		c.Close()
	}
	return found
}

// Serves tells whether it runs for a configuration file.
func (r Running) Serves(file string) bool {
	own, err := os.Stat(r.State.File)
	other, otherErr := os.Stat(file)
	return err == nil && otherErr == nil && os.SameFile(own, other)
}

// String says which process it is, since when it runs, and how it is.
func (r Running) String() string {
	var parts []string
	if r.PID > 0 {
		parts = append(parts, fmt.Sprintf("pid %d", r.PID))
	}
	if !r.State.Started.IsZero() {
		parts = append(parts, "since "+r.State.Started.Local().Format("15:04:05"))
	}
	if len(r.State.Part) > 0 {
		parts = append(parts, "only "+strings.Join(r.State.Part, " "))
	}
	return strings.Join(append(parts, string(r.State.Health)), ", ")
}
