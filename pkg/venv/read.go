package venv

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// configLength is how much of pyvenv.cfg, and of a file that names folders, is read, in bytes.
const configLength = 64 << 10

// Read returns the version of Python in the environment at dir, "" if that cannot be told, and the versions of the libraries in it by their
// normalized names. Where a library is there twice, the one counts that Python would import.
func Read(dir string) (python string, versions map[string]string, err error) {
	e, err := open(dir)
	if err != nil {
		return "", nil, err
	}
	versions = map[string]string{}
	own := e.sitePackages(dir)
	for _, folder := range own {
		if err := e.add(versions, folder); err != nil {
			return "", nil, fmt.Errorf("read the Python environment: %w", err)
		}
	}
	if len(own) == 0 {
		return "", nil, event.WithHint(fmt.Errorf("%s is not whole: there is no lib/python3.*/site-packages in it", dir), "make it anew: python3 -m venv --clear "+quoted(dir))
	}
	for _, folder := range e.outside() {
		_ = e.add(versions, folder) // what cannot be read there, Python leaves out, too
	}
	return e.python, versions, nil
}

// environment is one that is being read.
type environment struct {
	dir    string
	python string            // its version: 3.11.2
	config map[string]string // pyvenv.cfg, nil in one of conda

	seen []os.FileInfo // folders that were looked through: the same one may have several names
}

// open finds out what is at dir.
func open(dir string) (*environment, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, event.WithHint(fmt.Errorf("there is no Python environment at %s", dir), "make it: python3 -m venv "+quoted(dir))
	case err != nil:
		return nil, fmt.Errorf("read the Python environment: %w", err)
	case !info.IsDir():
		return nil, event.WithHint(fmt.Errorf("%s is no folder of a Python environment, but a file", dir), "name the folder that python3 -m venv made")
	}
	e := &environment{dir: dir}
	content, err := readStart(filepath.Join(dir, "pyvenv.cfg"))
	switch {
	case err == nil:
		e.config = settings(content)
		e.python = threeParts(cmp.Or(e.config["version_info"], e.config["version"]))
		return e, nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("read the Python environment: %w", err)
	}
	packages, err := os.ReadDir(filepath.Join(dir, "conda-meta"))
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("%s is no Python environment: it has neither a pyvenv.cfg nor a conda-meta", dir),
			"name the folder that python3 -m venv made, or make one there: python3 -m venv "+quoted(dir))
	}
	for _, p := range packages {
		if match := condaPython.FindStringSubmatch(p.Name()); match != nil {
			e.python = match[1]
		}
	}
	return e, nil
}

// condaPython is the file that conda keeps of the Python in an environment: python-3.11.5-h955ad1f_0.json.
var condaPython = regexp.MustCompile(`^python-(3\.\d+\.\d+)-.*\.json$`)

// settings are the lines of pyvenv.cfg.
func settings(content string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(content) {
		if key, value, ok := strings.Cut(line, "="); ok {
			found[strings.ToLower(strings.TrimSpace(key))] = strings.TrimSpace(value)
		}
	}
	return found
}

// threeParts is a version of Python: 3.11.2 of 3.11.2.final.0.
func threeParts(version string) string { return versionParts.FindString(version) }

var versionParts = regexp.MustCompile(`^\d+\.\d+(\.\d+)?`)

// majorMinor is the beginning of a version of Python: 3.11 of 3.11.2.
func majorMinor(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// outside are the folders with libraries that are not its own and that it lets in, in the order in which Python looks.
func (e *environment) outside() []string {
	if !strings.EqualFold(e.config["include-system-site-packages"], "true") {
		return nil
	}
	list := e.ofUser()
	home := e.config["home"] // of the interpreter that it was made with
	if home == "" {
		return list
	}
	list = append(list, e.ofSystem(filepath.Dir(home))...)
	if real, err := filepath.EvalSymlinks(home); err == nil && real != home {
		list = append(list, e.ofSystem(filepath.Dir(real))...)
	}
	return list
}

// sitePackages are those below a folder with a lib: of its version of Python, else of all, since some that makes environments may call it otherwise.
func (e *environment) sitePackages(prefix string) []string {
	if e.python != "" {
		if list := e.below(prefix, "python"+majorMinor(e.python)+"*", "site-packages"); len(list) > 0 {
			return list
		}
	}
	return e.below(prefix, "python3*", "site-packages", "pypy3*", "site-packages")
}

// below returns what matches in lib and lib64: pairs of the folder of an interpreter and of the folder for libraries in it.
func (e *environment) below(prefix string, pairs ...string) []string {
	var list []string
	for pair := range slices.Chunk(pairs, 2) {
		for _, lib := range []string{"lib", "lib64"} {
			entries, err := os.ReadDir(filepath.Join(prefix, lib)) // and no filepath.Glob, to which a [ in a path is more than itself
			if err != nil {
				continue
			}
			for _, entry := range entries {
				if ok, _ := filepath.Match(pair[0], entry.Name()); ok && !isLonger(entry.Name(), pair[0]) {
					list = append(list, filepath.Join(prefix, lib, entry.Name(), pair[1]))
				}
			}
		}
	}
	return slices.DeleteFunc(list, func(dir string) bool {
		info, err := os.Stat(dir)
		return err != nil || !info.IsDir()
	})
}

// isLonger tells python3.11 where python3.1 is meant, but not python3.13t.
func isLonger(name, pattern string) bool {
	rest := strings.TrimPrefix(name, strings.TrimSuffix(pattern, "*"))
	return strings.Contains(pattern, ".") && rest != "" && '0' <= rest[0] && rest[0] <= '9'
}

// ofSystem are those of an interpreter that is no environment's. Debian has places of its own.
func (e *environment) ofSystem(prefix string) []string {
	list := e.sitePackages(prefix)
	python := "python" + majorMinor(e.python) + "*"
	list = append(list, e.below(filepath.Join(prefix, "local"), python, "dist-packages")...)
	return append(list, e.below(prefix, "python3", "dist-packages", python, "dist-packages")...)
}

// ofUser are those that pip install --user makes.
func (e *environment) ofUser() []string {
	base := os.Getenv("PYTHONUSERBASE")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil
		}
		base = filepath.Join(home, ".local")
	}
	return e.below(base, "python"+majorMinor(e.python)+"*", "site-packages")
}

// add adds what is in a folder, and in those that files in it name, and was in none before.
func (e *environment) add(versions map[string]string, folder string) error {
	entries, err := e.addFolder(versions, folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		for _, other := range named(filepath.Join(folder, entry.Name()), folder) {
			_, _ = e.addFolder(versions, other) // which may have been moved away since
		}
	}
	return nil
}

// addFolder adds what is in this folder alone, and returns what it holds, nothing if it was looked through before.
func (e *environment) addFolder(versions map[string]string, folder string) ([]os.DirEntry, error) {
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
		if _, known := versions[name]; name != "" && version != "" && !known {
			versions[name] = version
		}
	}
	return entries, nil
}

// named are the folders that the lines of a .pth file name, or the first line of an .egg-link: where a library is that was installed to be edited.
func named(path, folder string) []string {
	const most = 1000 // more are a mistake
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
		if list = append(list, line); kind == ".egg-link" || len(list) == most {
			break
		}
	}
	return list
}

// readStart reads the beginning of a file, which is all of it unless somebody plays tricks.
func readStart(path string) (string, error) {
	file, err := files.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // only read
	content, err := io.ReadAll(io.LimitReader(file, configLength))
	return string(content), err
}

// quoted is a path as a shell takes it.
func quoted(path string) string {
	if plain.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

var plain = regexp.MustCompile(`^[\w./~@%+:,-]+$`)
