package session

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
)

const (
	thenTimeout = time.Minute // of a command in a container
	thenOutput  = 2000        // of what such a command printed, in bytes
)

// then returns what a rule of a known file says, which may be there no more.
func (i *syncedImage) then(rule int) config.Then {
	if rule < 0 || rule >= len(i.config.Sync) {
		return nil
	}
	return i.config.Sync[rule].Then
}

// addPending remembers which commands a container has to run for what is written into it, also if
// that is interrupted afterwards.
func (p *pass) addPending(image *syncedImage, i *instance) {
	p.memory.Lock()
	defer p.memory.Unlock()
	for _, f := range i.files {
		rule := image.same.Paths[f.Path]
		if then := image.then(rule); then == nil || then.Restart() {
			continue
		}
		if p.pending[i.ContainerID] == nil {
			p.pending[i.ContainerID] = map[int]bool{}
		}
		p.pending[i.ContainerID][rule] = true
	}
}

func (p *pass) hasPending(i *instance) bool {
	p.memory.Lock()
	defer p.memory.Unlock()
	return len(p.pending[i.ContainerID]) > 0
}

// runError is an error of what the run does besides: a command that a rule names, or a build.
type runError struct{ error }

func (e *runError) Unwrap() error { return e.error }

// runCommands runs the pending commands of containers, in the order of the rules.
func (p *pass) runCommands(ctx context.Context, image *syncedImage, list []*instance) {
	eachInstance(list, func(i *instance) error {
		for rule := range image.config.Sync {
			p.memory.Lock()
			pending := p.pending[i.ContainerID][rule]
			p.memory.Unlock()
			if !pending || i.err != nil {
				continue
			}
			if command := image.then(rule); command != nil && !command.Restart() { // else the rule has changed
				if err := p.runCommand(ctx, i, command); err != nil {
					return err
				}
			}
			p.memory.Lock()
			delete(p.pending[i.ContainerID], rule)
			p.memory.Unlock()
		}
		return nil
	})
}

func (p *pass) runCommand(ctx context.Context, i *instance, command []string) error {
	late := fmt.Errorf("it has not ended after %s", thenTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, thenTimeout, late)
	defer cancel()
	out, err := p.reach.Inside(i.Container).Run(ctx, nil, command...)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	err = fmt.Errorf("container %s has the files, but %s failed: %w", i.FullName(), strings.Join(command, " "), err)
	if out = strings.TrimSpace(out); out != "" {
		err = fmt.Errorf("%w\n%s", err, event.Printable(out[max(0, len(out)-thenOutput):]))
	}
	return &runError{err}
}
