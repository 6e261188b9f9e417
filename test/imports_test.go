// Package test holds what concerns the whole repository.
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/devloop/devloop/"

// may says which packages of devloop each one may import. The stages do not know each other: the loop brings them together, the
// command wires them.
var may = map[string][]string{
	"pkg/config":      {},
	"pkg/journal":     {},
	"pkg/event":       {},
	"pkg/watch":       {"pkg/event"},
	"pkg/loop":        {"pkg/event"},
	"pkg/build":       {"pkg/event"},
	"pkg/node":        {"pkg/event"},
	"pkg/deploy":      {"pkg/event"},
	"pkg/portforward": {"pkg/event"},
	"test/bench":      {}, // it measures the program from outside
}

const onlyCommand = "github.com/charmbracelet/log" // imported by cmd/devloop alone: packages tell events, they do not print

func TestImportArrows(t *testing.T) {
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
			if isOwn && !slices.Contains(allowed, own) || imported == onlyCommand {
				t.Errorf("%s imports %s", name, imported)
			}
		}
	}
	if seen != len(may) {
		t.Errorf("%d packages looked at, the table has %d", seen, len(may))
	}
}
