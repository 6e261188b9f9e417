// Commands of the user's own, before and after a release is applied. They run on this machine.
package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/command"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

const (
	// goodbye is how long a command may take to end once it was asked to.
	goodbye = 2 * time.Second
	// lastLines is how much of a command's output an error shows.
	lastLines = 15
)

// run runs one command; when is "before" or "after". Its output goes to the log line by line. When ctx ends, or its time is over,
// the command and those that it started are ended.
func (d *Deployer) run(ctx context.Context, say event.Stage, r Release, when string, of Command) error {
	shown := strings.Join(of.Args, " ")
	return say.Step(ctx, event.CommandRun, func(ctx context.Context) ([]any, error) {
		kubeconfig, remove, err := d.kubeconfigFile(ctx)
		if err != nil {
			return nil, err
		}
		defer remove()
		ctx, cancel := context.WithTimeoutCause(ctx, of.Timeout, fmt.Errorf("not done after %s", of.Timeout))
		defer cancel()
		var last []string
		cmd := command.Command{
			Args: of.Args, Folder: d.options.Folder, Ask: syscall.SIGTERM, Goodbye: goodbye, Line: logLine, Background: true,
			Env: append(os.Environ(), "KUBECONFIG="+kubeconfig, "DEVLOOP_RELEASE="+r.Name, "DEVLOOP_NAMESPACE="+r.Namespace, "DEVLOOP_KUBE_CONTEXT="+d.cluster.Context),
		}
		group := 0
		err = cmd.Run(ctx, func(line string) {
			say.Note("output", "release", event.Name(r.Name), "command", filepath.Base(of.Args[0]), "line", line)
			last = append(last, line)
			last = last[max(0, len(last)-lastLines):]
		}, func(started int) {
			group = started
			d.began(group, kubeconfig)
		})
		d.ended(group)
		if err == nil {
			return nil, nil
		}
		err = finalError{fmt.Errorf("release %s: command %s it: %s: %w", r.ID(), when, shown, err)}
		if len(last) > 0 {
			err = fmt.Errorf("%w\n%s", err, strings.Join(last, "\n"))
		}
		return nil, event.WithHint(err, "mend it and save; the release is applied when the command ends with 0")
	}, "release", event.Name(r.Name), "when", when, "command", shown)
}

func (d *Deployer) began(group int, kubeconfig string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.commands[group] = kubeconfig
}

func (d *Deployer) ended(group int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.commands, group)
}

// Abandon ends the commands that run now, at once, for a process that is about to end at once, too.
func (d *Deployer) Abandon() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for group, kubeconfig := range d.commands {
		_ = syscall.Kill(-group, syscall.SIGKILL)
		_ = os.Remove(kubeconfig)
	}
}

// kubeconfigFile writes what a command needs to reach this cluster, and no other one: the user may
// have selected another context since, or the context may lead elsewhere. The file is locked for as
// long as this process uses it.
func (d *Deployer) kubeconfigFile(ctx context.Context) (file string, remove func(), err error) {
	way, err := d.cluster.connection.current(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("write a kubeconfig for commands: %w", err)
	}
	folder, err := d.options.Runtime()
	if err == nil {
		err = os.MkdirAll(folder, 0o700)
	}
	if err == nil {
		_, err = d.options.Runtime() // somebody else may have made it just before
	}
	if err == nil {
		removeLeftKubeconfigs(folder)
		file, remove, err = lockedFile(folder, way.alone)
	}
	if err != nil {
		return "", nil, event.WithHint(fmt.Errorf("write a kubeconfig for commands: %w", err),
			cmp.Or(event.Hint(err), "it has to be a folder in which you may write: XDG_RUNTIME_DIR"))
	}
	return file, remove, nil
}

const (
	kubeconfigPrefix    = "kubeconfig-"
	newKubeconfigPrefix = ".new-kubeconfig-" // of one that is not locked yet
)

// lockedFile writes a file that is this user's alone, and holds a lock on it until it is removed.
func lockedFile(folder string, content []byte) (name string, remove func(), err error) {
	file, err := os.CreateTemp(folder, newKubeconfigPrefix+"*") // with mode 0600
	if err != nil {
		return "", nil, err
	}
	name = filepath.Join(folder, kubeconfigPrefix+strings.TrimPrefix(filepath.Base(file.Name()), newKubeconfigPrefix))
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = file.Write(content)
	}
	if err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(file.Name()), file.Close())
	}
	return name, func() {
		_ = os.Remove(name)
		_ = file.Close() // and with it goes the lock
	}, nil
}

// removeLeftKubeconfigs removes those of devloops that were killed: nobody has a lock on them.
func removeLeftKubeconfigs(folder string) {
	for _, pattern := range []string{kubeconfigPrefix + "*", newKubeconfigPrefix + "*"} {
		left, _ := filepath.Glob(filepath.Join(folder, pattern)) // the pattern is a good one
		for _, name := range left {
			removeUnlocked(name, strings.HasPrefix(pattern, newKubeconfigPrefix))
		}
	}
}

// removeUnlocked removes a file on which nobody has a lock. A new one is locked a moment after it
// was made.
func removeUnlocked(name string, isNew bool) {
	file, err := files.Open(name)
	if err != nil {
		return
	}
	defer func() { _ = file.Close() }() // and with it goes the lock
	info, err := file.Stat()
	if err != nil || isNew && time.Since(info.ModTime()) < time.Minute {
		return
	}
	if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = os.Remove(name)
	}
}
