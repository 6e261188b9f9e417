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
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

const (
	// maxConfig is how much of pyvenv.cfg, and of a file that names folders, is read, in bytes.
	maxConfig = 64 << 10
	// maxFolders is how many folders a file may name. More are a mistake.
	maxFolders = 1000
)

// Read reads the environment at dir. Of a library that is installed twice, the one counts that
// Python would import.
func Read(dir string) (*Environment, error) {
	r, err := open(dir)
	if err != nil {
		return nil, err
	}
	var own []string
	if r.Kind == KindInstallation {
		own = r.systemFolders(dir)
	} else {
		own = r.sitePackages(dir)
	}
	switch {
	case len(own) > 0:
	case r.Kind == KindConda && r.Python == "":
		return nil, event.WithHint(fmt.Errorf("the conda environment %s has no Python", dir),
			"install it: conda install --prefix "+quoted(dir)+" python")
	case r.Kind != KindConda:
		return nil, event.WithHint(
			fmt.Errorf("%s is incomplete: there is no lib/python%s/site-packages in it", dir,
				cmp.Or(majorMinor(r.Python), "3.*")), "recreate it"+r.recreateCommand())
	}
	before, after := r.includedFolders()
	for _, folder := range before {
		_ = r.add(folder) // Python, too, ignores what cannot be read there
	}
	for _, folder := range own {
		if err := r.add(folder); err != nil {
			return nil, fmt.Errorf("read the Python environment: %w", err)
		}
	}
	for _, folder := range after {
		_ = r.add(folder)
	}
	if r.Kind == KindConda {
		if err := r.addConda(); err != nil {
			return nil, fmt.Errorf("read the Python environment: %w", err)
		}
	}
	return &r.Environment, nil
}

// reader reads an environment.
type reader struct {
	Environment
	config map[string]string // pyvenv.cfg, nil for conda and installations
	seen   []os.FileInfo     // folders that were read: one folder may have several names
}

// open reads what kind of environment is at dir, and its Python.
func open(dir string) (*reader, error) {
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
	r := &reader{Environment: Environment{Path: dir, Versions: map[string]string{}, FromAddress: map[string]bool{}}}
	if err := r.identify(); err != nil {
		return nil, err
	}
	python, err := r.interpreter()
	if err != nil {
		return nil, err
	}
	// An environment follows the Python that it links to. That one does not see what was installed for
	// another version.
	if real, err := filepath.EvalSymlinks(python); err == nil {
		match := interpreterName.FindStringSubmatch(filepath.Base(real))
		if match != nil && match[1] != majorMinor(r.Python) {
			r.Python = match[1]
		}
	}
	if r.Kind == KindInstallation && majorMinor(filepath.Base(dir)) == r.Python { // pyenv's versions/3.11.9
		r.Python = filepath.Base(dir)
	}
	return r, nil
}

// identify sets the kind, and the version of Python as far as the tool that made the environment
// noted it.
func (r *reader) identify() error {
	content, err := readStart(filepath.Join(r.Path, "pyvenv.cfg"))
	switch {
	case err == nil:
		r.config = settings(content)
		r.Python = pythonVersion.FindString(cmp.Or(r.config["version_info"], r.config["version"]))
		r.Kind = KindVenv
		for _, tool := range []string{KindUv, KindVirtualenv} {
			if r.config[tool] != "" {
				r.Kind = tool
			}
		}
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read the Python environment: %w", err)
	}
	records, err := os.ReadDir(filepath.Join(r.Path, "conda-meta"))
	switch {
	case err == nil:
		r.Kind = KindConda
		for _, record := range records {
			if match := condaPython.FindStringSubmatch(record.Name()); match != nil {
				r.Python = match[1]
			}
		}
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read the Python environment: %w", err)
	}
	r.Kind = KindInstallation
	if python, err := r.interpreter(); python == "" || err != nil {
		return event.WithHint(
			fmt.Errorf("%s is no Python environment: it has neither a pyvenv.cfg, nor a conda-meta, nor a Python", r.Path),
			"name the folder that python3 -m venv made, or make one there: python3 -m venv "+quoted(r.Path))
	}
	return nil
}

// interpreter is the environment's Python, "" if it has no folder for programs at all: a copy of
// its libraries is read as well. It may be a link to one that was removed.
func (r *reader) interpreter() (string, error) {
	bin := filepath.Join(r.Path, "bin")
	if !isFolder(bin) {
		return "", nil
	}
	var missing error
	for _, name := range []string{"python", "python3"} {
		path := filepath.Join(bin, name)
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		missing = cmp.Or(missing, err)
	}
	if r.Kind == KindConda && r.Python == "" { // conda makes environments without it
		return "", nil
	}
	return "", event.WithHint(fmt.Errorf("the Python of %s is not there: %w", r.Path, missing), "recreate it"+
		r.recreateCommand())
}

// recreateCommand is how to recreate such an environment, "" if that is not known.
func (r *reader) recreateCommand() string {
	switch r.Kind {
	case KindVenv:
		return ": python3 -m venv --clear " + quoted(r.Path)
	case KindUv:
		return ": uv venv --clear " + quoted(r.Path)
	}
	return ""
}

var (
	// interpreterName is that of an installed interpreter: python3.11.
	interpreterName = regexp.MustCompile(`^(?:python|pypy)(\d+\.\d+)t?$`)
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

// includedFolders are library folders outside of the environment that it includes, in the order in
// which Python searches them: before and after its own.
func (r *reader) includedFolders() (before, after []string) {
	user := r.userFolders()
	if r.config == nil {
		return user, nil
	}
	if !strings.EqualFold(r.config["include-system-site-packages"], "true") {
		return nil, nil
	}
	home := r.config["home"] // the bin folder of the interpreter that made it
	if home == "" {
		return nil, user
	}
	after = append(user, r.systemFolders(filepath.Dir(home))...)
	if real, err := filepath.EvalSymlinks(home); err == nil && real != home {
		after = append(after, r.systemFolders(filepath.Dir(real))...)
	}
	return nil, after
}

// sitePackages are the library folders of the environment's Python version below prefix.
func (r *reader) sitePackages(prefix string) []string {
	return libraryFolders(prefix, "site-packages", r.interpreters()...)
}

// interpreters are patterns for the names of the environment's Python version: python3.13 and
// python3.13t, but not python3.131.
func (r *reader) interpreters() []string {
	if r.Python == "" {
		return []string{"python3*", "pypy3*"}
	}
	version := majorMinor(r.Python)
	return []string{"python" + version, "python" + version + "[^0-9]*", "pypy" + version}
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

// systemFolders are the library folders of an installed interpreter. Debian has some of its own.
func (r *reader) systemFolders(prefix string) []string {
	return slices.Concat(r.sitePackages(prefix),
		libraryFolders(filepath.Join(prefix, "local"), "dist-packages", r.interpreters()...),
		libraryFolders(prefix, "dist-packages", "python3"),
		libraryFolders(prefix, "dist-packages", r.interpreters()...))
}

// userFolders are the library folders of pip install --user.
func (r *reader) userFolders() []string {
	if os.Getenv("PYTHONNOUSERSITE") != "" {
		return nil
	}
	base := os.Getenv("PYTHONUSERBASE")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil
		}
		base = filepath.Join(home, ".local")
	}
	return libraryFolders(base, "site-packages", r.interpreters()...)
}

// add adds the libraries in a folder, and in those that its files name. Libraries that are known
// already stay.
func (r *reader) add(folder string) error {
	entries, err := r.addFolder(folder, false)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		for _, other := range namedFolders(filepath.Join(folder, entry.Name()), folder) {
			_, _ = r.addFolder(other, true) // it may be gone
		}
	}
	return nil
}

// addFolder adds the libraries in a folder and returns its entries, or none if it was read before.
// What is elsewhere is there for the user to edit.
func (r *reader) addFolder(folder string, elsewhere bool) ([]os.DirEntry, error) {
	info, err := os.Stat(folder)
	if err != nil || slices.ContainsFunc(r.seen, func(other os.FileInfo) bool { return os.SameFile(info, other) }) {
		return nil, err
	}
	r.seen = append(r.seen, info)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	if !elsewhere {
		r.folders = append(r.folders, folder)
	}
	// A tool may leave the metadata of a version that another tool has replaced: the newest counts.
	type library struct {
		version, path string
		installed     time.Time
	}
	found := map[string]library{}
	for _, entry := range entries {
		l := library{path: filepath.Join(folder, entry.Name())}
		name := ""
		if name, l.version, err = readLibrary(l.path); err != nil {
			return nil, err
		}
		if name == "" || l.version == "" {
			continue
		}
		l.installed = modified(l.path)
		if before, twice := found[name]; !twice || l.installed.After(before.installed) {
			found[name] = l
		}
	}
	for name, l := range found {
		if _, known := r.Versions[name]; known {
			continue
		}
		r.Versions[name] = l.version
		if _, err := os.Stat(filepath.Join(l.path, "direct_url.json")); err == nil || elsewhere {
			r.FromAddress[name] = true
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

// readStart reads the first maxConfig bytes of a file.
func readStart(path string) (string, error) {
	file, err := files.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // only read
	content, err := io.ReadAll(io.LimitReader(file, maxConfig))
	return string(content), err
}
