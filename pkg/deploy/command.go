// Commands of the user's own, before and after a release is applied. They run on this machine.
package deploy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// goodbye is how long a command may take to end once it was asked to.
	goodbye = 2 * time.Second
	// lastLines is how much of a command's output an error shows.
	lastLines = 15
)

// run runs one command; when is "before" or "after". Its output goes to the log line by line. When ctx ends, or its time is over,
// the command and those that it started are ended.
func (d *Deployer) run(ctx context.Context, say event.Stage, r Release, when string, command Command) error {
	shown := strings.Join(command.Args, " ")
	return say.Step(ctx, event.CommandRun, func(ctx context.Context) ([]any, error) {
		kubeconfig, remove, err := d.cluster.kubeconfigFile()
		if err != nil {
			return nil, err
		}
		defer remove()
		ctx, cancel := context.WithTimeoutCause(ctx, command.Timeout, fmt.Errorf("not done after %s", command.Timeout))
		defer cancel()
		cmd := exec.CommandContext(ctx, command.Args[0], command.Args[1:]...)
		cmd.Dir = d.options.Folder
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "DEVLOOP_RELEASE="+r.Name, "DEVLOOP_NAMESPACE="+r.Namespace, "DEVLOOP_KUBE_CONTEXT="+d.cluster.Context)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it ends with all that it started, and Ctrl+C is devloop's
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		cmd.WaitDelay = goodbye
		out, in := io.Pipe()
		cmd.Stdout, cmd.Stderr = in, in
		var last []string
		read := make(chan struct{})
		go func() {
			defer close(read)
			cut := false // the rest of a long line is left out
			for lines := bufio.NewReaderSize(out, logLine); ; {
				line, err := lines.ReadSlice('\n')
				text, rest := strings.TrimRight(string(line), "\r\n"), cut
				if cut = errors.Is(err, bufio.ErrBufferFull); text != "" && !rest {
					say.Note("output", "release", r.Name, "command", filepath.Base(command.Args[0]), "line", text)
					last = append(last, text)
					last = last[max(0, len(last)-lastLines):]
				}
				if err != nil && !cut {
					return
				}
			}
		}()
		if err = cmd.Start(); err == nil {
			d.began(cmd.Process.Pid, kubeconfig)
			err = cmd.Wait()
			if ctx.Err() != nil {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what did not want to end
			}
			d.ended(cmd.Process.Pid)
		}
		_ = in.Close()
		<-read
		if err == nil || errors.Is(err, exec.ErrWaitDelay) { // it ended well, and left something in the background
			return nil, nil
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		err = finalError{fmt.Errorf("release %s: command %s it: %s: %w", r.ID(), when, shown, err)}
		if len(last) > 0 {
			err = fmt.Errorf("%w\n%s", err, strings.Join(last, "\n"))
		}
		return nil, event.WithHint(err, "mend it and save; the release is applied when the command ends with 0")
	}, "release", r.Name, "when", when, "command", shown)
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

// kubeconfigFile writes what a command needs to reach this cluster, and no other one: the user may have selected another context since.
func (c *Cluster) kubeconfigFile() (file string, remove func(), err error) {
	fail := func(err error) (string, func(), error) {
		return "", nil, fmt.Errorf("write a kubeconfig for commands: %w", err)
	}
	loader, _, err := loadKubeconfig(c.Context)
	if err != nil {
		return fail(err)
	}
	raw, err := loader.RawConfig()
	if err != nil {
		return fail(err)
	}
	config := raw.DeepCopy()
	config.CurrentContext = c.Context
	if err := errors.Join(clientcmdapi.MinifyConfig(config), clientcmdapi.FlattenConfig(config)); err != nil {
		return fail(err)
	}
	temporary, err := os.CreateTemp("", "devloop-kubeconfig-*") // with mode 0600
	if err != nil {
		return fail(err)
	}
	remove = func() { _ = os.Remove(temporary.Name()) }
	if err := errors.Join(temporary.Close(), clientcmd.WriteToFile(*config, temporary.Name())); err != nil {
		remove()
		return fail(err)
	}
	return temporary.Name(), remove, nil
}
