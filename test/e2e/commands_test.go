//go:build e2e

// The commands that end by themselves, on a real cluster.
package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	node := onlyNode(t) // called as its cluster, and as that one's context
	p := newProject(t, "small")
	empty := inventory(t, p.name)

	step(t, "doctor finds all well", func(t *testing.T) {
		out, log := p.call(t, 0, "doctor")
		for _, want := range []string{"ok    configuration", "ok    Docker",
			"ok    cluster        context " + node + ", Kubernetes v1.", "ok    nodes          " + node + ": containerd, ",
			"clock in step", "ok    ports", "ok    watching"} {
			if !strings.Contains(out, want) {
				t.Errorf("doctor does not say %q:\n%s%s", want, out, log)
			}
		}
	})

	step(t, "doctor says what a forward's port is taken by", func(t *testing.T) {
		listener, err := net.Listen("tcp", local(p.port))
		must(t, err)
		defer func() { _ = listener.Close() }()
		before, _, _ := strings.Cut(p.read(t, "devloop.yaml"), fmt.Sprint(p.port))
		lines := strings.Split(before, "\n")
		place := fmt.Sprintf("devloop.yaml:%d:%d: forwards[0].local: local port %d is taken by pid ",
			len(lines), len(lines[len(lines)-1])+1, p.port)
		if out, _ := p.call(t, 3, "doctor"); !strings.Contains(out, place) {
			t.Errorf("doctor does not say %q:\n%s", place, out)
		}
	})

	step(t, "build prints what it built", func(t *testing.T) {
		var first, second []struct {
			Name, Image string
			Built       bool
		}
		for _, images := range []any{&first, &second} {
			out, _ := p.call(t, 0, "build", "--json")
			must(t, json.Unmarshal([]byte(out), images))
		}
		if len(first) != 1 || first[0].Name != p.name || !first[0].Built || !strings.HasPrefix(first[0].Image, p.name+":") {
			t.Fatalf("built %+v", first)
		}
		if len(second) != 1 || second[0].Built || second[0].Image != first[0].Image {
			t.Errorf("built again: %+v", second)
		}
		if text, _ := p.call(t, 0, "build"); !slices.Equal(strings.Fields(text), []string{p.name, first[0].Image}) {
			t.Errorf("as text: %q", text)
		}
	})

	step(t, "run deploys, says so in JSON, and ends", func(t *testing.T) {
		_, log := p.call(t, 0, "run", "--log-format", "json")
		var first, last map[string]any
		for line := range strings.Lines(log) {
			last = map[string]any{}
			must(t, json.Unmarshal([]byte(line), &last))
			if first == nil {
				first = last
			}
		}
		if fields, ok := first["fields"].(map[string]any); !ok || first["msg"] != event.ClusterChosen ||
			fields["context"] != node || fields["why"] != "the minikube profile "+node {
			t.Errorf("the first line is %v", first)
		}
		if last["stage"] != "loop" || last["phase"] != "succeeded" || last["run"] != 1.0 {
			t.Errorf("the last line is %v", last)
		}
		if pods := p.podByNode(t, kubernetesClient(t)); len(pods) != 1 {
			t.Errorf("pods by node: %v", pods)
		}
		if listens(p.port) {
			t.Error("the forward is still open")
		}
	})

	step(t, "run again, as --once, changes nothing", func(t *testing.T) {
		_, log := p.call(t, 0, "--once")
		if !strings.Contains(log, "ready in") || strings.Contains(log, "release applied") ||
			strings.Contains(log, "image built") {
			t.Error(log)
		}
	})

	step(t, "run fails, and says why once", func(t *testing.T) {
		_, log := p.call(t, 1, "run", "--set=images."+p.name+".target=nowhere")
		if n := strings.Count(log, "nowhere"); n != 1 {
			t.Errorf("the reason is there %d times:\n%s", n, log)
		}
		if n := strings.Count(log, "ERRO"); n != 1 {
			t.Errorf("%d errors:\n%s", n, log)
		}
	})

	step(t, "beside a devloop that runs", func(t *testing.T) {
		d := p.start(t, "--cleanup=false")
		d.await(t, 0, ready)
		var pod string
		for _, pod = range p.podByNode(t, kubernetesClient(t)) {
		}
		if _, log := p.call(t, 2, "logs", "nosuch", "--follow=false"); !strings.Contains(log, `no pod matches "nosuch"`) ||
			!strings.Contains(log, "there are: ") || !strings.Contains(log, pod) {
			t.Errorf("logs of no pod: %s", log)
		}
		for line, want := range map[string]string{"logs ": pod + "\n", "logs " + pod + "/": pod + "/", "diff ": "small\n",
			"--kube-context ": node + "\n"} {
			out, _ := p.call(t, 0, append([]string{"__completeNoDesc"}, strings.Split(line, " ")...)...)
			if !strings.Contains(out, want) || !strings.HasSuffix(out, "\n:4\n") { // no names of files
				t.Errorf("devloop %s is completed by\n%s", line, out)
			}
		}

		// The running devloop says which images it would deploy, what was saved just now included.
		withoutDocker := *p
		withoutDocker.env = append(slices.Clone(p.env), "DOCKER_HOST=unix:///nowhere/docker.sock")
		if out, _ := withoutDocker.call(t, 0, "diff"); !strings.Contains(out, "/small, revision 1: unchanged") {
			t.Errorf("diff says\n%s", out)
		}
		saved := d.save(t, "index.html", "saved")
		started := time.Now()
		asked, _ := withoutDocker.call(t, 0, "render")
		beside := time.Since(started)
		_, log := p.call(t, 0, "render", "-v", "--set=images."+p.name+".args.A=b")
		if !strings.Contains(log, "the running devloop has another configuration") {
			t.Error(log)
		}
		saved.arrives(t)
		d.stop(t)
		started = time.Now()
		alone, _ := p.call(t, 0, "render")
		withDocker := time.Since(started)
		started = time.Now()
		byNode, _ := withoutDocker.call(t, 0, "render")
		t.Logf("render takes %s beside a devloop that runs; alone %s with Docker, %s without", beside, withDocker,
			time.Since(started))
		if asked != alone || asked != byNode || !strings.Contains(asked, p.name+":") {
			t.Errorf("rendered beside a devloop that runs:\n%s\nalone:\n%s", asked, alone)
		}
	})

	step(t, "delete leaves nothing", func(t *testing.T) {
		p.call(t, 0, "delete")
		compare(t, "deleted", inventory(t, p.name), empty)
		p.call(t, 0, "delete") // and again: there is nothing to be done
	})
}
