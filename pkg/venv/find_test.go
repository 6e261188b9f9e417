package venv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nowhere makes this test's machine one without environments.
func nowhere(t *testing.T) (home, project string) {
	t.Helper()
	home = t.TempDir()
	for _, variable := range []string{"VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "UV_PROJECT_ENVIRONMENT",
		"POETRY_VIRTUALENVS_PATH", "POETRY_CACHE_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "WORKON_HOME",
		"HATCH_DATA_DIR", "PYENV_VERSION", "PYENV_ROOT", "PYTHONUSERBASE"} {
		t.Setenv(variable, "")
	}
	t.Setenv("HOME", home)
	project = filepath.Join(home, "a project")
	write(t, project, map[string]string{"pyproject.toml": ""})
	return home, project
}

func TestFind(t *testing.T) {
	home, project := nowhere(t)
	hash := folderHash(project)
	for _, test := range []struct {
		name         string
		files        map[string]string // below the home
		env          map[string]string
		configured   string
		want, source string // what is found below the home, or why nothing is
	}{
		{name: "nothing", want: "none is active (VIRTUAL_ENV, CONDA_PREFIX), and the project has none"},
		{"configured", nil, map[string]string{"VIRTUAL_ENV": "active"}, "env", "a project/env", "local.venv"},
		{"configured, elsewhere", nil, nil, home + "/env/", "env", "local.venv"},
		{"an active one", map[string]string{"a project/.venv/": ""}, map[string]string{"VIRTUAL_ENV": "active"}, "", "active",
			"VIRTUAL_ENV"},
		{"of conda", map[string]string{"a project/.venv/": ""}, map[string]string{"CONDA_PREFIX": "active"}, "", "active",
			"CONDA_PREFIX"},
		{"two, the later one comes first in PATH", map[string]string{"other/": ""}, map[string]string{
			"VIRTUAL_ENV": "other", "CONDA_PREFIX": "active", "PATH": "active/bin:other/bin"}, "", "active", "CONDA_PREFIX"},
		{"two, the other way round", map[string]string{"other/": ""}, map[string]string{
			"VIRTUAL_ENV": "other", "CONDA_PREFIX": "active", "PATH": "other/bin:active/bin"}, "", "other", "VIRTUAL_ENV"},
		{"an active one that was removed", map[string]string{"a project/.venv/": ""},
			map[string]string{"VIRTUAL_ENV": "removed"}, "", "a project/.venv", "the project's folder"},
		{"only one that was removed", nil, map[string]string{"VIRTUAL_ENV": "removed"}, "",
			"VIRTUAL_ENV names " + home + "/removed, which is not there", ""},
		{"conda's base comes last", map[string]string{"a project/.venv/": ""},
			map[string]string{"CONDA_PREFIX": "active", "CONDA_DEFAULT_ENV": "base"}, "", "a project/.venv",
			"the project's folder"},
		{"only conda's base", nil, map[string]string{"CONDA_PREFIX": "active", "CONDA_DEFAULT_ENV": "base"}, "", "active",
			"CONDA_PREFIX, conda's base"},
		{"of uv", map[string]string{"a project/.uv/": ""}, map[string]string{"UV_PROJECT_ENVIRONMENT": "a project/.uv"}, "",
			"a project/.uv", "UV_PROJECT_ENVIRONMENT"},
		{"a link", map[string]string{"a project/.venv": "->../active"}, nil, "", "a project/.venv", "the project's folder"},
		{"a file of another tool", map[string]string{"a project/.venv": "of another tool"}, nil, "", "none is active", ""},
		{"a file that names one", map[string]string{"a project/.venv": "mine\n", ".virtualenvs/mine/": ""}, nil, "",
			".virtualenvs/mine", "the file .venv"},
		{"a file with a path", map[string]string{"a project/.venv": "../active\n"}, nil, "", "active", "the file .venv"},
		{"another usual name", map[string]string{"a project/venv/pyvenv.cfg": "", "a project/env/lib/": ""}, nil, "",
			"a project/venv", "the project's folder"},
		{"a folder of that name that is none", map[string]string{"a project/env/lib/": ""}, nil, "", "none is active", ""},
		{"of pixi", map[string]string{"a project/.pixi/envs/default/conda-meta/": ""}, nil, "",
			"a project/.pixi/envs/default", "the project's folder"},
		{"of Poetry", map[string]string{".cache/pypoetry/virtualenvs/a-project-" + hash + "-py3.11/": "",
			".cache/pypoetry/virtualenvs/other-00000000-py3.11/": ""}, nil, "",
			".cache/pypoetry/virtualenvs/a-project-" + hash + "-py3.11", "Poetry"},
		{"of Poetry, the one in use", map[string]string{".cache/pypoetry/virtualenvs/p-" + hash + "-py3.11/": "",
			".cache/pypoetry/virtualenvs/p-" + hash + "-py3.12/": "", ".cache/pypoetry/virtualenvs/p-" + hash + "-py3.10/": "",
			".cache/pypoetry/virtualenvs/envs.toml": "[p-" + hash + "]\nminor = \"3.12\"\npatch = \"3.12.1\"\n"}, nil, "",
			".cache/pypoetry/virtualenvs/p-" + hash + "-py3.12", "Poetry"},
		{"of Pipenv", map[string]string{".local/share/virtualenvs/p-x/.project": project,
			".local/share/virtualenvs/q-y/.project": home}, nil, "", ".local/share/virtualenvs/p-x", "its .project"},
		{"of virtualenvwrapper", map[string]string{"work/p/.project": project + "\n"},
			map[string]string{"WORKON_HOME": "work"}, "", "work/p", "its .project"},
		{"of Hatch", map[string]string{".local/share/hatch/env/virtual/p/" + hash + "/p/": "",
			".local/share/hatch/env/virtual/p/" + hash + "/lint/": ""}, nil, "",
			".local/share/hatch/env/virtual/p/" + hash + "/p", "Hatch"},
		{"of pyenv", map[string]string{".python-version": "# ours\n3.11\n", ".pyenv/versions/3.11.2/": "",
			".pyenv/versions/3.11.10/": "", ".pyenv/version": "3.9.1\n"}, nil, "", ".pyenv/versions/3.11.10",
			".python-version"},
		{"an environment of pyenv", map[string]string{"a project/.python-version": "mine\n", ".pyenv/versions/mine/": ""},
			nil, "", ".pyenv/versions/mine", ".python-version"},
		{"of pyenv's variable", map[string]string{"a project/.python-version": "mine\n", "pyenv/versions/3.11.2/": ""},
			map[string]string{"PYENV_VERSION": "3.11.2:3.9.1", "PYENV_ROOT": "pyenv"}, "", "pyenv/versions/3.11.2",
			"PYENV_VERSION"},
		{"not of pyenv", map[string]string{"a project/.python-version": "../..\n", ".pyenv/versions/": ""}, nil, "",
			"none is active", ""},
		{"the global one of pyenv", map[string]string{".pyenv/version": "3.11.2\n", ".pyenv/versions/3.11.2/": ""}, nil, "",
			"none is active", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, home, map[string]string{"active/bin/": ""})
			write(t, home, test.files)
			for name, value := range test.env {
				if name != "CONDA_DEFAULT_ENV" && name != "PYENV_VERSION" {
					var paths []string
					for _, path := range strings.Split(value, ":") {
						paths = append(paths, filepath.Join(home, path))
					}
					value = strings.Join(paths, ":")
				}
				t.Setenv(name, value)
			}
			got, err := Find(test.configured, project)
			switch {
			case err != nil && (!strings.HasPrefix(err.Error(), test.want) || test.source != ""):
				t.Error(err)
			case err == nil && (got != Location{filepath.Join(home, test.want), test.source}):
				t.Errorf("%+v", got)
			}
			entries, _ := os.ReadDir(home)
			for _, e := range entries {
				if err := os.RemoveAll(filepath.Join(home, e.Name())); err != nil {
					t.Fatal(err)
				}
			}
			write(t, project, map[string]string{"pyproject.toml": ""})
		})
	}
}

// Poetry keeps an environment for each Python; without a choice, the newest counts.
func TestFindNewest(t *testing.T) {
	home, project := nowhere(t)
	parent := filepath.Join(home, ".cache", "pypoetry", "virtualenvs")
	name := filepath.Join(parent, "p-"+folderHash(project)+"-py3.")
	write(t, parent, map[string]string{"envs.toml": "broken"})
	for i, minor := range []string{"12", "9", "11"} {
		write(t, name+minor, map[string]string{"bin/": ""})
		at := time.Now().Add(time.Duration(i-5) * time.Hour)
		if err := os.Chtimes(name+minor, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Find("", project); err != nil || got.Path != name+"11" {
		t.Errorf("%+v, %v", got, err)
	}
}
