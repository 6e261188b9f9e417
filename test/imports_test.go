// Package test holds what concerns the whole repository.
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/devloop/devloop/"

// may says which packages of devloop each one may import. The stages do not know each other: the
// loop brings them together, the command wires them.
var may = map[string][]string{
	"github.com/devloop/devloop": {}, // the root: files alone
	"pkg/config":                 {"pkg/config/tree", "pkg/files"},
	"pkg/config/tree":            {"pkg/files"},
	"pkg/skaffold":               {"pkg/config/tree", "pkg/files", "pkg/skaffold/dotenv"},
	"pkg/draft": {"pkg/build", "pkg/config", "pkg/config/tree", "pkg/deploy", "pkg/files", "pkg/manifests",
		"pkg/skaffold"},
	"pkg/journal":    {},
	"pkg/manifests":  {"pkg/subprocess", "pkg/event", "pkg/files"},
	"pkg/subprocess": {},
	"pkg/event":      {},
	"pkg/console":    {"pkg/event", "pkg/status"},
	"pkg/control":    {"pkg/event", "pkg/status", "pkg/status/web"},
	"pkg/session": {"pkg/build", "pkg/config", "pkg/config/tree", "pkg/console", "pkg/control", "pkg/dask", "pkg/deploy",
		"pkg/event", "pkg/filediff", "pkg/files", "pkg/filesync",
		"pkg/journal", "pkg/kube", "pkg/loop", "pkg/node", "pkg/pods", "pkg/portforward", "pkg/proof", "pkg/status",
		"pkg/status/web", "pkg/venv", "pkg/watch"},
	"test/terminal":       {},
	"test/proxy":          {},
	"pkg/files":           {},
	"pkg/skaffold/dotenv": {},
	"pkg/command":         {},
	"pkg/watch":           {"pkg/event", "pkg/files"},
	"pkg/filesync":        {"pkg/event", "pkg/files"},
	"pkg/filediff":        {"pkg/event", "pkg/files", "pkg/watch"},
	"pkg/loop":            {"pkg/event", "pkg/files", "pkg/watch"},
	"pkg/build":           {"pkg/event", "pkg/files"},
	"pkg/node":            {"pkg/event", "pkg/files"},
	"pkg/kube":            {"pkg/event", "pkg/files"},
	"pkg/pods":            {"pkg/event", "pkg/filesync", "pkg/kube"},
	"pkg/dask":            {"pkg/event", "pkg/kube"},
	"pkg/deploy": {"pkg/subprocess", "pkg/command", "pkg/event", "pkg/files", "pkg/journal", "pkg/kube",
		"pkg/manifests"},
	"pkg/venv":        {"pkg/command", "pkg/event", "pkg/files"},
	"pkg/proof":       {"pkg/event"},
	"pkg/portforward": {"pkg/event"},
	"pkg/status":      {"pkg/event", "pkg/files"},
	"pkg/status/web":  {"pkg/event", "pkg/status"},
	"test/bench":      {"pkg/build", "pkg/event", "pkg/node"}, // all else it measures from outside
	"test/docs":       {},
	"test/page":       {"pkg/event", "pkg/status", "pkg/status/web"}, // a made-up page
	"test/scale":      {},                                            // it measures from outside
	"test/skaffold":   {},                                            // tests alone
}

// onlyConsole is imported by pkg/console alone: other packages send events and do not print.
const onlyConsole = "github.com/charmbracelet/log"

func TestImportArrows(t *testing.T) {
	// That they are looked at here keeps go test from taking an earlier result for today's: of what
	// the command below reads, it knows nothing.
	for _, folder := range []string{"../pkg", "../cmd", "."} {
		if err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && filepath.Ext(path) == ".go" {
				_, err = os.Stat(path)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("go", "list", "-C", "..", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		if name == "cmd/devloop" || name == "test" {
			continue
		}
		allowed, known := may[name]
		if !known {
			t.Errorf("%s is in no row of the table of packages (ARCHITECTURE.md)", name)
		}
		seen++
		for _, imported := range p.Imports {
			own, isOwn := strings.CutPrefix(imported, module)
			if isOwn && !slices.Contains(allowed, own) || imported == onlyConsole && name != "pkg/console" {
				t.Errorf("%s imports %s", name, imported)
			}
		}
	}
	if seen != len(may) {
		t.Errorf("%d packages looked at, the table has %d", seen, len(may))
	}
}
