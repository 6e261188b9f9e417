package venv

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// record is conda's of a package.
func record(files ...string) string {
	return `{"depends": [], "files": ["` + strings.Join(files, `", "`) + `"], "paths_data": {}}`
}

const site = "lib/python3.11/site-packages/"

func TestRead(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("PYTHONUSERBASE", "")
	elsewhere := t.TempDir()
	write(t, elsewhere, map[string]string{
		"src/edited.egg-info/PKG-INFO":                               meta("edited", "0.1"),
		"linked/linked_one.egg-info/PKG-INFO":                        meta("linked.one", "0.2"),
		"linked/more.pth":                                            elsewhere + "/never\n",
		"never/never-1.dist-info/METADATA":                           meta("never", "1"),
		"bin/python3.11":                                             "",
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
			"bin/python": "",
			"conda-meta/python-3.11.5-h955ad1f_0.json":        `{"name":"python","files":["bin/python3.11"]}`,
			"conda-meta/dask-core-2023.1.0-pyhd8ed1ab_0.json": record(site + "dask-2023.1.0.dist-info/METADATA"),
			"conda-meta/dask-2023.1.0-pyhd8ed1ab_0.json":      `{"name":"dask","version":"2023.1.0","files":[]}`,
			site + "dask-2024.1.0.dist-info/METADATA":         meta("dask", "2024.1.0"), // pip replaced it
			"conda-meta/blosc-1.21.5-h0f2a231_0.json":         record("lib/libblosc.so", "include/blosc.h"),
			"conda-meta/gone-1.0-py_0.json":                   record(site + "gone-1.0.dist-info/METADATA"),
			"conda-meta/old_style-2.0-py311_1.json":           record(site + "old_style.py"),
			site + "old_style.py":                             "",
			"conda-meta/removed-2.0-py311_1.json":             record(site + "removed.py"),
			"conda-meta/unlisted-0.1-0.json":                  `{"name":"unlisted"}`,
			"conda-meta/half-0.1-0.json":                      `{"name":"ha`,
			"conda-meta/history":                              "==> 2026-11-29 <==\n",
		}, "3.11.5", map[string]string{"dask": "2024.1.0", "old-style": "2.0", "unlisted": "0.1"}},

		{"of conda, by its records alone", map[string]string{
			"conda-meta/python-3.11.5-h955ad1f_0.json": "{}",
			"conda-meta/dask-2023.1.0-py311_0.json":    `{"name":"dask","version":"2023.1.0"}`,
		}, "3.11.5", map[string]string{"dask": "2023.1.0"}},

		{"of a Python that was upgraded", map[string]string{
			"pyvenv.cfg":                       "version = 3.10.4\n",
			"bin/python":                       "->" + elsewhere + "/bin/python3.11",
			site + "dask-2.dist-info/METADATA": meta("dask", "2"),
			"lib/python3.10/site-packages/dask-1.dist-info/METADATA": meta("dask", "1"),
		}, "3.11", map[string]string{"dask": "2"}},

		{"Python itself, as Debian has it", map[string]string{
			"bin/python3":    "->python3.11",
			"bin/python3.11": "",
			"lib/python3/dist-packages/apt_pkg-2.6.egg-info":                  meta("apt_pkg", "2.6"),
			"local/lib/python3.11/dist-packages/dask-2024.dist-info/METADATA": meta("dask", "2024"),
		}, "3.11", map[string]string{"apt-pkg": "2.6", "dask": "2024"}},

		{"empty", map[string]string{"pyvenv.cfg": "version = 3.11.2\n", site: ""}, "3.11.2", map[string]string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a b [1]")
			write(t, dir, test.files)
			for _, dir := range []string{dir, link(t, dir)} {
				e, err := Read(dir)
				if err != nil || e.Python != test.python || e.Path != dir || !maps.Equal(e.Versions, test.want) {
					t.Errorf("%s: %+v, %v", dir, e, err)
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
		"file": "", "folder/bin/": "", "conda/conda-meta/history": "", "conda/bin/": "",
		"moved on/pyvenv.cfg": "version = 3.10.1\n", "moved on/lib/python3.10/site-packages/": "",
		"moved on/bin/python3": "->../../python3.11", "python3.11": "",
		"empty one/pyvenv.cfg": "version = 3.11.2\n", "piped/pyvenv.cfg/": "",
	})
	for name, want := range map[string][2]string{
		"no where": {"there is no Python environment at " + dir + "/no where",
			"make it: python3 -m venv '" + dir + "/no where'"},
		"file": {"is a file, not the folder of a Python environment", "name the folder that python3 -m venv made"},
		"folder": {"is no Python environment: it has neither a pyvenv.cfg, nor a conda-meta, nor a Python",
			"make one there: python3 -m venv " + dir + "/folder"},
		"empty one": {"is incomplete: there is no lib/python3.11/site-packages in it",
			"python3 -m venv --clear '" + dir + "/empty one'"},
		"conda":    {"has no Python", "conda install --prefix " + dir + "/conda python"},
		"moved on": {"is incomplete: there is no lib/python3.11/site-packages in it", "python3 -m venv --clear"},
		"piped":    {"pyvenv.cfg: is a directory", ""},
	} {
		_, err := Read(filepath.Join(dir, name))
		if err == nil || !strings.Contains(err.Error(), want[0]) || !strings.Contains(event.Hint(err), want[1]) {
			t.Errorf("%s: %v → %s", name, err, event.Hint(err))
		}
	}
}

// Libraries of the user come before those of conda, as Python has it.
func TestReadOfUser(t *testing.T) {
	user, dir := t.TempDir(), t.TempDir()
	t.Setenv("PYTHONUSERBASE", user)
	write(t, user, map[string]string{site + "dask-1.dist-info/METADATA": meta("dask", "1")})
	write(t, dir, map[string]string{"conda-meta/python-3.11.5-0.json": "{}",
		site + "dask-2.dist-info/METADATA": meta("dask", "2")})
	for _, without := range []string{"", "1"} {
		t.Setenv("PYTHONNOUSERSITE", without)
		want := map[string]string{"": "1", "1": "2"}[without]
		if e, err := Read(dir); err != nil || e.Kind != KindConda || e.Versions["dask"] != want {
			t.Errorf("%q: %+v, %v", without, e, err)
		}
	}
}

// What the user edits, or has from an address, is known as such.
func TestReadFromAddress(t *testing.T) {
	dir, source := t.TempDir(), t.TempDir()
	write(t, source, map[string]string{"edited.egg-info/PKG-INFO": meta("edited", "0.1")})
	write(t, dir, map[string]string{"pyvenv.cfg": "version = 3.11.2\n", site + "edited.egg-link": source + "\n.",
		site + "dask-1.dist-info/METADATA": meta("dask", "1"), site + "ours-1.dist-info/METADATA": meta("ours", "1"),
		site + "ours-1.dist-info/direct_url.json": `{"url": "file:///src", "dir_info": {"editable": true}}`})
	e, err := Read(dir)
	if err != nil || !maps.Equal(e.FromAddress, map[string]bool{"edited": true, "ours": true}) {
		t.Errorf("%+v, %v", e, err)
	}
}

// Of two versions in one folder, the one counts that was installed last.
func TestReadTwice(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"pyvenv.cfg": "uv = 0.4\nversion_info = 3.11.2\n",
		site + "dask-1.dist-info/METADATA": meta("dask", "1"), site + "dask-2.dist-info/METADATA": meta("dask", "2")})
	at := time.Now()
	for _, newest := range []string{"1", "2"} {
		at = at.Add(time.Hour)
		if err := os.Chtimes(filepath.Join(dir, site, "dask-"+newest+".dist-info"), at, at); err != nil {
			t.Fatal(err)
		}
		if e, err := Read(dir); err != nil || e.Kind != KindUv || e.Versions["dask"] != newest {
			t.Errorf("%s: %+v, %v", newest, e, err)
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
	e, err := Read(dir)
	if err != nil || e.Python != lines[0] || !maps.Equal(e.Versions, want) || e.Versions["pip"] == "" {
		t.Errorf("%+v, %v\nnot %q", e, err, lines)
	}
}

func TestReadMany(t *testing.T) {
	if e, err := Read(many(t)); err != nil || len(e.Versions) != manyLibraries {
		t.Fatal(e, err)
	}
}

func BenchmarkRead(b *testing.B) {
	dir := many(b)
	for b.Loop() {
		if _, err := Read(dir); err != nil {
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
