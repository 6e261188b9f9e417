package files

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestToolFiles(t *testing.T) {
	for _, pattern := range slices.Concat(ephemeral, tooling) {
		if _, err := path.Match(pattern, "x"); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	for name, want := range map[string][2]bool{ // IsEphemeral, IsToolFile
		".values.yaml.swp": {true, true}, ".values.yaml.swo": {true, true}, ".values.yaml.swx": {true, true},
		".web.yaml.swj": {true, true}, ".swp": {true, true}, "4913": {false, true},
		".#values.yaml": {true, true}, "#values.yaml#": {true, true},
		".values.yaml.kate-swp": {true, true}, ".~lock.table.ods#": {true, true}, "~$table.xlsx": {true, true},
		"values.yaml___jb_tmp___": {true, true}, "values.yaml___jb_old___": {false, true},
		".goutputstream-A1B2C3": {true, true}, ".nfs000000000012": {true, true},
		"values.yaml~": {false, true}, "web.yaml.~1~": {false, true}, ".web.yaml.un~": {false, true},
		".git": {false, true}, ".idea": {false, true}, ".DS_Store": {false, true}, "._web.yaml": {false, true},

		"values.yaml": {}, "_helpers.tpl": {}, ".helmignore": {}, ".env": {}, "4913.yaml": {}, "logo.swf": {},
		".x.swf": {}, ".x.svg": {}, "web.swp": {}, "sedation": {}, "web.yaml.save": {}, "web.tmp": {},
		"web.bak": {}, "#comment": {}, ".gitignore": {}, ".nfsmount": {}, "git": {}, "~": {false, true}, "": {},
	} {
		if got := [2]bool{IsEphemeral(name), IsToolFile(name)}; got != want {
			t.Errorf("%q is ephemeral, a tool's: %v, want %v", name, got, want)
		}
	}
}

// A folder of the project may be called like a pattern.
func TestGlob(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "web [2] *")
	for _, name := range []string{"k8s/a.yaml", "k8s/b.yaml", "k8s/[x].yaml", "c.yaml"} {
		full := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, want := range map[string]struct {
		folder, glob string
		found        []string
	}{
		"k8s/*.yaml":     {"k8s", "*.yaml", []string{"k8s/[x].yaml", "k8s/a.yaml", "k8s/b.yaml"}},
		"*/[ab].yaml":    {"", "*/[ab].yaml", []string{"k8s/a.yaml", "k8s/b.yaml"}},
		"k8s/[x].yaml":   {"k8s/[x].yaml", "", []string{"k8s/[x].yaml"}},
		"k8s/**/*.yaml":  {"k8s", "**/*.yaml", nil},
		"c.yaml":         {"c.yaml", "", []string{"c.yaml"}},
		"missing/*.yaml": {"missing", "*.yaml", nil},
		"missing.yaml":   {"missing.yaml", "", nil},
	} {
		folder, glob := SplitGlob(filepath.Join(dir, pattern))
		if folder != filepath.Join(dir, want.folder) || glob != want.glob {
			t.Errorf("%s: %s, %s", pattern, folder, glob)
		}
		found, err := Glob(filepath.Join(dir, pattern))
		for i := range found {
			found[i] = strings.TrimPrefix(found[i], dir+"/")
		}
		if err != nil || !slices.Equal(found, want.found) {
			t.Errorf("%s: %q, %v", pattern, found, err)
		}
	}
}
