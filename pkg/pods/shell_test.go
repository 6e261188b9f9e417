package pods

import (
	"errors"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/filesync"
	"github.com/devloop/devloop/pkg/kube"
)

func TestShell(t *testing.T) {
	both(t, func(t *testing.T, _ *execServer, c *kube.Cluster, in Container) {
		shell := &Shell{c, in}
		if out, err := shell.Run(t.Context(), strings.NewReader("fed"), "cat"); out != "fed" || err != nil {
			t.Errorf("%q, %v", out, err)
		}
		if out, err := shell.Run(t.Context(), nil, "cat"); out != "" || err != nil {
			t.Errorf("%q, %v", out, err)
		}
		out, err := shell.Run(t.Context(), nil, "sh", "-c", "echo out; yes wrong | head -c 100000 >&2; exit 3")
		if out != "out\n" || err == nil || len(err.Error()) > 5000 ||
			!strings.Contains(err.Error(), "exit code 3: wrong\nwrong") {
			t.Errorf("%q, %v", out, err)
		}
		_, err = shell.Run(t.Context(), nil, "sh", "-c", "exit 127")
		if err == nil || errors.As(err, new(*filesync.Refusal)) {
			t.Errorf("a script's own exit code: %v", err)
		}
		if _, err := shell.Run(t.Context(), nil, "nosuch"); !errors.As(err, new(*filesync.Refusal)) {
			t.Errorf("a missing command: %v", err)
		}
		if _, err := shell.Run(t.Context(), nil, "sh", "-c", "yes | head -c 70000000"); err == nil {
			t.Error("without a limit")
		}
	})
}
