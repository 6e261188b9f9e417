//go:build e2e

// What somebody does first: make run in a clone, on a machine where no minikube runs.
package e2e

import (
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
	t.Cleanup(func() { script(t, "down", "devloop") })
	start := func(t *testing.T) *devloop {
		d := &devloop{project: p, cmd: exec.Command("make", "run")}
		d.cmd.Dir, d.cmd.Env, d.cmd.SysProcAttr = p.dir, p.env, &syscall.SysProcAttr{Setpgid: true}
		d.run(t)
		t.Cleanup(func() { _ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) })
		return d
	}
	// interrupt is Ctrl+C, as a terminal sends it.
	interrupt := func(t *testing.T, d *devloop) {
		must(t, syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT))
		d.exit(t)
		if s := d.cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGINT {
			t.Errorf("make ended with %v, not as Ctrl+C ends it", d.cmd.ProcessState)
		}
		for _, l := range d.log(0) {
			if strings.Contains(l.text, "***") || strings.Contains(l.text, "error: line") {
				t.Errorf("make complains: %s", l.text)
			}
		}
		if status() == nil || listens(p.port) {
			t.Error("something is left: the cluster, or the port")
		}
		eventually(t, "its processes have gone", func() bool { return len(processesIn(p.dir)) == 0 })
	}
	for _, moment := range []struct {
		name string
		is   func(line) bool
	}{
		{"while the node starts", func(l line) bool { return strings.HasPrefix(l.text, "starting the cluster devloop ") }},
		{"when the node is up", func(l line) bool { return strings.Contains(l.text, "cluster devloop is up") }},
		{"while devloop is opening", func(l line) bool { return l.Message != "" }},
	} {
		step(t, "Ctrl+C "+moment.name, func(t *testing.T) {
			d := start(t)
			d.find(t, 0, moment.name, moment.is)
			interrupt(t, d)
		})
	}

	d := start(t)
	d.await(t, 0, on(event.ImageLoaded))
	d.await(t, 0, ready)
	if o := request(local(p.port), "/api/health"); o.fate != answered {
		t.Error(o)
	}
	d.find(t, 0, "what to do next", func(l line) bool {
		return strings.HasSuffix(l.text, "from dask_gateway import Gateway")
	})
	url, err := command(t.Context(), p.env, filepath.Join(p.dir, "test", "cluster", "cluster"),
		"kubectl", "exec", "-n", "dask-gateway", "deploy/dask-session", "--", "sh", "-c", "echo $DASK_GATEWAY_URL")
	if must(t, err); !strings.HasPrefix(url, "http://") {
		t.Errorf("the shell that it names says %q", url)
	}
	interrupt(t, d)
	for _, removed := range []string{"dask-gateway", "dask-session"} {
		d.await(t, 0, on(event.ReleaseUninstalled).with("release", removed))
	}
}

// processesIn returns those that work in a folder or below it.
func processesIn(dir string) (working []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && (cwd == dir || strings.HasPrefix(cwd, dir+"/")) {
			working = append(working, filepath.Dir(link))
		}
	}
	return working
}
