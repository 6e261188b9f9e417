//go:build e2e

// The commands that end by themselves, on a real cluster.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestCommands(t *testing.T) {
	cluster := kubernetesClient(t)
	p := newProject(t, "small")
	const target = "--set=images.page.target=nowhere"

	t.Run("doctor finds all well", func(t *testing.T) {
		out, log := p.call(t, 0, "doctor")
		for _, want := range []string{"ok    configuration", "ok    Docker", "ok    cluster        context e2e, Kubernetes v1.", "ok    nodes          e2e: containerd, ", "clock in step", "ok    ports", "ok    watching"} {
			if !strings.Contains(out, want) {
				t.Errorf("doctor does not say %q:\n%s%s", want, out, log)
			}
		}
	})

	t.Run("doctor says what a forward's port is taken by", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:8002")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		if out, _ := p.call(t, 3, "doctor"); !strings.Contains(out, "devloop.yaml:12:58: forwards[0].local: local port 8002 is taken by pid ") {
			t.Error(out)
		}
	})

	t.Run("build prints what it built", func(t *testing.T) {
		var first, second []struct {
			Name, Image string
			Built       bool
		}
		for _, images := range []any{&first, &second} {
			out, _ := p.call(t, 0, "build", "--json")
			if err := json.Unmarshal([]byte(out), images); err != nil {
				t.Fatalf("%v:\n%s", err, out)
			}
		}
		if len(first) != 1 || first[0].Name != "page" || !strings.HasPrefix(first[0].Image, "page:") {
			t.Errorf("built %+v", first)
		}
		if len(second) != 1 || second[0].Built || second[0].Image != first[0].Image {
			t.Errorf("built again: %+v", second)
		}
		if text, _ := p.call(t, 0, "build"); text != "page  "+first[0].Image+"\n" {
			t.Errorf("as text: %q", text)
		}
	})

	t.Run("run deploys, says so in JSON, and ends", func(t *testing.T) {
		_, log := p.call(t, 0, "run", "--log-format", "json")
		last := map[string]any{}
		for line := range strings.Lines(log) {
			if err := json.Unmarshal([]byte(line), &last); err != nil {
				t.Errorf("%v: %s", err, line)
			}
		}
		if last["stage"] != "loop" || last["phase"] != "succeeded" || last["run"] != 1.0 {
			t.Errorf("the last line is %v", last)
		}
		if pods := p.pods(t, cluster); len(pods) != 1 {
			t.Errorf("pods by node: %v", pods)
		}
		if _, err := net.DialTimeout("tcp", "127.0.0.1:8002", time.Second); err == nil {
			t.Error("the forward is still open")
		}
	})

	t.Run("run again changes nothing", func(t *testing.T) {
		if _, log := p.call(t, 0, "run"); strings.Contains(log, "release applied") || strings.Contains(log, "image built") {
			t.Error(log)
		}
	})

	t.Run("run fails, and says why once", func(t *testing.T) {
		_, log := p.call(t, 1, "run", target)
		if n := strings.Count(log, "nowhere"); n != 1 {
			t.Errorf("the reason is there %d times:\n%s", n, log)
		}
		if n := strings.Count(log, "ERRO"); n != 1 {
			t.Errorf("%d errors:\n%s", n, log)
		}
	})

	t.Run("delete leaves nothing", func(t *testing.T) {
		p.call(t, 0, "delete")
		if pods := p.pods(t, cluster); len(pods) != 0 {
			t.Errorf("pods left: %v", pods)
		}
		p.call(t, 0, "delete") // and again: there is nothing to be done
	})
}
