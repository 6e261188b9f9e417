package node

import (
	"context"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
)

// processList is a node whose runtime prints these lines, if it is asked in its own words.
type processList struct {
	transport
	command, out, failure string
	asked                 int
}

func (p *processList) run(_ context.Context, _ io.Reader, args ...string) (string, error) {
	p.asked++
	if asked := strings.Join(args, " "); !strings.HasPrefix(asked, p.command) {
		return "", errors.New("asked: " + asked)
	}
	if p.failure != "" {
		return p.out, errors.New(p.failure)
	}
	return p.out, nil
}

func TestPIDs(t *testing.T) {
	one, two, three := strings.Repeat("1", 64), strings.Repeat("2", 64), strings.Repeat("3", 64)
	for runtime, list := range map[runtime]*processList{
		dockerRuntime: {command: "docker inspect", out: one + " 17\n" + two + " 0\n",
			failure: "Error: No such container: " + three},
		containerdRuntime{}: {command: "ctr --namespace k8s.io tasks ls",
			out: "TASK    PID     STATUS    \n" + one + "    17    RUNNING\n" + strings.Repeat("4", 64) + "    5    RUNNING\n"},
		crioRuntime: {command: "sh -c status=0", out: one + " 17\n\n",
			failure: `rpc error: code = NotFound desc = could not find container "333"`},
	} {
		c := &Cluster{nodes: []*node{{name: "a", runtime: runtime, transport: list}}}
		ids := []string{one, two, three, "$(reboot)"}
		pids, err := c.PIDs(t.Context(), "by another name", ids)
		if err != nil || !maps.Equal(pids, map[string]int{one: 17}) {
			t.Errorf("%s: %v, %v", runtime.name(), pids, err)
		}
		asked := list.asked
		if pids, err := c.PIDs(t.Context(), "a", []string{one}); err != nil || pids[one] != 17 || list.asked != asked {
			t.Errorf("%s: %v, %v: it does not remember", runtime.name(), pids, err)
		}
		list.failure = "no connection"
		if pids, err := c.PIDs(t.Context(), "a", ids); err == nil {
			t.Errorf("%s: %v", runtime.name(), pids)
		}
	}
}

func TestShell(t *testing.T) {
	c := &Cluster{nodes: []*node{{name: "a", transport: localTransport{"a"}}, {name: "b"}}}
	if _, ok := c.Shell("c"); ok {
		t.Error("an unknown node has a shell")
	}
	shell, ok := c.Shell("a")
	if !ok {
		t.Fatal("no shell")
	}
	out, err := shell.Run(t.Context(), strings.NewReader("fed"), "cat")
	if err != nil || out != "fed" {
		t.Errorf("%q, %v", out, err)
	}
	_, err = shell.Run(t.Context(), nil, "sh", "-c", "# a script\necho wrong >&2\nexit 3", "name")
	if err == nil || err.Error() != "node a: sh -c … name: exit status 3: wrong" {
		t.Error(err)
	}
}
