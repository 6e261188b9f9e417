package build

// COPY and ADD by the rules of BuildKit's own copy (package copy of fsutil, and docopy in its
// solver/llbsolver/file/backend.go).

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"
	mode "github.com/tonistiigi/dchapes-mode"
)

// ownerOf returns a user and group. Without a group it is that of the user's name, or the user's
// number.
func ownerOf(chown *pb.ChownOpt) string {
	if chown == nil {
		return ""
	}
	text := func(of *pb.UserOpt) string {
		switch user := of.GetUser().(type) {
		case *pb.UserOpt_ByName:
			return user.ByName.GetName()
		case *pb.UserOpt_ByID:
			return fmt.Sprint(user.ByID)
		}
		return ""
	}
	user, group := text(chown.User), text(chown.Group)
	switch {
	case user == "" && group == "":
		return ""
	case user == "":
		return "0:" + group
	case group == "" && isNumber(user):
		return user + ":" + user
	case group == "":
		return user
	}
	return user + ":" + group
}

// copier carries out one COPY or ADD.
type copier struct {
	*pb.FileActionCopy
	from, to         *rootfs
	step             digest.Digest
	modes            *mode.Set
	include, exclude *patternmatcher.PatternMatcher
}

// target is a folder that is copied to. One that the patterns leave out is made when something in
// it is copied.
type target struct {
	*inode // nil: not made yet
	source *inode
	parent *target
	name   string
}

func (r *rootfs) copy(from *rootfs, action *pb.FileActionCopy, step digest.Digest) (err error) {
	c := &copier{FileActionCopy: action, from: from, to: r, step: step}
	if action.ModeStr != "" {
		set, err := mode.ParseWithUmask(action.ModeStr, 0)
		if err != nil {
			return err
		}
		c.modes = &set
	}
	if len(action.IncludePatterns) > 0 {
		if c.include, err = patternmatcher.New(action.IncludePatterns); err != nil {
			return err
		}
	}
	if len(action.ExcludePatterns) > 0 {
		if c.exclude, err = patternmatcher.New(action.ExcludePatterns); err != nil {
			return err
		}
	}
	r.open = r.open || from.open
	for _, source := range c.sources() {
		if err := c.copySource(source); err != nil {
			return err
		}
	}
	return nil
}

// sources returns the paths that the source stands for.
func (c *copier) sources() []string {
	source := path.Join("/", c.Src)
	parts := strings.Split(strings.Trim(source, "/"), "/")
	wild := slices.IndexFunc(parts, hasWildcards)
	if !c.AllowWildcard || wild < 0 {
		return []string{source}
	}
	base := c.from.resolve(strings.Join(parts[:wild], "/"))
	pattern := strings.Join(parts[wild:], "/")
	folder := c.from.lookup(base)
	if folder == nil {
		return nil
	}
	var found []string
	folder.all(base, func(at string, _ *inode) {
		inMatch := len(found) > 0 && strings.HasPrefix(at, found[len(found)-1]+"/")
		if matches, _ := filepath.Match(pattern, strings.Trim(strings.TrimPrefix(at, base), "/")); matches && !inMatch {
			found = append(found, at)
		}
	})
	return found
}

func hasWildcards(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// folderMode is of the folders on the way to the destination.
func (c *copier) folderMode() fs.FileMode {
	if c.ModeStr == "" && c.Mode >= 0 {
		return fs.FileMode(c.Mode).Perm()
	}
	return 0o755
}

func (c *copier) copySource(source string) error {
	owner := ownerOf(c.Owner)
	followed := path.Join("/", source)
	if c.FollowSymlink {
		followed = c.from.resolve(source)
	}
	n := c.from.lookup(followed)
	if n == nil && !c.from.open {
		return nil // the build says so
	}
	if c.AttemptUnpackDockerCompatibility && n != nil && n.file != nil && n.file.isArchive() {
		c.to.mkdirAll(c.Dest, 0o755, owner, c.step)
		c.to.open = true
		return nil
	}
	folder, isFolder := path.Split(c.Dest)
	if isFolder == "" || isFolder == "." {
		c.to.mkdirAll(c.Dest, c.folderMode(), owner, c.step)
	} else {
		c.to.mkdirAll(folder, c.folderMode(), owner, c.step)
	}
	dest := c.to.resolve(c.Dest)
	there := c.to.lookup(dest)
	if n == nil {
		c.replaceUnknown(dest, path.Base(source))
		return nil
	}
	var unsure *doubt
	switch {
	case there != nil && there.isDir() && (!n.isDir() || !c.DirCopyContents):
		dest = path.Join(dest, path.Base(source))
	case there == nil && c.to.open && !n.isDir() && !looksLikeFile(dest, source):
		unsure = &doubt{fmt.Sprintf("%s may be a folder or a file", dest),
			"for a folder, end the destination with a slash; for a file, give it the source's name or extension"}
	}
	if n.isDir() && c.DirCopyContents && there == nil {
		c.to.mkdirAll(dest, c.folderMode(), owner, c.step)
	} else {
		c.to.mkdirAll(path.Dir(dest), c.folderMode(), owner, c.step)
	}
	if into := c.to.lookup(path.Dir(dest)); into == nil || !into.isDir() {
		return nil // the build fails
	} else if dest == "/" {
		into.folders = append(slices.Clip(into.folders), n.folders...)
		return c.copyContent(n, "", &target{inode: into}, patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{})
	} else if err := c.copyNode(n, "", &target{inode: into}, path.Base(dest), patternmatcher.MatchInfo{},
		patternmatcher.MatchInfo{}); err != nil {
		return err
	}
	if copied := c.to.lookup(dest); unsure != nil && copied != nil {
		copied.doubt = unsure
	}
	return nil
}

// looksLikeFile guesses whether the destination of a file is a file, and no folder of a base image.
func looksLikeFile(dest, source string) bool {
	extension := path.Ext(dest)
	return path.Base(dest) == path.Base(source) || extension != "" && extension == path.Ext(source)
}

// replaceUnknown drops a file that another one replaces, of which nothing is known.
func (c *copier) replaceUnknown(dest, name string) {
	there := c.to.lookup(dest)
	if there != nil && there.isDir() {
		dest = path.Join(dest, name)
		there = c.to.lookup(dest)
	}
	if there != nil && !there.isDir() {
		delete(c.to.lookup(path.Dir(dest)).children, path.Base(dest))
	}
}

// copyNode is copier.copy of fsutil.
func (c *copier) copyNode(
	n *inode, relative string, into *target, name string, inParent, exParent patternmatcher.MatchInfo,
) (err error) {
	included, excluded := true, false
	var in, ex patternmatcher.MatchInfo
	if relative != "" {
		if c.include != nil {
			if included, in, err = c.include.MatchesUsingParentResults(relative, inParent); err != nil {
				return err
			}
		}
		if c.exclude != nil {
			if excluded, ex, err = c.exclude.MatchesUsingParentResults(relative, exParent); err != nil {
				return err
			}
		}
		included = included && !excluded
	}
	overwrite := relative != ""
	folder := &target{source: n, parent: into, name: name}
	if included {
		parent := c.make(into, overwrite)
		there := parent.children[name]
		switch {
		case there == nil, !there.isDir():
			parent.children[name] = c.copied(n)
		case n.isDir(): // else the build fails
			there.merge(c.copied(n), overwrite)
		}
		folder.inode = parent.children[name]
	}
	if !n.isDir() || excluded && !c.exclude.Exclusions() {
		return nil
	}
	return c.copyContent(n, relative, folder, in, ex)
}

func (c *copier) copyContent(n *inode, relative string, into *target, in, ex patternmatcher.MatchInfo) error {
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		if err := c.copyNode(n.children[name], path.Join(relative, name), into, name, in, ex); err != nil {
			return err
		}
	}
	return nil
}

// make returns a folder that is copied to. It gets no owner and no mode of the COPY if it is there
// already.
func (c *copier) make(folder *target, overwrite bool) *inode {
	if folder.inode == nil {
		parent := c.make(folder.parent, overwrite)
		there := parent.children[folder.name]
		if there == nil || !there.isDir() {
			there = c.copied(folder.source)
			parent.children[folder.name] = there
		} else {
			owner := there.owner
			there.merge(folder.source, overwrite)
			there.owner = owner
		}
		folder.inode = there
	}
	return folder.inode
}

// copied returns a copy of a file, link or folder, without what is in it.
func (c *copier) copied(n *inode) *inode {
	copied := *n
	copied.step = c.step
	if c.Owner != nil {
		copied.owner = ownerOf(c.Owner)
	} else if named(n.owner) {
		copied.doubt = &doubt{"its owner " + n.owner + " is a name of another stage",
			"give owners by number there: COPY --chown=1000:1000"}
	}
	if n.mode&fs.ModeSymlink == 0 {
		switch {
		case c.modes != nil:
			copied.mode = c.modes.Apply(n.mode)
		case c.Mode >= 0:
			copied.mode = n.mode.Type() | permissions(c.Mode)
		}
	}
	if n.isDir() {
		copied.children = map[string]*inode{}
	}
	return &copied
}

func named(owner string) bool { return strings.Trim(owner, "0123456789:") != "" }

// permissions turns the numbers of chmod into Go's.
func permissions(chmod int32) fs.FileMode {
	perm := fs.FileMode(chmod).Perm()
	for bit, mode := range map[int32]fs.FileMode{
		0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky,
	} {
		if chmod&bit != 0 {
			perm |= mode
		}
	}
	return perm
}
