package venv

import (
	"path/filepath"
	"testing"
)

func TestPackage(t *testing.T) {
	t.Setenv("PYTHONNOUSERSITE", "1")
	project, base := t.TempDir(), t.TempDir()
	dir := filepath.Join(t.TempDir(), "an [env]")
	write(t, project, map[string]string{"analysis/__init__.py": "", "linked/__init__.py": ""})
	write(t, base, map[string]string{"bin/": "", site + "system/__init__.py": "", site + "analysis/__init__.py": ""})
	write(t, dir, map[string]string{
		"pyvenv.cfg":                        "version = 3.11\ninclude-system-site-packages = true\nhome = " + base + "/bin\n",
		site + "analysis/__init__.py":       "",
		site + "A_lib-1.dist-info/METADATA": meta("A.lib", "1"),
		site + "A_lib-1.dist-info/RECORD":   "analysis/more.py,sha256=x,1\nanalysis/__init__.py,,\n",
		site + "other-2.dist-info/METADATA": meta("other", "2"),
		site + "other-2.dist-info/RECORD":   "other/analysis/__init__.py,,\n",
		site + "linked":                     "->" + project + "/linked",
		site + "spaces/part.py":             "",
		site + "edited.pth":                 project + "\n",
	})
	e, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]string{
		"analysis": {filepath.Join(dir, site, "analysis"), "a-lib 1"},
		"system":   {filepath.Join(base, site, "system")},
		"linked":   {}, // it is the user's own
		"spaces":   {}, // a package without __init__.py gives way to others
		"unknown":  {},
	} {
		path, library := e.Package(name, filepath.Join(project, name))
		if [2]string{path, library} != want {
			t.Errorf("%s: %q of %q", name, path, library)
		}
	}
}
