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
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// commandGrace is how long a command may take to end after SIGTERM.
	commandGrace = 2 * time.Second
	// maxLine limits the length of a logged line, in bytes.
	maxLine = 8 << 10
	// commandTailLines is how many lines of a command's output an error shows.
	commandTailLines = 15
)

// runAll runs commands one after the other, until one fails; see run.
func (d *Deployer) runAll(ctx context.Context, stage event.Stage, r Release, when string, commands []Command) error {
	for _, command := range commands {
		if err := d.run(ctx, stage, r, when, command); err != nil {
			return err
		}
	}
	return nil
}

// run runs a user's command on this machine: "before" or "after" the release, or all releases if r
// is the zero value. It logs the output line by line. The command and its children are ended on
// timeout or with ctx.
func (d *Deployer) run(ctx context.Context, stage event.Stage, r Release, when string, of Command) error {
	shown := strings.Join(of.Args, " ")
	failed, hint := fmt.Sprintf("release %s: command %s it", r.ID(), when), "the release is applied once"
	about := []any{"release", event.Name(r.Name)}
	if r.Name == "" {
		failed, hint, about = fmt.Sprintf("command %s all releases", when), "the releases are applied once", nil
	}
	if when == "after" { // all is applied
		hint = "each run tries it again until"
	}
	if err := kube.MayWrite(ctx); err != nil {
		return err
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
			stage.Note("output", append(about, "command", filepath.Base(of.Args[0]), "line", line)...)
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
		err = fmt.Errorf("%s: %s: %w", failed, shown, err)
		if len(last) > 0 {
			err = fmt.Errorf("%w\n%s", err, strings.Join(last, "\n"))
		}
		return nil, event.WithHint(err, "fix it and save; "+hint+" the command ends with 0")
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
