package deploy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/devloop/devloop/pkg/command"
	"github.com/devloop/devloop/pkg/event"
)

const (
	// commandGrace is how long a command may take to end after SIGTERM.
	commandGrace = 2 * time.Second
	// maxLine limits the length of a logged line, in bytes.
	maxLine = 8 << 10
	// commandTailLines is how many lines of a command's output an error shows.
	commandTailLines = 15
)

// run runs a user's command on this machine; when is "before" or "after" the release, or all
// releases if r is the zero value. It logs the output line
// by line. The command and its children are ended on timeout or with ctx.
func (d *Deployer) run(ctx context.Context, stage event.Stage, r Release, when string, of Command) error {
	shown, what := strings.Join(of.Args, " "), "the release is"
	if r.Name == "" {
		what = "the releases are"
	}
	return stage.Step(ctx, event.CommandRun, func(ctx context.Context) ([]any, error) {
		kubeconfig, remove, err := d.cluster.WriteKubeconfig(ctx, d.options.Runtime)
		if err != nil {
			return nil, err
		}
		defer remove()
		ctx, cancel := context.WithTimeoutCause(ctx, of.Timeout, fmt.Errorf("not done after %s", of.Timeout))
		defer cancel()
		var last []string
		cmd := command.Command{
			Args: of.Args, Folder: d.options.Folder, StopSignal: syscall.SIGTERM, GracePeriod: commandGrace,
			MaxLine:    maxLine,
			Background: true,
			Env: append(os.Environ(), "KUBECONFIG="+kubeconfig, "DEVLOOP_RELEASE="+r.Name, "DEVLOOP_NAMESPACE="+r.Namespace,
				"DEVLOOP_KUBE_CONTEXT="+d.cluster.Context),
		}
		group := 0
		err = cmd.Run(ctx, func(line string) {
			stage.Note("output", "release", event.Name(r.Name), "command", filepath.Base(of.Args[0]), "line", line)
			last = append(last, line)
			last = last[max(0, len(last)-commandTailLines):]
		}, func(started int) {
			group = started
			d.trackCommand(group, kubeconfig)
		})
		d.untrackCommand(group)
		if err == nil {
			return nil, nil
		}
		if r.Name == "" {
			err = fmt.Errorf("command %s all releases: %s: %w", when, shown, err)
		} else {
			err = fmt.Errorf("release %s: command %s it: %s: %w", r.ID(), when, shown, err)
		}
		if len(last) > 0 {
			err = fmt.Errorf("%w\n%s", err, strings.Join(last, "\n"))
		}
		return nil, event.WithHint(err, "fix it and save; "+what+" applied once the command ends with 0")
	}, event.Command{Release: event.Name(r.Name), When: when, Command: shown})
}

func (d *Deployer) trackCommand(group int, kubeconfig string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.commands[group] = kubeconfig
}

func (d *Deployer) untrackCommand(group int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.commands, group)
}

// Abandon kills the commands that are running, for a process that exits at once.
func (d *Deployer) Abandon() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for group, kubeconfig := range d.commands {
		_ = syscall.Kill(-group, syscall.SIGKILL)
		_ = os.Remove(kubeconfig)
	}
}
