package venv

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// made is one environment for all tests, since making one takes seconds.
var made = struct {
	sync.Mutex
	dir string
}{}

// madeVenv returns an environment as users make it, with pip in it.
func madeVenv(t *testing.T) string {
	t.Helper()
	made.Lock()
	defer made.Unlock()
	if made.dir == "" {
		dir, err := os.MkdirTemp("", "devloop-venv-*") //nolint:usetesting // it outlives this test
		if err != nil {
			t.Fatal(err)
		}
		made.dir = filepath.Join(dir, "of a user")
		if out, err := exec.Command("/usr/bin/python3", "-m", "venv", made.dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return made.dir
}

// wheel writes an installable library.
func wheel(t *testing.T, folder, name, version string) {
	t.Helper()
	info := fmt.Sprintf("%s-%s.dist-info/", name, version)
	file, err := os.Create(filepath.Join(folder, fmt.Sprintf("%s-%s-py3-none-any.whl", name, version)))
	if err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(file)
	for path, content := range map[string]string{
		name + ".py":      "",
		info + "METADATA": meta(name, version),
		info + "WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		info + "RECORD":   fmt.Sprintf("%s.py,,\n%sMETADATA,,\n%sWHEEL,,\n%sRECORD,,\n", name, info, info, info),
	} {
		w, err := archive.Create(path)
		if err == nil {
			_, err = w.Write([]byte(content))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
}

// offline makes pip use only the wheels in a folder.
func offline(t *testing.T) (wheels string) {
	wheels = t.TempDir()
	t.Setenv("PIP_NO_INDEX", "1")
	t.Setenv("PIP_FIND_LINKS", wheels)
	t.Setenv("PIP_CONFIG_FILE", os.DevNull)
	t.Setenv("PIP_NO_CACHE_DIR", "1")
	return wheels
}

func TestInstall(t *testing.T) {
	dir, wheels, folder := madeVenv(t), offline(t), filepath.Join(t.TempDir(), "a project")
	wheel(t, wheels, "alpha", "1.0")
	wheel(t, wheels, "alpha", "2.0")
	t.Setenv("PIP_USER", "1")      // as a user may have it
	t.Setenv("PYTHONPATH", folder) // a file in it that shadows a module of Python does no harm
	write(t, folder, map[string]string{"requirements.txt": "-r more.txt\n", "more.txt": "alpha==1.0\n",
		"logging.py": "raise SystemExit('the wrong one')\n"})
	file := filepath.Join(folder, "requirements.txt")
	var lines []string
	output := func(line string) { lines = append(lines, line) }
	installed, err := Install(t.Context(), dir, folder, Packages{Requirements: file}, output)
	if err != nil || !slices.Equal(installed, []string{"alpha-1.0"}) {
		t.Fatalf("%q, %v: %q", installed, err, lines)
	}
	if e, err := Read(dir); err != nil || e.Versions["alpha"] != "1.0" {
		t.Errorf("%+v, %v", e, err)
	}
	installed, err = Install(t.Context(), dir, folder, Packages{Requirements: file}, output)
	if err != nil || len(installed) > 0 {
		t.Errorf("again: %q, %v", installed, err)
	}
	write(t, folder, map[string]string{"more.txt": "alpha==2.0\n"})
	installed, err = Install(t.Context(), dir, folder, Packages{Requirements: file}, output)
	if err != nil || !slices.Equal(installed, []string{"alpha-2.0"}) {
		t.Errorf("%q, %v", installed, err)
	}
	write(t, folder, map[string]string{"more.txt": "alpha\n"})
	before := Packages{Requirements: file, Constraints: []string{"alpha==1.0", "never==1"}}
	installed, err = Install(t.Context(), dir, folder, before, output)
	if err != nil || !slices.Equal(installed, []string{"alpha-1.0"}) {
		t.Errorf("with constraints: %q, %v", installed, err)
	}
	installed, err = Install(t.Context(), dir, folder, Packages{Exactly: []string{"alpha==2.0"}}, output)
	if err != nil || !slices.Equal(installed, []string{"alpha-2.0"}) {
		t.Errorf("exactly: %q, %v", installed, err)
	}
	write(t, folder, map[string]string{"more.txt": "alpha==3.0\n"})
	_, err = Install(t.Context(), dir, folder, Packages{Requirements: file}, output)
	if err == nil || !strings.Contains(err.Error(), "install requirements.txt into "+dir+": exit status 1\n"+
		"ERROR: Could not find a version that satisfies the requirement alpha==3.0") {
		t.Error(err)
	}
	var failed *InstallError
	if !errors.As(err, &failed) || failed.Unavailable != "alpha==3.0" {
		t.Errorf("%+v", failed)
	}
}

// The index that the requirements name counts for what is installed, or looked up, by itself.
func TestInstallWithOptions(t *testing.T) {
	dir, _, folder := madeVenv(t), offline(t), t.TempDir()
	write(t, folder, map[string]string{"requirements.txt": "-f wheels\nomega==2.0\n", "wheels/": ""})
	wheel(t, filepath.Join(folder, "wheels"), "omega", "1.0+cu118")
	wheel(t, filepath.Join(folder, "wheels"), "omega", "2.0")
	r, err := ReadRequirements(filepath.Join(folder, "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	p := Packages{Requirements: r.Files[0], Constraints: []string{"omega==1.0+cu118"}, Options: r.Options}
	var failed *InstallError
	_, err = Install(t.Context(), dir, folder, p, func(string) {})
	if !errors.As(err, &failed) || failed.Unavailable != "" || !slices.Equal(failed.Conflicts, p.Constraints) {
		t.Errorf("what there is, and is excluded: %+v, %v", failed, err)
	}
	p = Packages{Exactly: p.Constraints, Options: r.Options}
	installed, err := Install(t.Context(), dir, folder, p, func(string) {})
	if err != nil || !slices.Equal(installed, []string{"omega-1.0+cu118"}) {
		t.Errorf("%q, %v", installed, err)
	}
}

// Two devloops do not install into the same environment at once.
func TestInstallLocked(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*lockInterval, errors.New("too late"))
	defer cancel()
	if _, err := lock(ctx, dir); err == nil || err.Error() != "another devloop installs into "+dir+": too late" {
		t.Error(err)
	}
	unlock()
	again, err := lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestUnavailable(t *testing.T) {
	for want, line := range map[string]string{
		"numpy==1.2":  "ERROR: No matching distribution found for numpy==1.2",
		"toolz==99.0": "  cause: Because there is no version of toolz==99.0 and you require toolz==99.0, we can conclude",
		"nothere":     "Because nothere was not found in the package registry and you require nothere==1.0",
		"numpy==1.21": "Because numpy==1.21 has no usable wheels and you require",
		"":            "ERROR: Cannot install alpha because these package versions have conflicting dependencies.",
	} {
		if got := unavailable([]string{"Collecting a", line}); got != want {
			t.Errorf("%q: %q", line, got)
		}
	}
}

func TestInstallWithoutPip(t *testing.T) {
	dir, tools := filepath.Join(t.TempDir(), ".venv"), t.TempDir()
	if out, err := exec.Command("/usr/bin/python3", "-m", "venv", "--without-pip", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("PATH", tools)
	install := func() ([]string, error) {
		return Install(t.Context(), dir, tools, Packages{Exactly: []string{"alpha==2.0"}}, func(string) {})
	}
	_, err := install()
	if err == nil || !strings.Contains(err.Error(), "there is no pip in "+dir) ||
		!strings.Contains(event.Hint(err), "-m ensurepip") {
		t.Errorf("%v → %s", err, event.Hint(err))
	}
	uv := filepath.Join(tools, "uv")
	script := "#!/bin/sh\necho \"$@\" > args\necho ' - alpha==1.0'\necho ' + alpha==2.0'\necho ' + beta==1.0'\n"
	if err := os.WriteFile(uv, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	installed, err := install()
	if err != nil || !slices.Equal(installed, []string{"alpha-2.0", "beta-1.0"}) {
		t.Errorf("%q, %v", installed, err)
	}
	args, err := os.ReadFile(filepath.Join(tools, "args"))
	if err != nil || string(args) != "pip install --python "+dir+"/bin/python --no-deps alpha==2.0\n" {
		t.Errorf("%s, %v", args, err)
	}

	// Its Python may be gone, and all of it.
	for _, name := range []string{"python", "python3"} {
		python := filepath.Join(dir, "bin", name)
		if err := errors.Join(os.Remove(python), os.Symlink("/nowhere/python3", python)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := install(); err == nil || !strings.Contains(event.Hint(err), "python3 -m venv --clear "+dir) {
		t.Errorf("%v → %s", err, event.Hint(err))
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := install(); err == nil || event.Hint(err) != "make it: python3 -m venv "+dir {
		t.Errorf("%v → %s", err, event.Hint(err))
	}
}

// When devloop ends, pip is interrupted first, and whatever it started ends with it.
func TestInstallInterrupted(t *testing.T) {
	for _, test := range []struct{ name, script, left string }{
		{"it listens", "trap 'echo undone > left; exit 2' INT\n", "undone\n"},
		{"it does not", "trap '' INT\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder := t.TempDir()
			script := "#!/bin/sh\n" + test.script + "sleep 600 &\necho $! > child\necho begun\nwhile :; do wait; done\n"
			if err := os.WriteFile(filepath.Join(folder, "pip"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			start := time.Now()
			_, _, err := run(ctx, folder, []string{filepath.Join(folder, "pip")}, func(string) { cancel() })
			if took := time.Since(start); err == nil || took > time.Minute { // the child takes ten
				t.Errorf("%v after %s", err, took)
			}
			if left, _ := os.ReadFile(filepath.Join(folder, "left")); string(left) != test.left {
				t.Errorf("left %q", left)
			}
			child, err := os.ReadFile(filepath.Join(folder, "child"))
			if err != nil {
				t.Fatal(err)
			}
			var pid int
			if _, err := fmt.Sscan(string(child), &pid); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Minute); ; { // dead, and not yet reaped
				state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				if err != nil || strings.Contains(string(state), ") Z ") {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d stayed behind: %s", pid, state)
				}
			}
			if syscall.Kill(-pid, 0) == nil {
				t.Error("its group is still there")
			}
		})
	}
}

func TestExcerpt(t *testing.T) {
	long := "ERROR: Could not find a version (from versions: " + strings.Repeat("0.1, ", 200) + "2.0)"
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprintf("line %d", i))
	}
	for _, test := range []struct {
		name  string
		lines []string
		want  func(string) bool
	}{
		{"nothing", nil, func(s string) bool { return s == "" }},
		{"from the error on", []string{"Collecting a", "ERROR: no such thing"},
			func(s string) bool { return s == "ERROR: no such thing" }},
		{"of uv", []string{"Resolving", "  × No solution found", "  ╰─▶ because"},
			func(s string) bool { return s == "  × No solution found\n  ╰─▶ because" }},
		{"without an error the end", many,
			func(s string) bool { return strings.HasPrefix(s, "line 28\n") && strings.HasSuffix(s, "\nline 39") }},
		{"of a long one both ends", append([]string{"noise", "  error: subprocess-exited-with-error"}, many...),
			func(s string) bool {
				const start = "  error: subprocess-exited-with-error\nline 0\nline 1\n…\nline 31"
				return strings.HasPrefix(s, start) && strings.HasSuffix(s, "\nline 39")
			}},
		{"a long line", []string{long}, func(s string) bool { return len(s) < 300 && strings.HasSuffix(s, "2.0)") }},
	} {
		if got := excerpt(test.lines); !test.want(got) {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}
