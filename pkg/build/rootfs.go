package build

// File systems of names alone: which files of the build context are where.

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// rootfs is what is known of a file system: what COPY, ADD and WORKDIR put there.
type rootfs struct {
	root *inode
	open bool // it may hold more: files of a base image, or of a RUN
}

type inode struct {
	mode  fs.FileMode // type and permissions
	owner string      // user[:group], "" for root
	file  *contextFile
	step  digest.Digest // the operation that put it there
	doubt *doubt        // nil for none

	// Of a folder.
	children map[string]*inode
	folders  []*contextFile // of the context, that it was copied from
	made     bool           // also for another reason
}

// doubt is why a build may do something else with a file.
type doubt struct{ says, hint string }

func newFolder(step digest.Digest) *inode {
	return &inode{mode: fs.ModeDir | 0o755, step: step, children: map[string]*inode{}, made: true}
}

func (n *inode) isDir() bool { return n.mode.IsDir() }

func (n *inode) clone() *inode {
	copied := *n
	if n.children != nil {
		copied.children = make(map[string]*inode, len(n.children))
		for name, child := range n.children {
			copied.children[name] = child.clone()
		}
	}
	copied.folders = slices.Clip(n.folders)
	return &copied
}

// all calls visit for all that is below n, folders before what is in them.
func (n *inode) all(at string, visit func(at string, n *inode)) {
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		below := strings.TrimSuffix(at, "/") + "/" + name
		visit(below, n.children[name])
		n.children[name].all(below, visit)
	}
}

// lookup does not follow a link that is the last element of a path.
func (r *rootfs) lookup(name string) *inode {
	at := r.root
	for part := range strings.SplitSeq(strings.Trim(path.Clean("/"+name), "/"), "/") {
		if part == "" {
			break
		}
		if at = at.children[part]; at == nil {
			return nil
		}
	}
	return at
}

const maxLinks = 255 // of a path, as in BuildKit

// resolve follows the symbolic links of a path, within the root.
func (r *rootfs) resolve(name string) string {
	rest, done := strings.Split(path.Clean("/"+name), "/"), "/"
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == ".." {
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		found := r.lookup(next)
		if found == nil || found.mode&fs.ModeSymlink == 0 || found.file == nil || links == maxLinks {
			done = next
			continue
		}
		links++
		target := found.file.content[0]
		if path.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done
}

// put replaces what is at a path, whose folder exists. It reports whether it could.
func (r *rootfs) put(name string, n *inode) bool {
	folder := r.lookup(path.Dir(name))
	if folder == nil || !folder.isDir() || name == "/" {
		return false
	}
	folder.children[path.Base(name)] = n
	return true
}

// mkdirAll makes the folders of a path that are missing.
func (r *rootfs) mkdirAll(name string, perm fs.FileMode, owner string, step digest.Digest) {
	at := r.root
	for part := range strings.SplitSeq(strings.Trim(r.resolve(name), "/"), "/") {
		if part == "" || !at.isDir() {
			return
		}
		if at.children[part] == nil {
			made := newFolder(step)
			made.mode, made.owner = fs.ModeDir|perm.Perm(), owner
			at.children[part] = made
		}
		at = at.children[part]
	}
}

func (r *rootfs) holds(file *contextFile) (found bool) {
	r.root.all("/", func(_ string, n *inode) { found = found || n.file == file })
	return found
}

// fill puts the files of the build context into an empty file system.
func (r *rootfs) fill(files []*contextFile) {
	for _, file := range files {
		n := &inode{mode: file.mode, file: file}
		if n.isDir() {
			n.children, n.folders = map[string]*inode{}, []*contextFile{file}
		}
		if !r.put("/"+file.path, n) { // its folder is excluded, and it is not
			r.mkdirAll(path.Dir("/"+file.path), 0o755, "", "")
			r.put("/"+file.path, n)
		}
	}
}

// overlay lays another layer over what is there.
func (n *inode) overlay(layer *inode) {
	for name, above := range layer.children {
		below := n.children[name]
		if below == nil || !below.isDir() || !above.isDir() {
			n.children[name] = above.clone()
			continue
		}
		below.merge(above, true)
		below.overlay(above)
	}
}

// merge adds to a folder that it is copied from another one as well.
func (n *inode) merge(with *inode, overwrite bool) {
	n.folders = append(slices.Clip(n.folders), with.folders...)
	n.made = n.made || with.made
	if overwrite {
		n.mode, n.owner, n.file, n.step = with.mode, with.owner, with.file, with.step
	}
}
