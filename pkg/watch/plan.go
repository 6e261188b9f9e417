package watch

// What has to be watched so that every change to some paths is noticed.

import (
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
)

// plan is what paths came to when the file system was looked at. Names in it are real: no folder on the way to them is
// a symbolic link. The kernel knows a folder by one name only, so every folder needs one name only.
type plan struct {
	names   map[string][]string    // → the watched paths that mean something else when this name does
	roots   map[string][]root      // folder → the watched paths that are this folder
	folders map[string][]string    // that need watching → the names in it that count; nil: all of them may
	modes   map[string]fs.FileMode // of what was there: to tell a chmod from a touch, a file from a folder
}

// root is a watched path that is a folder.
type root struct {
	path   string
	except *filter
}

// counts tells whether a change of what is below the root, at rest ("/sub/f"), is one of its path. A folder that is left
// out counts if some of what is in it may.
func (r root) counts(rest string, folder bool) bool {
	return rest == "" || !r.except.leavesOut(r.path+rest) || folder && r.except.bringsBack(r.path+rest)
}

func newPlan(targets []root) plan {
	p := plan{map[string][]string{}, map[string][]root{}, map[string][]string{}, map[string]fs.FileMode{}}
	if len(targets) == 0 {
		return p
	}
	base := commonFolder(targets)
	realBase := real(base)
	lstat := rememberingLstat()
	for _, target := range targets {
		steps := trace(target.path, lstat)
		for i, s := range steps {
			last := i == len(steps)-1
			switch {
			case last:
			case s.isLink() && !holds(s.name, base) && !holds(s.name, realBase):
			case s.isFolder() && holds(realBase, s.name) && s.name != realBase:
			default:
				// What leads to the project, or to the target of a link, is not watched: / and $HOME have much traffic,
				// and macOS asks the user before a program may look into them.
				continue
			}
			p.need(s.name)
			p.names[s.name] = append(p.names[s.name], target.path)
			if s.exists {
				p.modes[s.name] = s.mode
			}
			if last && s.isFolder() {
				p.roots[s.name] = append(p.roots[s.name], target)
			}
		}
	}
	// Only now, since what one root leaves out another one may hold.
	for folder := range p.roots {
		p.walk(folder)
	}
	return p
}

// need adds the folder of a name that counts.
func (p plan) need(name string) {
	if len(p.names[name]) == 0 {
		folder := filepath.Dir(name)
		p.folders[folder] = append(p.folders[folder], filepath.Base(name))
	}
}

// walk adds a folder with all that is below it, but for what every root leaves out: that is not even looked at. Links in
// it are not followed, as Docker does not follow them; who reads through them has to name them as paths of their own.
func (p plan) walk(top string) {
	_ = filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone, or not ours to read: then the build says so
		}
		if entry.IsDir() {
			names, known := p.folders[name]
			if known && names == nil || !p.wants(name) {
				return fs.SkipDir // walked already, from another root; or left out
			}
			p.folders[name] = nil
		}
		if info, err := entry.Info(); err == nil {
			p.modes[name] = info.Mode()
		}
		return nil
	})
}

// holding yields the roots that hold name, each with where in it that is ("/sub/f", "" for the root itself).
func (p plan) holding(name string) iter.Seq2[root, string] {
	return func(yield func(root, string) bool) {
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
	paths := append([]string(nil), p.names[name]...)
	for r, rest := range p.holding(name) {
		if r.counts(rest, folder) {
			paths = append(paths, r.path+rest)
		}
	}
	return paths
}

// wants tells whether a folder, or something below it, counts for some root.
func (p plan) wants(folder string) bool {
	for r, rest := range p.holding(folder) {
		if r.counts(rest, true) {
			return true
		}
	}
	return false
}

// below returns the watched paths that hang on something below folder.
func (p plan) below(folder string) []string {
	var paths []string
	for name, hang := range p.names {
		if name != folder && holds(folder, name) {
			paths = append(paths, hang...)
		}
	}
	return paths
}

// step is one name on the way to a path.
type step struct {
	name   string // real
	exists bool
	mode   fs.FileMode
}

func (s step) isLink() bool   { return s.mode&fs.ModeSymlink != 0 }
func (s step) isFolder() bool { return s.mode.IsDir() }

// maxLinks is what Linux allows on the way to one file.
const maxLinks = 40

// trace walks from the root to path and returns every name that it meets, links and what they point to included. The last
// one is what path is in the end: a file, a folder, or the first name on the way that does not exist.
func trace(path string, lstat func(string) (fs.FileInfo, error)) []step {
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
		if info, err := lstat(s.name); err == nil {
			s.exists, s.mode = true, info.Mode()
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

// rememberingLstat saves asking again about the folders that many paths share.
func rememberingLstat() func(string) (fs.FileInfo, error) {
	type answer struct {
		info fs.FileInfo
		err  error
	}
	known := map[string]answer{}
	return func(name string) (fs.FileInfo, error) {
		a, ok := known[name]
		if !ok {
			a.info, a.err = os.Lstat(name)
			known[name] = a
		}
		return a.info, a.err
	}
}

// commonFolder returns the deepest folder that holds all of the paths.
func commonFolder(targets []root) string {
	common := filepath.Dir(targets[0].path)
	for _, target := range targets[1:] {
		for !holds(common, filepath.Dir(target.path)) {
			common = filepath.Dir(common)
		}
	}
	return common
}

// real returns the folder's name without links, as far as it exists.
func real(folder string) string {
	if name, err := filepath.EvalSymlinks(folder); err == nil || folder == filepath.Dir(folder) {
		return name
	}
	return filepath.Join(real(filepath.Dir(folder)), filepath.Base(folder))
}

// holds tells whether path is folder or below it.
func holds(folder, path string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}
