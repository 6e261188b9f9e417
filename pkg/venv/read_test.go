package venv

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

// write writes files below dir. A name with a trailing slash is a folder, content after -> a link.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		err := error(nil)
		if target, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func meta(name, version string) string {
	return "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n\nName: of the description\n"
}

const site = "lib/python3.11/site-packages/"

func TestRead(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("PYTHONUSERBASE", "")
	elsewhere := t.TempDir()
	write(t, elsewhere, map[string]string{
		"src/edited.egg-info/PKG-INFO":        meta("edited", "0.1"),
		"linked/linked_one.egg-info/PKG-INFO": meta("linked.one", "0.2"),
		"linked/more.pth":                     elsewhere + "/never\n",
		"never/never-1.dist-info/METADATA":    meta("never", "1"),
		"bin/":                                "",
		"lib/python3.11/site-packages/numpy-1.0.dist-info/METADATA":  meta("numpy", "1.0"),
		"lib/python3.11/site-packages/scipy-1.1.dist-info/METADATA":  meta("scipy", "1.1"),
		"lib/python3/dist-packages/apt_pkg-2.6.egg-info":             meta("apt_pkg", "2.6"),
		"local/lib/python3.11/dist-packages/here-3.egg-info":         meta("here", "3"),
		"lib/python3.10/site-packages/older-1.0.dist-info/METADATA":  meta("older", "1.0"),
		"lib/python3.110/site-packages/later-1.0.dist-info/METADATA": meta("later", "1.0"),
	})
	for _, test := range []struct {
		name   string
		files  map[string]string
		python string
		want   map[string]string
	}{
		{"of python3 -m venv", map[string]string{
			"pyvenv.cfg": "home = /usr/bin\n" +
				"include-system-site-packages = false\nversion = 3.11.2\n",
			"lib64":                                  "->lib",
			site + "numpy-1.26.4.dist-info/METADATA": meta("numpy", "1.26.4"),
			site + "Dask_Gateway-1.dist-info/METADATA":    meta("Dask_Gateway", "2024.1.0+local.1"),
			site + "zope.interface-6.egg-info/PKG-INFO":   meta("zope.interface", "6"),
			site + "PyYAML-6.0.egg-info":                  "Metadata-Version: 1.1\r\nName: PyYAML\r\nVersion: 6.0\r\n",
			site + "egg-0.5-py3.11.egg/EGG-INFO/PKG-INFO": meta("egg", "0.5"),
			site + "numpy/__init__.py":                    "",
		}, "3.11.2", map[string]string{"numpy": "1.26.4", "dask-gateway": "2024.1.0+local.1",
			"zope-interface": "6", "pyyaml": "6.0", "egg": "0.5"}},

		{"leftovers and broken ones", map[string]string{
			"pyvenv.cfg":                             "version_info = 3.11.2.final.0\n",
			site + "numpy-1.26.4.dist-info/METADATA": meta("numpy", "1.26.4"),
			site + "~umpy-1.26.3.dist-info/METADATA": meta("numpy", "1.26.3"),
			site + "-umpy-1.26.3.dist-info/RECORD":   "",
			site + "gone-1.dist-info/":               "",
			site + "folder-1.dist-info/METADATA/":    "",
			site + "nameless-1.dist-info/METADATA":   "Version: 1\n",
			site + "bare-1.dist-info/METADATA":       "Name: bare\n",
			site + "odd-1.dist-info/METADATA":        "Name: odd one\nVersion: 1\n",
			site + "odder-1.dist-info/METADATA":      "Name: odder\nVersion: 1; rm -rf\n",
			site + "linked-1.dist-info":              "->nowhere",
		}, "3.11.2", map[string]string{"numpy": "1.26.4"}},

		{"two versions of Python, the older left by an upgrade", map[string]string{
			"pyvenv.cfg":                       "version = 3.11.2\n",
			site + "dask-2.dist-info/METADATA": meta("dask", "2"),
			"lib/python3.10/site-packages/dask-1.dist-info/METADATA":  meta("dask", "1"),
			"lib/python3.1/site-packages/dask-1.dist-info/METADATA":   meta("dask", "0"),
			"lib/python3.11t/site-packages/more-1.dist-info/METADATA": meta("more", "1"),
		}, "3.11.2", map[string]string{"dask": "2", "more": "1"}},

		{"without a version, and with a lib64 of its own", map[string]string{
			"pyvenv.cfg":                       "home = /usr/bin\n",
			site + "dask-2.dist-info/METADATA": meta("dask", "2"),
			"lib64/python3.11/site-packages/numpy-1.dist-info/METADATA": meta("numpy", "1"),
			"lib64/python3.11/site-packages/dask-1.dist-info/METADATA":  meta("dask", "1"),
		}, "", map[string]string{"dask": "2", "numpy": "1"}},

		{"libraries that are edited", map[string]string{
			"pyvenv.cfg": "version = 3.11.2\n",
			site + "easy-install.pth": elsewhere + "/src\n# " + elsewhere + "/never\n" +
				"import os; os.getcwd()\n" + elsewhere + "/nowhere\n",
			site + "linked.egg-link": elsewhere + "/linked\n.",
			site + "loop.pth":        ".\n..\n",
		}, "3.11.2", map[string]string{"edited": "0.1", "linked-one": "0.2"}},

		{"with what the machine has", map[string]string{
			"pyvenv.cfg": "home = " + elsewhere + "/bin\n" +
				"include-system-site-packages = True\nversion = 3.11.2\n",
			site + "numpy-2.0.dist-info/METADATA": meta("numpy", "2.0"),
		}, "3.11.2", map[string]string{"numpy": "2.0", "scipy": "1.1", "apt-pkg": "2.6", "here": "3"}},

		{"of conda", map[string]string{
			"conda-meta/python-3.11.5-h955ad1f_0.json":      "{}",
			"conda-meta/python-dateutil-2.8.2-pyhd3_0.json": "{}",
			site + "dask-2024.1.0.dist-info/METADATA":       meta("dask", "2024.1.0"),
		}, "3.11.5", map[string]string{"dask": "2024.1.0"}},

		{"empty", map[string]string{"pyvenv.cfg": "version = 3.11.2\n", site: ""}, "3.11.2", map[string]string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a b [1]")
			write(t, dir, test.files)
			for _, dir := range []string{dir, link(t, dir)} {
				python, got, err := Read(dir)
				if err != nil || python != test.python || !maps.Equal(got, test.want) {
					t.Errorf("%s: %q, %v, %v", dir, python, got, err)
				}
			}
		})
	}
}

// link returns another name of dir.
func link(t *testing.T, dir string) string {
	path := filepath.Join(t.TempDir(), ".venv")
	if err := os.Symlink(dir, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"file": "", "folder/bin/": "", "empty one/pyvenv.cfg": "version = 3.11.2\n", "piped/pyvenv.cfg/": "",
	})
	for name, want := range map[string][2]string{
		"no where": {"there is no Python environment at " + dir + "/no where",
			"make it: python3 -m venv '" + dir + "/no where'"},
		"file": {"is a file, not the folder of a Python environment", "name the folder that python3 -m venv made"},
		"folder": {"is no Python environment: it has neither a pyvenv.cfg nor a conda-meta",
			"make one there: python3 -m venv " + dir + "/folder"},
		"empty one": {"is incomplete: there is no lib/python3.*/site-packages in it",
			"python3 -m venv --clear '" + dir + "/empty one'"},
		"piped": {"pyvenv.cfg: is a directory", ""},
	} {
		_, _, err := Read(filepath.Join(dir, name))
		if err == nil || !strings.Contains(err.Error(), want[0]) || !strings.Contains(event.Hint(err), want[1]) {
			t.Errorf("%s: %v → %s", name, err, event.Hint(err))
		}
	}
}

// Python itself agrees.
func TestReadAgreesWithPython(t *testing.T) {
	dir := madeVenv(t)
	out, err := exec.Command(filepath.Join(dir, "bin", "python"), "-I", "-c",
		"import importlib.metadata as m, platform\nprint(platform.python_version())\n"+
			"for d in m.distributions(): print(d.metadata['Name'], d.version)").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	want := map[string]string{}
	for _, line := range lines[1:] {
		name, version, _ := strings.Cut(line, " ")
		want[normalized(name)] = version
	}
	python, got, err := Read(dir)
	if err != nil || python != lines[0] || !maps.Equal(got, want) || got["pip"] == "" {
		t.Errorf("%q, %v, %v\nnot %q", python, got, err, lines)
	}
}

func TestReadMany(t *testing.T) {
	if _, got, err := Read(many(t)); err != nil || len(got) != manyLibraries {
		t.Fatal(len(got), err)
	}
}

func BenchmarkRead(b *testing.B) {
	dir := many(b)
	for b.Loop() {
		if _, _, err := Read(dir); err != nil {
			b.Fatal(err)
		}
	}
}

const manyLibraries = 400

// many makes an environment with that many libraries.
func many(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"pyvenv.cfg": "version = 3.11.2\n"}
	for i := range manyLibraries {
		file := fmt.Sprintf("%slib_%d-1.dist-info/METADATA", site, i)
		files[file] = meta(fmt.Sprintf("lib_%d", i), "1") + strings.Repeat("Requires-Dist: nothing\n", 200)
	}
	write(t, dir, files)
	return dir
}

func TestFind(t *testing.T) {
	folder, active := t.TempDir(), t.TempDir()
	t.Setenv("VIRTUAL_ENV", "")
	if dir, found := Find("", folder); found {
		t.Errorf("found %s in nothing", dir)
	}
	write(t, folder, map[string]string{".venv": "of another tool"})
	if dir, found := Find("", folder); found {
		t.Errorf("took the file %s", dir)
	}
	usual := filepath.Join(folder, ".venv")
	if err := errors.Join(os.Remove(usual), os.Symlink(active, usual)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ configured, active, want string }{
		{"", "", filepath.Join(folder, ".venv")},
		{"", active, active},
		{"", active + "/removed", filepath.Join(folder, ".venv")},
		{"/not/there", active, "/not/there"},
		{"env", active, filepath.Join(folder, "env")},
	} {
		t.Setenv("VIRTUAL_ENV", test.active)
		if dir, found := Find(test.configured, folder); !found || dir != test.want {
			t.Errorf("%+v: %s, %v", test, dir, found)
		}
	}
}

func FuzzReadHeader(f *testing.F) {
	for _, seed := range []string{
		meta("numpy", "1.26.4"), "Name: a\nName: b\nVersion: 1", "Name : a\nVersion:1\n", "\nName: a\n",
		"Name:\tA__b.-c\r\nVersion:\t1!2.0+x\r\n",
		"License: " + strings.Repeat("x", headerLine) + "\nName: a\nVersion: 1\n",
		" folded\nname: a\nVERSION: 1\n", strings.Repeat("Name: a", 2000), "\xff\xfe\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		name, version, err := readHeader(strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if name != normalized(name) || strings.ContainsAny(name+version, " \t\r\n\x1b:=") {
			t.Errorf("%q %q", name, version)
		}
		again, sameVersion, _ := readHeader(strings.NewReader(meta(name, version)))
		if again != name || sameVersion != version {
			t.Errorf("%q %q is read again as %q %q", name, version, again, sameVersion)
		}
	})
}

func FuzzSettings(f *testing.F) {
	f.Add("home = /usr/bin\nversion_info = 3.11.2.final.0\ninclude-system-site-packages = true\n")
	f.Add("version=3\n=\n==\n")
	f.Fuzz(func(t *testing.T, content string) {
		found := settings(content)
		short := majorMinor(pythonVersion.FindString(found["version"]))
		if strings.Count(short, ".") > 1 || strings.ContainsAny(short, "/*[\\") {
			t.Errorf("%q", short)
		}
	})
}
