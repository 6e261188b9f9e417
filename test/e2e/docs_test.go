//go:build e2e

// The commands of the documentation, as a reader types them.
package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/test/docs"
)

// documented returns the blocks of the documentation that run in a place.
func documented(t *testing.T, where string) []docs.Code {
	t.Helper()
	pages, err := docs.Read(filepath.Join("..", ".."))
	must(t, err)
	var found []docs.Code
	for _, block := range docs.Blocks(pages, "sh", "python") {
		if block.Where == where {
			found = append(found, block)
		}
	}
	if len(found) == 0 {
		t.Fatalf("no block of the documentation runs in the place %q", where)
	}
	return found
}

// TestDocs runs the blocks "sh cluster", each in a repository of its user's: a Dockerfile and a
// chart, and the configuration that the block needs. What would go on until Ctrl+C ends once it is
// ready.
func TestDocs(t *testing.T) {
	t.Parallel()
	for _, block := range documented(t, "cluster") {
		step(t, block.String(), func(t *testing.T) {
			p := newProject(t, "docs")
			folder := filepath.Join(t.TempDir(), p.name) // devloop init calls the image like it
			must(t, os.Rename(p.dir, folder))
			p.dir = folder
			makesOne, fromSkaffold := strings.Contains(block.Text, "devloop init"), strings.Contains(block.Text, "skaffold.yaml")
			if makesOne || fromSkaffold {
				must(t, os.Remove(filepath.Join(p.dir, "devloop.yaml")))
			}
			if !fromSkaffold {
				must(t, os.Remove(filepath.Join(p.dir, "skaffold.yaml")))
			}
			p.document(t, block, "DEVLOOP_ONCE=true")
			p.call(t, 0, "delete")
			p.gone(t)
		})
	}
}

var scriptName = regexp.MustCompile(`[\w-]+\.py\b`)

// document runs a block in p's folder. The scripts of the reader's that it names are there, and do
// nothing.
func (p *project) document(t *testing.T, block docs.Code, env ...string) {
	t.Helper()
	program := []string{"bash", "-euxo", "pipefail", "-c", block.Text}
	if block.Language == "python" {
		program = []string{"python", "-c", block.Text}
	}
	for _, name := range scriptName.FindAllString(block.Text, -1) {
		p.write(t, name, "")
	}
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	env = append(p.env, env...)
	env = append(env, "PATH="+filepath.Dir(setting(t, "DEVLOOP_BIN"))+":"+pathOf(env))
	cmd := exec.CommandContext(ctx, "env", program...) // finds the program in the PATH of cmd.Env
	cmd.Dir, cmd.Env, cmd.WaitDelay = p.dir, env, time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s\nsaid, with the command after each +:\n%s", block, err, block.Text, out)
	}
}

// pathOf returns the PATH of an environment, in which the last one counts.
func pathOf(env []string) (path string) {
	for _, variable := range env {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			path = value
		}
	}
	return path
}
