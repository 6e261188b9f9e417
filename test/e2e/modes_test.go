//go:build e2e

// Other ways to have devloop run: without what most machines have, and with somebody at its
// keyboard.
package e2e

import (
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

func TestModes(t *testing.T) {
	t.Parallel()
	cluster := kubernetesClient(t)

	t.Run("without commands, the kernel's events, and a page", func(t *testing.T) {
		t.Parallel()
		p := newProject(t, "small")
		p.env = append(p.env, "PATH="+t.TempDir()) // no kubectl, helm, minikube, docker, nor ssh
		port := freePort(t)
		d := p.start(t, "--watch=poll", "--page=false", "--page-port="+strconv.Itoa(port))
		d.await(t, 0, ready)
		p.awaitPage(t, "first")
		d.save(t, "index.html", "second").arrives(t)
		p.awaitPage(t, "second")
		if d.hasKernelEvents(t) {
			t.Error("it polls, and has the kernel's events, too")
		}
		if d.count(0, on(event.PageServed)) != 0 || listens(port) {
			t.Error("there is a page")
		}
		p.call(t, 0, "status", "--wait=healthy", "--timeout", longEnough.String())
		d.stop(t)
		if pods := p.podByNode(t, cluster); len(pods) != 0 || listens(p.port) {
			t.Errorf("left: pods %v, or port %d", pods, p.port)
		}
	})

	t.Run("a part of a project", testPart)

	t.Run("in a terminal", func(t *testing.T) {
		t.Parallel()
		p := newProject(t, "small")
		step(t, "its keys", func(t *testing.T) {
			w := startInTerminal(t, p)
			w.await(t, 0, ready)
			w.await(t, 0, on(event.PageServed))
			w.press(t, "?").happens(t, on("r: run now, p: pause and resume, o: the page, s: a shell, "+
				"l: logs of the pods, q: quit, ?: this help"))

			w.press(t, "p").happens(t, on(event.Paused))
			c := w.save(t, "index.html", "second")
			pass(t, time.Second) // a change has settled after a tenth of it
			if n := c.counts(on(event.RunStarts)); n != 0 {
				t.Errorf("%d runs while it was paused", n)
			}
			w.press(t, "p").happens(t, on(event.Resumed))
			c.arrives(t)
			p.awaitPage(t, "second")

			w.press(t, "r").arrives(t)

			requests := on(event.PodLog).with("pod", "^small-").with("line", "GET / HTTP")
			w.press(t, "l").happens(t, requests) // the kubelet asks each second
			w.press(t, "l").happens(t, on("logs of the pods are off"))
			c = w.press(t, "r")
			c.arrives(t)
			if n := c.counts(requests); n != 0 {
				t.Errorf("%d lines of pods after that", n)
			}

			w.press(t, "q")
			if code := w.exit(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if pods := p.podByNode(t, cluster); len(pods) != 0 {
				t.Errorf("pods left: %v", pods)
			}
		})
		step(t, "it is closed", func(t *testing.T) {
			w := startInTerminal(t, p)
			w.await(t, 0, ready)
			must(t, w.cmd.Process.Kill()) // script(1) alone: its terminal goes, and the kernel tells devloop by SIGHUP
			eventually(t, "devloop cleaned up and ended", func() bool {
				return len(p.podByNode(t, cluster)) == 0 && !listens(p.port) &&
					!runs(setting(t, "DEVLOOP_BIN")+" --log-format=json --verbose")
			})
			p.gone(t)
		})
	})
}

// terminal is one with somebody at its keyboard, and a devloop in it.
type terminal struct {
	*devloop
	keyboard io.Writer
}

// startInTerminal starts devloop in a terminal of its own.
func startInTerminal(t *testing.T, p *project, args ...string) *terminal {
	t.Helper()
	args = append([]string{"exec", setting(t, "DEVLOOP_BIN"), "--log-format=json", "--verbose"}, args...)
	return openTerminal(t, p, strings.Join(args, " "))
}

// openTerminal runs a shell's line in a terminal of its own, which script(1) makes.
func openTerminal(t *testing.T, p *project, line string) *terminal {
	t.Helper()
	d := &devloop{project: p, cmd: exec.Command("script", "--quiet", "--return", "--command", line, "/dev/null")}
	d.cmd.Dir, d.cmd.Env = p.dir, append(p.env, "TERM=dumb", "SHELL=/bin/sh")
	keyboard, err := d.cmd.StdinPipe()
	must(t, err)
	d.run(t)
	return &terminal{d, keyboard}
}

// press hits a key, or several.
func (w *terminal) press(t *testing.T, key string) change {
	t.Helper()
	c := w.next()
	_, err := io.WriteString(w.keyboard, key)
	must(t, err)
	return c
}
