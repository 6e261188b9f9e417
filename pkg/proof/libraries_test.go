package proof

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	place := func(name, python string, libraries ...string) Libraries {
		l := Libraries{Place: name, Python: python, Versions: map[string]string{}, Local: strings.HasPrefix(name, ".")}
		for _, library := range libraries {
			name, version, _ := strings.Cut(library, "=")
			l.Versions[name] = version
		}
		return l
	}
	for _, test := range []struct {
		name   string
		places []Libraries
		count  int
		want   string
	}{
		{"nothing", nil, 0, ""},
		{"the same", []Libraries{place("worker", "3.11.2", "dask=1", "numpy=2"),
			place("client", "3.11.9", "dask=1", "numpy=2"), place(".venv", "3.11.2", "dask=1", "numpy=2")}, 2, ""},
		{"what only this machine has, and what installs",
			[]Libraries{place("worker", "3.11.2", "dask=1", "pip=23", "uv=1"), place(".venv", "", "dask=1", "pytest=8", "pip=24",
				"setuptools=1")}, 1, ""},
		{"another version, the critical ones first",
			[]Libraries{place("worker", "3.11.2", "aiohttp=1", "dask=1", "tornado=6", "numpy=1", "zict=3", "distributed=1"),
				place(".venv", "3.12.1", "aiohttp=2", "dask=2", "tornado=5", "numpy=2", "zict=2", "distributed=2")}, 6,
			"python 3.11/3.12; dask 1/2; distributed 1/2; tornado 6/5; numpy 1/2; aiohttp 1/2; zict 3/2"},
		{"missing in one image", []Libraries{place("worker", "3.11.2", "dask=1"),
			place("client", "3.11.2", "dask=1", "bokeh=3"), place(".venv", "3.11.2", "dask=1", "bokeh=3")}, 2,
			"bokeh missing/3/3"},
		{"missing on this machine", []Libraries{place("worker", "3.11.2", "dask=1"), place(".venv", "3.11.2")}, 1,
			"dask 1/missing"},
		{"a middle one", []Libraries{place("a", "3.11.2", "dask=1"), place("b", "3.11.2", "dask=2"),
			place("c", "3.11.2", "dask=1")}, 1, "dask 1/2/1"},
		{"only images", []Libraries{place("worker", "3.11.2", "dask=1"), place("client", "3.10.1", "dask=1")}, 1,
			"python 3.11/3.10"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Compare(test.places)
			if c.Differences.String() != test.want || c.Libraries != test.count || c.Same() != (test.want == "") {
				t.Errorf("%d: %s", c.Libraries, c.Differences)
			}
			for _, d := range c.Differences {
				if len(d.Versions) != len(test.places) {
					t.Errorf("%+v", d)
				}
			}
		})
	}
}

func TestWant(t *testing.T) {
	images := []Libraries{
		{Place: "worker", Python: "3.11.2", Versions: map[string]string{"dask": "1", "numpy": "2", "pip": "23", "ours": "0.1",
			"conda": "4", "distro-info": "1.1build1", "python-debian": "0.1.43ubuntu1"},
			Origins: map[string]Origin{"ours": FromAddress, "conda": FromOther, "distro-info": FromOther}},
		{Place: "client", Python: "3.12.0", Versions: map[string]string{"dask": "1", "numpy": "3", "bokeh": "3"}},
		{Place: "notebook", Python: "3.12.0", Versions: map[string]string{"numpy": "4"}},
	}
	w := Want(images)
	slices.Sort(w.ByName)
	got := w.Constraints(slices.Collect(maps.Keys(w.Versions)))
	if !slices.Equal(got, []string{"bokeh==3", "conda==4", "dask==1", "numpy==2"}) ||
		!slices.Equal(w.ByName, []string{"bokeh", "dask", "numpy"}) || !slices.Equal(w.Disputed, []string{"numpy"}) ||
		w.Python != "3.11.2" {
		t.Errorf("%+v, %q", w, got)
	}
	for _, version := range []string{"2.1.0+cu118", "1!2.0", "1.0rc1", "1.0.post1", "2024.1.0.dev3", "1.0-1", "2023c"} {
		w := Want([]Libraries{{Versions: map[string]string{"a": version}}})
		if len(w.Versions) != 1 {
			t.Errorf("%s is left out", version)
		}
	}
	if got := w.Constraints([]string{"numpy", "bokeh"}); !slices.Equal(got, []string{"bokeh==3", "numpy==2"}) {
		t.Errorf("%q", got)
	}
	if empty := (Libraries{Versions: map[string]string{"pip": "23", "setuptools": "60"}}); !empty.IsEmpty() ||
		images[0].IsEmpty() {
		t.Error("what installs libraries counts as one")
	}
}

// newEnvironment makes an environment, and returns its folder and that of its libraries.
func newEnvironment(t *testing.T) (dir, site string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "env")
	if out, err := exec.Command("/usr/bin/python3", "-m", "venv", "--without-pip", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sites, err := filepath.Glob(filepath.Join(dir, "lib", "python3.*", "site-packages"))
	if err != nil || len(sites) != 1 {
		t.Fatal(sites, err)
	}
	return dir, sites[0]
}

// The real command in a real environment, with what may be in it.
func TestListing(t *testing.T) {
	dir, site := newEnvironment(t)
	elsewhere, here := t.TempDir(), t.TempDir()
	for path, content := range map[string]string{
		site + "/numpy-1.26.4.dist-info/METADATA":          "Name: numpy\nVersion: 1.26.4\n",
		site + "/numpy-1.26.4.dist-info/INSTALLER":         "pip\n",
		site + "/Dask_Gateway-1.dist-info/INSTALLER":       "pip\n",
		site + "/Dask_Gateway-1.dist-info/direct_url.json": `{"url": "file:///src"}`,
		site + "/~umpy-1.26.3.dist-info/METADATA":          "Name: numpy\nVersion: 1.26.3\n",
		site + "/Dask_Gateway-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: Dask.Gateway\nVersion: 2024.1.0\n\n" +
			"text\n",
		site + "/nameless-1.dist-info/METADATA":      "Version: 1\n",
		site + "/bare-1.dist-info/METADATA":          "Name: bare\n",
		site + "/gone-1.dist-info/RECORD":            "",
		site + "/odd-1.dist-info/METADATA":           "Name: odd one\nVersion: 1\n",
		site + "/bytes-1.dist-info/METADATA":         "Name: b\xff\nVersion: 1\n",
		site + "/sitecustomize.py":                   "print('welcome==1')\nimport warnings; warnings.warn('careful')\n",
		site + "/edited.pth":                         elsewhere + "\n",
		elsewhere + "/edited.egg-info/PKG-INFO":      "Name: edited\nVersion: 0.1\n",
		elsewhere + "/numpy-9.dist-info/METADATA":    "Name: numpy\nVersion: 9\n",
		here + "/of_the_folder-1.dist-info/METADATA": "Name: of-the-folder\nVersion: 1\n",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range ListCommands {
		cmd := exec.Command(filepath.Join(dir, "bin", command[0]), command[1:]...)
		cmd.Dir = here
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.CombinedOutput() // a pod's log has both, too
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		l, err := ParseListing("worker", string(out), nil)
		if want := map[string]string{"numpy": "1.26.4", "dask-gateway": "2024.1.0", "edited": "0.1"}; err != nil ||
			!maps.Equal(l.Versions, want) || !strings.HasPrefix(l.Python, "3.") || l.Place != "worker" || l.HoldsDask() {
			t.Errorf("%v, %+v: %s", err, l, out)
		}
		if want := map[string]Origin{"dask-gateway": FromAddress, "edited": FromOther}; !maps.Equal(l.Origins, want) {
			t.Errorf("%+v", l.Origins)
		}
	}
}

func TestParseListing(t *testing.T) {
	complete := "python 3.11.2\ndask==2024.1.0\nnumpy==1.26.4\nlibraries 2\n"
	for output, want := range map[string]int{
		complete:                               2,
		"a warning\nx==1\n" + complete + "bye": 2,
		strings.Replace(complete, "numpy", "careful: y==2\nnumpy", 1): 2,
		strings.ReplaceAll(complete, "\n", "\r\n"):                    2,
		"python 3.11.2\nlibraries 0\n":                                0,
		"":                                                            -1,
		"python 3.11.2\ndask==2024.1.0\n":                             -1,
		"python 3.11.2\ndask==2024.1.0\nlibraries 2\n":                -1,
		"dask==2024.1.0\nlibraries 1\n":                               -1,
		"python 3.11.2\nlibraries 99999999999999999999999999999\n":    -1,
	} {
		l, err := ParseListing("worker", output, nil)
		if (err == nil) != (want >= 0) || err == nil && len(l.Versions) != want {
			t.Errorf("%q: %+v, %v", output, l, err)
		}
	}
}

func FuzzParseListing(f *testing.F) {
	f.Add("python 3.11.2\ndask==2024.1.0\nlibraries 1\n")
	f.Add("warning\npython 3.13.0\na-b==1!2.0+x\npython 3.1.1\nlibraries 0\n")
	f.Add("python 3.11.2\nlibraries -1\n\x1b[0m\xff==\n")
	f.Fuzz(func(t *testing.T, output string) {
		l, err := ParseListing("worker", output, nil)
		if err != nil {
			return
		}
		text := "python " + l.Python + "\n"
		for _, name := range slices.Sorted(maps.Keys(l.Versions)) {
			text += name + "==" + l.Versions[name] + "\n"
		}
		again, err := ParseListing("worker", fmt.Sprintf("%slibraries %d\n", text, len(l.Versions)), nil)
		if err != nil || again.Python != l.Python || !maps.Equal(again.Versions, l.Versions) {
			t.Errorf("%q: %+v, %+v, %v", output, l, again, err)
		}
		Compare([]Libraries{l, again})
		Compare([]Libraries{l, {Place: ".venv", Local: true}})
	})
}

// The real command, for packages that are synced to a folder that Python searches, or does not.
func TestListingOfPackages(t *testing.T) {
	dir, site := newEnvironment(t)
	platform, last := filepath.Join(t.TempDir(), "first of all"), t.TempDir()
	for folder, names := range map[string]string{platform: "mine both json", last: "both loose",
		site: "both loose absent spaces/mine"} {
		for _, name := range strings.Fields(names) {
			write(t, filepath.Join(folder, name, "__init__.py"), "raise SystemExit('it was imported')\n")
		}
	}
	write(t, site+"/Both_lib-0.3.dist-info/METADATA", "Name: Both.lib\nVersion: 0.3\n")
	write(t, site+"/Both_lib-0.3.dist-info/RECORD", "both/__init__.py,,\nBoth_lib-0.3.dist-info/METADATA,,\n")
	write(t, site+"/other-1.dist-info/METADATA", "Name: other\nVersion: 1\n")
	for name, test := range map[string]struct {
		searched, synced string
		packages         []string
		want             []Shadow
	}{
		"searched first": {platform, platform, []string{"mine", "both", "json", "unknown"}, nil},
		"searched after": {platform, last, []string{"both"},
			[]Shadow{{"both", "worker", platform + "/both", "", last + "/both"}}},
		"not searched": {"", last, []string{"both", "loose", "absent"}, []Shadow{
			{"both", "worker", site + "/both", "Both.lib 0.3", last + "/both"},
			{"loose", "worker", site + "/loose", "", last + "/loose"}}},
		"is the installed one": {"", site, []string{"both"}, nil},
	} {
		var packages []Package
		for _, p := range test.packages {
			packages = append(packages, Package{Name: p, Folder: filepath.Join(test.synced, p)})
		}
		command := WithPackages(ListCommands[0], packages)
		cmd := exec.Command(filepath.Join(dir, "bin", command[0]), command[1:]...)
		cmd.Env = append(os.Environ(), "PYTHONPATH="+test.searched)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		l, err := ParseListing("worker", string(out), packages)
		if err != nil || !slices.Equal(l.Shadowed, test.want) || l.Versions["other"] != "1" {
			t.Errorf("%s: %v, %+v, not %+v", name, err, l.Shadowed, test.want)
		}
	}
	want := "package both: unless Python in worker starts in /opt, it imports the installed /x/both (both-lib 0.3), " +
		"which is not synced"
	if got := (Shadow{"both", "worker", "/x/both", "both-lib 0.3", "/opt/both"}).String(); got != want {
		t.Error(got)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
