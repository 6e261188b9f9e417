package pods

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/devloop/devloop/pkg/filesync"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	maxOutput = 64 << 20 // bytes of a command of a Shell
	maxErrors = 4 << 10  // bytes of its standard error, of which the beginning is kept
)

// Shell runs commands in a container, with its own tools: for files in containers of a cluster
// whose nodes cannot be reached.
type Shell struct {
	Cluster *kube.Cluster
	In      Container
}

// Run runs a command with stdin, unless that is nil, and returns its standard output. The error is
// a *filesync.Refusal if the container does not have the command.
func (s *Shell) Run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	stdout, stderr := &limited{limit: maxOutput}, &limited{limit: maxErrors, cut: true}
	err := Exec(ctx, s.Cluster, s.In, args, Streams{In: stdin, Out: stdout, Err: stderr})
	exit := &ExitError{}
	switch {
	case err == nil:
		return stdout.String(), nil
	case errors.As(err, &exit) && (exit.Code == ExitNotFound || exit.Code == exitNotExecutable) && exit.Why != nil:
		return "", &filesync.Refusal{Reason: exit.Why.Error()}
	}
	return stdout.String(), fmt.Errorf("container %s of pod %s: %w: %s", s.In.Name, s.In.Pod, err,
		strings.TrimSpace(stderr.String()))
}

// limited keeps what is written, up to a limit.
type limited struct {
	bytes.Buffer
	limit int
	cut   bool // what comes later is dropped, and is no error
}

func (l *limited) Write(p []byte) (int, error) {
	if rest := l.limit - l.Len(); len(p) > rest {
		if !l.cut {
			return 0, fmt.Errorf("it is more than %d bytes", l.limit)
		}
		l.Buffer.Write(p[:rest])
		return len(p), nil
	}
	return l.Buffer.Write(p)
}
