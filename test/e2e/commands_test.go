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

	step(t, "delete leaves nothing", func(t *testing.T) {
		p.call(t, 0, "delete")
		compare(t, "deleted", inventory(t, p.name), empty)
		p.call(t, 0, "delete") // and again: there is nothing to be done
	})
}
