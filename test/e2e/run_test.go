//go:build e2e

// What somebody does first: make run in a clone, on a machine where no minikube runs.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

func TestRun(t *testing.T) {
	status := func() error {
		_, err := command(t.Context(), os.Environ(), filepath.Join("..", "cluster", "cluster"), "status", "devloop")
		return err
	}
	if status() == nil {
		t.Fatal("the cluster devloop is up: make run runs here already")
	}
	dir := t.TempDir()
	p := &project{name: "make run", port: freePort(t), dir: filepath.Join(dir, "clone")}
	_, err := command(t.Context(), os.Environ(), "git", "clone", "--quiet", filepath.Join("..", ".."), p.dir)
	must(t, err)
	// Those of the platform have its own port meanwhile.
	p.edit(t, "devloop.yaml", "local: 8001", fmt.Sprint("local: ", p.port))
	chart, err := command(t.Context(), os.Environ(), filepath.Join("..", "images", "chart"))
	must(t, err)
	charts := filepath.Join(dir, "shared", "charts") // where it is looked for before it is downloaded
	must(t, os.MkdirAll(charts, 0o755))
	must(t, os.Symlink(strings.TrimSpace(chart), filepath.Join(charts, filepath.Base(strings.TrimSpace(chart)))))

	// Not the cluster of other tests, whose minikube would be found.
	minikube := os.Getenv("MINIKUBE_HOME")
	p.env = slices.DeleteFunc(os.Environ(), func(setting string) bool {
		return strings.HasPrefix(setting, "KUBECONFIG=") || strings.HasPrefix(setting, "MINIKUBE_HOME=")
	})
	if minikube != "" {
		p.env = append(p.env, "PATH="+strings.TrimPrefix(os.Getenv("PATH"), filepath.Join(filepath.Dir(minikube), "bin")+":"))
	}
	p.env = append(p.env, "DEVLOOP_LOG_FORMAT=json", "XDG_STATE_HOME="+t.TempDir(), "XDG_RUNTIME_DIR="+t.TempDir())
	d := &devloop{project: p, cmd: exec.Command("make", "run")}
	d.cmd.Dir, d.cmd.Env, d.cmd.SysProcAttr = p.dir, p.env, &syscall.SysProcAttr{Setpgid: true}
	d.run(t)
	group := -d.cmd.Process.Pid
	t.Cleanup(func() {
		_ = syscall.Kill(group, syscall.SIGKILL)
		script(t, "down", "devloop")
	})
	d.find(t, 0, "that the cluster is up", func(l line) bool { return strings.Contains(l.text, "cluster devloop is up") })
	d.await(t, 0, on(event.ImageLoaded))
	d.await(t, 0, ready)
	if o := request(local(p.port), "/api/health"); o.fate != answered {
		t.Error(o)
	}

	must(t, syscall.Kill(group, syscall.SIGINT)) // Ctrl+C, as a terminal sends it
	d.exit(t)
	for _, removed := range []string{"dask-gateway", "dask-session"} {
		d.await(t, 0, on(event.ReleaseUninstalled).with("release", removed))
	}
	if status() == nil || listens(p.port) {
		t.Error("something is left: the cluster, or the port")
	}
	eventually(t, "its processes have gone", func() bool { return errors.Is(syscall.Kill(group, 0), syscall.ESRCH) })
}
