package venv

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/devloop/devloop/pkg/files"
)

const (
	// DefaultFolder is the folder of an environment that most tools make.
	DefaultFolder = ".venv"
	// SourceCondaBase is the source of conda's base, which is for everything: conda itself runs in it.
	SourceCondaBase = "CONDA_PREFIX, conda's base"
	// maxNamed is how many environments of one tool are looked through.
	maxNamed = 1000
)

// Location is where an environment is, and what says so.
type Location struct{ Path, Source string }

// NotFoundError says that no environment belongs to a project.
type NotFoundError struct {
	Gone []Location // that are named, but are not there
}

func (e NotFoundError) Error() string {
	if len(e.Gone) > 0 {
		return e.Gone[0].Source + " names " + e.Gone[0].Path + ", which is not there"
	}
	return "none is active (VIRTUAL_ENV, CONDA_PREFIX), and the project has none " +
		"(" + DefaultFolder + ", Poetry, Pipenv, Hatch, pyenv)"
}

// Find returns the environment of the project in folder: the configured one, which need not exist,
// else the first of these that there is: the active one, one in the project's folder, one that a
// tool keeps elsewhere for the project, and last conda's base, which many terminals activate for
// everything.
func Find(configured, folder string) (Location, error) {
	if configured != "" {
		return Location{absolute(folder, configured), "local.venv"}, nil
	}
	var gone []Location
	found := slices.Concat(active(), inProject(folder), ofPoetry(folder), ofProjectFile(folder), ofHatch(folder),
		ofPyenv(folder), condaBase())
	for _, l := range found {
		if isFolder(l.Path) {
			return l, nil
		}
		gone = append(gone, l)
	}
	return Location{}, NotFoundError{gone}
}

func absolute(folder, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(folder, path)
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// active are the environments that are active in this process's terminal, first the one whose
// Python it starts.
func active() (list []Location) {
	for _, variable := range []string{"VIRTUAL_ENV", "CONDA_PREFIX"} {
		if path := os.Getenv(variable); path != "" && (variable != "CONDA_PREFIX" || !isCondaBase()) {
			path, _ = filepath.Abs(path) // of a working folder that is there
			list = append(list, Location{path, variable})
		}
	}
	search := filepath.SplitList(os.Getenv("PATH"))
	rank := func(l Location) int {
		if i := slices.Index(search, filepath.Join(l.Path, "bin")); i >= 0 {
			return i
		}
		return len(search)
	}
	slices.SortStableFunc(list, func(a, b Location) int { return rank(a) - rank(b) })
	return list
}

func isCondaBase() bool {
	return slices.Contains([]string{"base", "root"}, os.Getenv("CONDA_DEFAULT_ENV"))
}

func condaBase() []Location {
	if path := os.Getenv("CONDA_PREFIX"); path != "" && isCondaBase() {
		return []Location{{path, SourceCondaBase}}
	}
	return nil
}

// inProject are environments in the folder of the project.
func inProject(folder string) (list []Location) {
	if path := os.Getenv("UV_PROJECT_ENVIRONMENT"); path != "" {
		list = append(list, Location{absolute(folder, path), "UV_PROJECT_ENVIRONMENT"})
	}
	usual := filepath.Join(folder, DefaultFolder)
	switch name := firstLine(usual); {
	case isFolder(usual):
		list = append(list, Location{usual, "the project's folder"})
	case name != "" && !strings.ContainsRune(name, filepath.Separator): // Pipenv, and plugins of shells
		for _, parent := range virtualenvFolders() {
			if path := filepath.Join(parent, name); isFolder(path) {
				list = append(list, Location{path, "the file " + DefaultFolder})
			}
		}
	case name != "":
		list = append(list, Location{absolute(folder, name), "the file " + DefaultFolder})
	}
	for _, name := range []string{"venv", "env", filepath.Join(".pixi", "envs", "default")} {
		path := filepath.Join(folder, name)
		_, venvErr := os.Stat(filepath.Join(path, "pyvenv.cfg"))
		_, condaErr := os.Stat(filepath.Join(path, "conda-meta"))
		if venvErr == nil || condaErr == nil {
			list = append(list, Location{path, "the project's folder"})
		}
	}
	return list
}

// ofPoetry are the environments in Poetry's cache: NAME-HASH-py3.11, with a hash of the project's
// folder. envs.toml has the one that "poetry env use" chose, else the newest counts.
func ofPoetry(folder string) []Location {
	if _, err := os.Stat(filepath.Join(folder, "pyproject.toml")); err != nil {
		return nil
	}
	parent := os.Getenv("POETRY_VIRTUALENVS_PATH")
	if parent == "" {
		cache, _ := os.UserCacheDir() // "" without a home, where nothing is found
		parent = filepath.Join(cmp.Or(os.Getenv("POETRY_CACHE_DIR"), filepath.Join(cache, "pypoetry")), "virtualenvs")
	}
	list := glob(parent, "*-"+folderHash(folder)+"-py*", "Poetry")
	var chosen map[string]struct{ Minor string }
	if content, err := files.Read(filepath.Join(parent, "envs.toml"), maxConfig); err == nil {
		_ = toml.Unmarshal(content, &chosen) // a file that is broken chooses nothing
	}
	isChosen := func(l Location) bool {
		name, minor, _ := strings.Cut(filepath.Base(l.Path), "-py")
		return minor != "" && chosen[name].Minor == minor
	}
	slices.SortStableFunc(list, func(a, b Location) int { return modified(b.Path).Compare(modified(a.Path)) })
	if i := slices.IndexFunc(list, isChosen); i >= 0 {
		return list[i : i+1]
	}
	return list
}

// ofProjectFile are the environments of Pipenv and virtualenvwrapper: a file in them names the
// folder of the project.
func ofProjectFile(folder string) (list []Location) {
	for _, parent := range virtualenvFolders() {
		environments, _ := os.ReadDir(parent) // mostly, there is none
		for _, e := range environments[:min(len(environments), maxNamed)] {
			path := filepath.Join(parent, e.Name())
			if named := firstLine(filepath.Join(path, ".project")); named != "" && sameFolder(named, folder) {
				list = append(list, Location{path, "its .project"})
			}
		}
	}
	return list
}

// virtualenvFolders are where Pipenv and virtualenvwrapper keep environments.
func virtualenvFolders() []string {
	if parent := os.Getenv("WORKON_HOME"); parent != "" {
		return []string{parent}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	return []string{filepath.Join(dataFolder(), "virtualenvs"), filepath.Join(home, ".local", "share", "virtualenvs"),
		filepath.Join(home, ".virtualenvs")}
}

// ofHatch is Hatch's default environment: PROJECT/HASH/PROJECT, with a hash of the folder.
func ofHatch(folder string) []Location {
	if _, err := os.Stat(filepath.Join(folder, "pyproject.toml")); err != nil {
		return nil
	}
	parent := filepath.Join(cmp.Or(os.Getenv("HATCH_DATA_DIR"), filepath.Join(dataFolder(), "hatch")), "env", "virtual")
	list := glob(parent, "*/"+folderHash(folder)+"/*", "Hatch")
	return slices.DeleteFunc(list, func(l Location) bool {
		return filepath.Base(l.Path) != filepath.Base(filepath.Dir(filepath.Dir(l.Path)))
	})
}

// ofPyenv is the Python, or the environment, that pyenv starts in the project. Its global one is
// for everything, and therefore none of the project's.
func ofPyenv(folder string) []Location {
	name, source := os.Getenv("PYENV_VERSION"), "PYENV_VERSION"
	for at := folder; name == "" && filepath.Dir(at) != at; at = filepath.Dir(at) {
		name, source = firstLine(filepath.Join(at, ".python-version")), ".python-version"
	}
	name, _, _ = strings.Cut(name, ":")
	root := os.Getenv("PYENV_ROOT")
	if home, err := os.UserHomeDir(); root == "" && err == nil {
		root = filepath.Join(home, ".pyenv")
	}
	if name == "" || name == "system" || !filepath.IsLocal(name) {
		return nil
	}
	versions := filepath.Join(root, "versions")
	if path := filepath.Join(versions, name); isFolder(path) {
		return []Location{{path, source}}
	}
	list := glob(versions, name+".*", source) // 3.11 is the newest 3.11.x
	slices.SortFunc(list, func(a, b Location) int { return patch(b.Path) - patch(a.Path) })
	return list[:min(1, len(list))]
}

// patch is 9 of versions/3.11.9.
func patch(path string) int {
	number, _ := strconv.Atoi(strings.TrimPrefix(filepath.Ext(path), "."))
	return number
}

// folderHash is the hash with which Poetry and Hatch name a folder.
func folderHash(folder string) string {
	if real, err := filepath.EvalSymlinks(folder); err == nil {
		folder = real
	}
	sum := sha256.Sum256([]byte(folder))
	return base64.URLEncoding.EncodeToString(sum[:])[:8]
}

func glob(parent, pattern, source string) (list []Location) {
	found, _ := fs.Glob(os.DirFS(parent), pattern) // a broken pattern matches nothing
	for _, name := range found[:min(len(found), maxNamed)] {
		if path := filepath.Join(parent, name); isFolder(path) {
			list = append(list, Location{path, source})
		}
	}
	return list
}

// dataFolder is where programs of this user keep their data.
func dataFolder() string {
	home, _ := os.UserHomeDir() // "" without a home, where nothing is found
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Application Support")
	}
	return cmp.Or(os.Getenv("XDG_DATA_HOME"), filepath.Join(home, ".local", "share"))
}

func modified(path string) (at time.Time) {
	if info, err := os.Stat(path); err == nil {
		at = info.ModTime()
	}
	return at
}

func sameFolder(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// firstLine returns the first line of a file that is not empty or a comment, "" if there is none.
func firstLine(path string) string {
	content, err := readStart(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(content) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return line
		}
	}
	return ""
}
