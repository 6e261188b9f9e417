package watch

// Which folders have to be watched for a path.

import (
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/devloop/devloop/pkg/files"
)

// plan is where the targets were when the file system was walked. Its names are real: no folder on
// the way to them is a symbolic link, since the kernel knows a folder by one name only.
type plan struct {
	names   map[string][]*target   // → targets whose path leads through this name, or ends there
	roots   map[string][]*target   // folder → targets that are this folder
	folders map[string]bool        // to watch → whether all entries may count
	modes   map[string]fs.FileMode // tell a chmod from a touch, a file from a folder
}

// counts tells whether a change of something below the target, at rest ("/sub/f"), is one of its
// path. An excluded folder counts if something in it may. That a file is opened is no change.
func (t *target) counts(rest string, folder bool) bool {
	switch {
	case rest == "":
		return true
	case !folder && files.IsEphemeral(filepath.Base(rest)):
		return false
	}
	return !t.filter.excludes(t.Name+rest) || folder && t.filter.includesBelow(t.Name+rest)
}

func newPlan(targets []*target, lstat lstat) plan {
	p := plan{map[string][]*target{}, map[string][]*target{}, map[string]bool{}, map[string]fs.FileMode{}}
	if len(targets) == 0 {
		return p
	}
	base := commonFolder(targets)
	realBase := real(base, lstat)
	home, _ := os.UserHomeDir()
	busy := []string{"/", real(home, lstat)} // they have much traffic, and macOS asks the user about them
	for _, target := range targets {
		steps := trace(target.Name, lstat)
		for i, s := range steps {
			last := i == len(steps)-1
			switch {
			case last:
			case s.isLink() && !holds(s.name, base) && !holds(s.name, realBase):
			case s.isFolder() && holds(realBase, s.name) && s.name != realBase &&
				!slices.Contains(busy, filepath.Dir(s.name)):
			default:
				continue
			}
			p.folders[filepath.Dir(s.name)] = false
			p.names[s.name] = append(p.names[s.name], target)
			if s.mode != 0 {
				p.modes[s.name] = s.mode
			}
			if last && s.isFolder() {
				p.roots[s.name] = append(p.roots[s.name], target)
			}
		}
	}
	// Only now, since one root may exclude what another one includes.
	for folder := range p.roots {
		p.walk(folder)
	}
	return p
}

// walk adds a folder with everything below it that some root does not exclude. It does not follow
// links, as Docker does not; what reads through them has to name them as paths of their own.
func (p plan) walk(top string) {
	_ = filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone, or unreadable, which the build reports
		}
		if entry.IsDir() {
			if p.folders[name] || len(p.touched(name, true)) == 0 {
				return fs.SkipDir // walked already, from another root; or excluded
			}
			p.folders[name] = true
		}
		if info, err := entry.Info(); err == nil {
			p.modes[name] = info.Mode()
		}
		return nil
	})
}

// holding yields the roots that hold name, each with the rest of the name: "/sub/f", or "" for the
// root itself.
func (p plan) holding(name string) iter.Seq2[*target, string] {
	return func(yield func(*target, string) bool) {
		for folder := name; ; folder = filepath.Dir(folder) {
			for _, r := range p.roots[folder] {
				if !yield(r, name[len(folder):]) {
					return
				}
			}
			if folder == filepath.Dir(folder) {
				return
			}
		}
	}
}

// touched returns the watched paths, and paths below watched folders, that changed when name did.
func (p plan) touched(name string, folder bool) []string {
	var paths []string
	for _, t := range p.names[name] {
		paths = append(paths, t.Name)
	}
	for root, rest := range p.holding(name) {
		if root.counts(rest, folder) {
			paths = append(paths, root.Name+rest)
		}
	}
	return paths
}

// below returns the watched paths that depend on something below folder.
func (p plan) below(folder string) []string {
	var paths []string
	for name, targets := range p.names {
		if name == folder || !holds(folder, name) {
			continue
		}
		for _, t := range targets {
			paths = append(paths, t.Name)
		}
	}
	return paths
}

// step is one name on the way to a target.
type step struct {
	name string      // real
	mode fs.FileMode // 0 if nothing is there
}

func (s step) isLink() bool   { return s.mode&fs.ModeSymlink != 0 }
func (s step) isFolder() bool { return s.mode.IsDir() }

// maxLinks is Linux's limit on the way to one file (path_resolution(7)).
const maxLinks = 40

// trace walks from the root to path and returns every name on the way, through links. The last one
// is what path leads to: a file, a folder, or the first name that does not exist.
func trace(path string, lstat lstat) []step {
	var steps []step
	folder, links := "/", 0
	todo := strings.Split(path, "/")
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			folder = filepath.Dir(folder)
			continue
		}
		s := step{name: filepath.Join(folder, part)}
		if info := lstat(s.name); info != nil {
			s.mode = info.Mode()
			s.name = filepath.Join(folder, spelled(folder, part, info, lstat))
		}
		steps = append(steps, s)
		switch {
		case s.isFolder():
			folder = s.name
		case s.isLink():
			target, err := os.Readlink(s.name)
			if links++; err != nil || links > maxLinks {
				return steps
			}
			if filepath.IsAbs(target) {
				folder = "/"
			}
			todo = append(strings.Split(target, "/"), todo...)
		default:
			return steps
		}
	}
	return steps
}

// lstat returns what is at a path, nil for nothing.
type lstat func(path string) fs.FileInfo

// cachedLstat looks once at the folders that many paths share.
func cachedLstat() lstat {
	known := map[string]fs.FileInfo{}
	return func(name string) fs.FileInfo {
		info, ok := known[name]
		if !ok {
			info, _ = os.Lstat(name)
			known[name] = info
		}
		return info
	}
}

// spelled returns the name by which a folder lists a file. The kernel's events have that one, also
// where the file system ignores case, and a configuration says "dockerfile" for the Dockerfile.
func spelled(folder, name string, info fs.FileInfo, lstat lstat) string {
	swapped := strings.Map(func(r rune) rune {
		if unicode.IsUpper(r) {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, name)
	if swapped == name {
		return name
	}
	if other := lstat(filepath.Join(folder, swapped)); other == nil || !os.SameFile(info, other) {
		return name // the file system does not ignore case
	}
	open, err := os.Open(folder)
	if err != nil {
		return name // it may be entered and not listed
	}
	defer func() { _ = open.Close() }()
	names, _ := open.Readdirnames(-1) // as many as it could read, with an error
	if i := slices.IndexFunc(names, func(other string) bool { return strings.EqualFold(other, name) }); i >= 0 &&
		!slices.Contains(names, name) {
		return names[i]
	}
	return name
}

// commonFolder returns the deepest folder that holds all of the paths.
func commonFolder(targets []*target) string {
	common := filepath.Dir(targets[0].Name)
	for _, target := range targets[1:] {
		for !holds(common, filepath.Dir(target.Name)) {
			common = filepath.Dir(common)
		}
	}
	return common
}

// real returns the folder's name with links resolved, and as its parents list it, as far as it
// exists.
func real(folder string, lstat lstat) string {
	if folder == filepath.Dir(folder) {
		return folder
	}
	name, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return filepath.Join(real(filepath.Dir(folder), lstat), filepath.Base(folder))
	}
	if steps := trace(name, lstat); len(steps) > 0 {
		return steps[len(steps)-1].name
	}
	return name
}

// holds tells whether path is folder, or below it.
func holds(folder, path string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}
