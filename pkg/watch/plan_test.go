package watch

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ignoringCase looks at files below a folder as a file system does that keeps the case of names,
// and finds them by any.
func ignoringCase(t *testing.T, top string) lstat {
	t.Helper()
	return func(path string) fs.FileInfo {
		rest, below := strings.CutPrefix(path, top+"/")
		found := top
		if !below {
			found, rest = path, ""
		}
		for part := range strings.SplitSeq(rest, "/") {
			entries, err := os.ReadDir(found)
			if err != nil {
				break
			}
			for _, entry := range entries {
				if strings.EqualFold(entry.Name(), part) {
					part = entry.Name()
				}
			}
			found = filepath.Join(found, part)
		}
		info, err := os.Lstat(found)
		if err != nil {
			return nil
		}
		return info
	}
}

// The kernel's events name files as their folders list them.
func TestNamesOfAnotherCase(t *testing.T) {
	top := real(t.TempDir(), cachedLstat())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(top, "App Code", "src"), 0o755))
	must(os.WriteFile(filepath.Join(top, "App Code", "Dockerfile"), nil, 0o600))
	must(os.WriteFile(filepath.Join(top, "App Code", "src", "ünïted.py"), nil, 0o600))
	must(os.Symlink("app code/SRC", filepath.Join(top, "Link")))
	lstat := ignoringCase(t, top)
	for asked, want := range map[string][]string{
		"app code/dockerfile":        {"App Code", "App Code/Dockerfile"},
		"App Code/Dockerfile":        {"App Code", "App Code/Dockerfile"},
		"APP CODE/missing":           {"App Code", "App Code/missing"},
		"app code/Src/ÜNÏTED.py":     {"App Code", "App Code/src", "App Code/src/ünïted.py"},
		"link/ünïted.PY":             {"Link", "App Code", "App Code/src", "App Code/src/ünïted.py"},
		"app code/dockerfile/beyond": {"App Code", "App Code/Dockerfile"},
	} {
		var got []string
		for _, s := range trace(filepath.Join(top, asked), lstat) {
			if name, below := strings.CutPrefix(s.name, top+"/"); below {
				got = append(got, name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, not %q", asked, got, want)
		}
	}

	one := &target{Path: Path{Name: filepath.Join(top, "app code")}, filter: newFilter("", nil)}
	p := newPlan([]*target{one}, lstat)
	if !p.folders[filepath.Join(top, "App Code", "src")] {
		t.Errorf("watched folders: %v", p.folders)
	}
	event := filepath.Join(top, "App Code", "src", "ünïted.py")
	if got := p.touched(event, false); !slices.Equal(got, []string{filepath.Join(top, "app code", "src", "ünïted.py")}) {
		t.Errorf("an event for %s is reported as %q", event, got)
	}
}

// Where case counts, two files may differ in nothing else, even if they are one file.
func TestNamesWhereCaseCounts(t *testing.T) {
	dir := real(t.TempDir(), cachedLstat())
	for _, name := range []string{"MAKE", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "MAKE"), filepath.Join(dir, "make")); err != nil {
		t.Skip("this file system ignores case:", err)
	}
	for _, name := range []string{"MAKE", "make", "other", "Other"} {
		steps := trace(filepath.Join(dir, name), cachedLstat())
		if last := steps[len(steps)-1].name; last != filepath.Join(dir, name) {
			t.Errorf("%s is taken for %s", name, last)
		}
	}
}
