package venv

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

const (
	// configLength is how much of pyvenv.cfg, and of a file that names folders, is read, in bytes.
	configLength = 64 << 10
	// maxFolders is how many folders a file may name. More are a mistake.
	maxFolders = 1000
)

// Read returns the Python version of the environment at dir, "" if it is unknown, and the versions
// of its libraries by their normalized names. Of a library that is installed twice, the one counts
// that Python would import.
func Read(dir string) (python string, versions map[string]string, err error) {
	e, err := open(dir)
	if err != nil {
		return "", nil, err
	}
	own := e.sitePackages(dir)
	for _, folder := range own {
		if err := e.add(folder); err != nil {
			return "", nil, fmt.Errorf("read the Python environment: %w", err)
		}
	}
	if len(own) == 0 {
		return "", nil, event.WithHint(
			fmt.Errorf("%s is incomplete: there is no lib/python3.*/site-packages in it", dir),
			"recreate it: python3 -m venv --clear "+quoted(dir))
	}
	for _, folder := range e.outside() {
		_ = e.add(folder) // Python, too, ignores what cannot be read there
	}
	return e.python, e.versions, nil
}

// environment is a Python environment that is being read.
type environment struct {
	python   string            // its version: 3.11.2
	config   map[string]string // pyvenv.cfg, nil for conda
	versions map[string]string // of libraries that were found, by name
	seen     []os.FileInfo     // folders that were read: one folder may have several names
}

// open reads what kind of environment is at dir.
func open(dir string) (*environment, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, event.WithHint(fmt.Errorf("there is no Python environment at %s", dir),
			"make it: python3 -m venv "+quoted(dir))
	case err != nil:
		return nil, fmt.Errorf("read the Python environment: %w", err)
	case !info.IsDir():
		return nil, event.WithHint(fmt.Errorf("%s is a file, not the folder of a Python environment", dir),
			"name the folder that python3 -m venv made")
	}
	e := &environment{versions: map[string]string{}}
	content, err := readStart(filepath.Join(dir, "pyvenv.cfg"))
	switch {
	case err == nil:
		e.config = settings(content)
		e.python = pythonVersion.FindString(cmp.Or(e.config["version_info"], e.config["version"]))
		return e, nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("read the Python environment: %w", err)
	}
	packages, err := os.ReadDir(filepath.Join(dir, "conda-meta"))
	if err != nil {
		return nil, event.WithHint(
			fmt.Errorf("%s is no Python environment: it has neither a pyvenv.cfg nor a conda-meta", dir),
			"name the folder that python3 -m venv made, or make one there: python3 -m venv "+quoted(dir))
	}
	for _, p := range packages {
		if match := condaPython.FindStringSubmatch(p.Name()); match != nil {
			e.python = match[1]
		}
	}
	return e, nil
}

var (
	// condaPython is conda's file for an environment's Python: python-3.11.5-h955ad1f_0.json.
	condaPython = regexp.MustCompile(`^python-(3\.\d+\.\d+)-.*\.json$`)
	// pythonVersion is 3.11.2 of 3.11.2.final.0.
	pythonVersion = regexp.MustCompile(`^\d+\.\d+(\.\d+)?`)
)

// settings parses pyvenv.cfg.
func settings(content string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(content) {
		if key, value, ok := strings.Cut(line, "="); ok {
			found[strings.ToLower(strings.TrimSpace(key))] = strings.TrimSpace(value)
		}
	}
	return found
}

// majorMinor is 3.11 of 3.11.2.
func majorMinor(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// outside are the library folders that do not belong to the environment but that it includes, in
// the order in which Python searches them.
func (e *environment) outside() []string {
	if !strings.EqualFold(e.config["include-system-site-packages"], "true") {
		return nil
	}
	list := e.ofUser()
	home := e.config["home"] // the bin folder of the interpreter that made it
	if home == "" {
		return list
	}
	list = append(list, e.ofSystem(filepath.Dir(home))...)
	if real, err := filepath.EvalSymlinks(home); err == nil && real != home {
		list = append(list, e.ofSystem(filepath.Dir(real))...)
	}
	return list
}

// sitePackages are the library folders below prefix: those of the environment's Python version, or
// else all, since the tool that made the environment may name them differently.
func (e *environment) sitePackages(prefix string) []string {
	if list := libraryFolders(prefix, "site-packages", e.interpreters()...); len(list) > 0 {
		return list
	}
	return libraryFolders(prefix, "site-packages", anyPython...)
}

// anyPython are patterns for the names of all interpreters.
var anyPython = []string{"python3*", "pypy3*"}

// interpreters are patterns for the names of the environment's Python version: python3.13 and
// python3.13t, but not python3.131.
func (e *environment) interpreters() []string {
	if e.python == "" {
		return anyPython
	}
	name := "python" + majorMinor(e.python)
	return []string{name, name + "[^0-9]*"}
}

// libraryFolders returns the folders lib/INTERPRETER/KIND and lib64/INTERPRETER/KIND below prefix.
func libraryFolders(prefix, kind string, interpreters ...string) []string {
	var list []string
	for _, interpreter := range interpreters {
		for _, lib := range []string{"lib", "lib64"} {
			found, _ := fs.Glob(os.DirFS(prefix), lib+"/"+interpreter+"/"+kind) // the pattern is valid
			for _, folder := range found {
				folder = filepath.Join(prefix, folder)
				if info, err := os.Stat(folder); err == nil && info.IsDir() {
					list = append(list, folder)
				}
			}
		}
	}
	return list
}

// ofSystem are the library folders of an installed interpreter. Debian has some of its own.
func (e *environment) ofSystem(prefix string) []string {
	return slices.Concat(e.sitePackages(prefix),
		libraryFolders(filepath.Join(prefix, "local"), "dist-packages", e.interpreters()...),
		libraryFolders(prefix, "dist-packages", "python3"),
		libraryFolders(prefix, "dist-packages", e.interpreters()...))
}

// ofUser are the library folders of pip install --user.
func (e *environment) ofUser() []string {
	base := os.Getenv("PYTHONUSERBASE")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil
		}
		base = filepath.Join(home, ".local")
	}
	return libraryFolders(base, "site-packages", e.interpreters()...)
}

// add adds the libraries in a folder, and in those that its files name. Libraries that are known
// already stay.
func (e *environment) add(folder string) error {
	entries, err := e.addFolder(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		for _, other := range namedFolders(filepath.Join(folder, entry.Name()), folder) {
			_, _ = e.addFolder(other) // it may be gone
		}
	}
	return nil
}

// addFolder adds the libraries in a folder and returns its entries, or none if it was read before.
func (e *environment) addFolder(folder string) ([]os.DirEntry, error) {
	info, err := os.Stat(folder)
	if err != nil || slices.ContainsFunc(e.seen, func(other os.FileInfo) bool { return os.SameFile(info, other) }) {
		return nil, err
	}
	e.seen = append(e.seen, info)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		name, version, err := readLibrary(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, err
		}
		if _, known := e.versions[name]; name != "" && version != "" && !known {
			e.versions[name] = version
		}
	}
	return entries, nil
}

// namedFolders are the folders that a .pth file lists, or the first line of an .egg-link: editable
// installs are there.
func namedFolders(path, folder string) []string {
	kind := filepath.Ext(path)
	if kind != ".pth" && kind != ".egg-link" {
		return nil
	}
	content, err := readStart(path)
	if err != nil {
		return nil
	}
	var list []string
	for line := range strings.Lines(content) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || strings.HasPrefix(line, "import ") || strings.HasPrefix(line, "import\t") {
			continue
		}
		if !filepath.IsAbs(line) {
			line = filepath.Join(folder, line)
		}
		if list = append(list, line); kind == ".egg-link" || len(list) == maxFolders {
			break
		}
	}
	return list
}

// readStart reads the first configLength bytes of a file.
func readStart(path string) (string, error) {
	file, err := files.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // only read
	content, err := io.ReadAll(io.LimitReader(file, configLength))
	return string(content), err
}
