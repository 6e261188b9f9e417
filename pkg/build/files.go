package build

// What earlier hashes found, by stat: an unchanged file is not read again, and a context is walked
// again only if its folders have other files. Else it costs one stat a file.

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// statResolution is how old a change must be before its stat can be trusted: file systems keep time
// in steps of up to 2 s, and two writes within a step look alike.
const statResolution = 2 * time.Second

// fileStat is the stat of a path; times are in nanoseconds since 1970.
type fileStat struct {
	size, mtime, ctime int64
	inode              uint64
	mode               uint32
}

// stat follows links unless unix.AT_SYMLINK_NOFOLLOW is in flags.
func stat(path string, flags int) (fileStat, error) {
	return statBy(path, func(s *unix.Stat_t) error { return unix.Fstatat(unix.AT_FDCWD, path, s, flags) })
}

// statOpen is the stat of what was opened, whatever its path leads to by now.
func statOpen(file *os.File) (fileStat, error) {
	return statBy(file.Name(), func(s *unix.Stat_t) error { return unix.Fstat(int(file.Fd()), s) })
}

func statBy(path string, call func(*unix.Stat_t) error) (fileStat, error) {
	var s unix.Stat_t
	err := call(&s)
	for errors.Is(err, unix.EINTR) { // as network file systems may answer
		err = call(&s)
	}
	if err != nil {
		return fileStat{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	//nolint:unconvert // the mode's type differs between systems
	return fileStat{s.Size, s.Mtim.Nano(), s.Ctim.Nano(), s.Ino, uint32(s.Mode)}, nil
}

// trustedAt reports whether any write after t shows in a later stat. Tools set the mtime, so it
// counts only where there is no ctime.
func (s fileStat) trustedAt(t time.Time) bool {
	return t.Sub(time.Unix(0, cmp.Or(s.ctime, s.mtime))) > statResolution
}

// fileDigests holds the knownFile of each path whose stat could be trusted.
type fileDigests struct{ known sync.Map }

type knownFile struct {
	stat   fileStat
	digest string
}

// digest returns the sha256 of the file's content, hex, and its stat from before it was read. Only
// a regular file is opened: BuildKit is sent a socket as an empty file.
func (d *fileDigests) digest(ctx context.Context, path string) (digest string, now fileStat, err error) {
	now, err = stat(path, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return "", now, err
	}
	sum := sha256.New()
	if now.mode&unix.S_IFMT != unix.S_IFREG {
		return hex.EncodeToString(sum.Sum(nil)), now, nil
	}
	if known, ok := d.known.Load(path); ok && known.(knownFile).stat == now {
		return known.(knownFile).digest, now, nil
	}
	begun := time.Now()
	file, err := openFile(path)
	if err != nil {
		return "", now, err
	}
	defer func() { _ = file.Close() }() // only read
	if now, err = statOpen(file); err != nil {
		return "", now, err
	}
	block := make([]byte, min(max(now.size, 512), 32<<10)) // small for a small file
	if _, err := io.CopyBuffer(sum, files.UntilDone(ctx, file), block); err != nil {
		return "", now, err
	}
	digest = hex.EncodeToString(sum.Sum(nil))
	if now.trustedAt(begun) {
		d.known.Store(path, knownFile{now, digest})
	}
	return digest, now, nil
}

// openFile opens a file that was a regular one a moment ago. If it no longer is, fs.ErrNotExist is
// in the error.
func openFile(path string) (*os.File, error) {
	file, err := files.Open(path)
	if errors.Is(err, files.ErrNotRegular) {
		err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return file, err
}

// hashedContext is what a part of a build context held.
type hashedContext struct {
	sum, stamp string
	files      []*contextFile   // folders before what is in them
	folders    []*contextFolder // that were read
}

// contextFile is a file, folder or other entry of a build context, as a build is sent it.
type contextFile struct {
	path     string   // relative to the context, with slashes
	source   string   // absolute
	stat     fileStat // from before it was read
	trusted  bool     // any later change shows in a stat
	mode     fs.FileMode
	xattrs   []xattr
	content  []string // the digest of a file, the target of a link, the numbers of a device
	isSocket bool     // it is sent as an empty file
}

type xattr struct{ key, value string }

func (f *contextFile) write(sum io.Writer) {
	writeFields(sum, "file", f.path, f.mode.String())
	for _, xattr := range f.xattrs {
		writeFields(sum, "xattr", xattr.key, xattr.value)
	}
	writeFields(sum, f.content...)
}

// contextFolder is a folder of a build context, whether it is sent or not.
type contextFolder struct {
	source  string   // absolute
	stat    fileStat // from before it was read
	trusted bool     // any later change shows in a stat
	entries string   // the sum of their names and types
}

// list walks the context, and takes from h the files that it knows.
func (h *hashedContext) list(ctx context.Context, root string, patterns, excludes []string) (*hashedContext, error) {
	known := make(map[string]*contextFile, len(h.files))
	for _, file := range h.files {
		known[file.path] = file
	}
	folder, err := fsutil.NewFS(root)
	if err != nil {
		return nil, err
	}
	now := &hashedContext{}
	filtered, err := fsutil.NewFilterFS(contextFS{folder, root, now},
		&fsutil.FilterOpt{IncludePatterns: patterns, ExcludePatterns: excludes})
	if err != nil {
		return nil, err
	}
	err = filtered.Walk(ctx, "", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() && files.IsEphemeral(filepath.Base(path)) {
			return err // an editor that opens a file changes nothing
		}
		file := known[path]
		if file == nil {
			source := filepath.Join(root, path)
			file = &contextFile{path: source[len(source)-len(path):], source: source}
		}
		now.files = append(now.files, file)
		return nil
	})
	return now, err
}

var errOthers = errors.New("other files than before")

// listAgain looks at the folders only. If they have other files, that is an error.
func (h *hashedContext) listAgain(ctx context.Context) (*hashedContext, error) {
	if len(h.folders) == 0 {
		return nil, errOthers
	}
	now := &hashedContext{files: slices.Clone(h.files), folders: slices.Clone(h.folders)}
	return now, sideBySide(ctx, now.folders, func(folder **contextFolder) error {
		found, _, err := (*folder).look()
		if err == nil && found.entries != (*folder).entries {
			err = errOthers
		}
		*folder = found
		return err
	})
}

func (h *hashedContext) sumUp() {
	sum, stamp := sha256.New(), sha256.New()
	for _, file := range h.files {
		file.write(sum)
		_ = binary.Write(stamp, binary.LittleEndian, file.stat) // a hash never fails to write
	}
	for _, folder := range h.folders {
		_ = binary.Write(stamp, binary.LittleEndian, folder.stat)
	}
	h.sum, h.stamp = hex.EncodeToString(sum.Sum(nil)), hex.EncodeToString(stamp.Sum(nil))
}

// look returns what is there now, which is f if it has not changed.
func (f *contextFile) look(ctx context.Context, digests *fileDigests) (*contextFile, error) {
	now, err := stat(f.source, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || f.trusted && f.stat == now {
		return f, err
	}
	found := &contextFile{path: f.path, source: f.source, stat: now, trusted: now.trustedAt(time.Now())}
	info, err := fsutil.Stat(f.source) // as BuildKit is sent it
	if err != nil {
		return nil, err
	}
	found.mode = fs.FileMode(info.Mode)
	for _, key := range slices.Sorted(maps.Keys(info.Xattrs)) {
		// Others belong to the machine, such as SELinux's labels.
		if key == "security.capability" || strings.HasPrefix(key, "user.") {
			found.xattrs = append(found.xattrs, xattr{key, string(info.Xattrs[key])})
		}
	}
	switch {
	case found.mode.IsDir():
	case found.mode.IsRegular():
		digest, read, err := digests.digest(ctx, f.source)
		if err != nil {
			return nil, err
		}
		found.trusted = found.trusted && read == now // else another file was in its place for a moment
		found.content, found.isSocket = []string{digest}, read.mode&unix.S_IFMT != unix.S_IFREG
	case found.mode&fs.ModeSymlink != 0:
		found.content = []string{info.Linkname}
	case found.mode&fs.ModeDevice != 0: // recreated and never opened, as is a named pipe
		found.content = []string{fmt.Sprint(info.Devmajor, info.Devminor)}
	}
	return found, nil
}

// look returns the folder as it is now, which is f if it has not changed, and else what is in it.
func (f *contextFolder) look() (*contextFolder, []fs.DirEntry, error) {
	now, err := stat(f.source, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || f.trusted && f.stat == now {
		return f, nil, err
	}
	// Another one may be in its place for a moment, so what counts is the folder that is read.
	folder, err := os.OpenFile(f.source, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return f, nil, err
	}
	defer func() { _ = folder.Close() }() // only read
	if now, err = statOpen(folder); err != nil {
		return f, nil, err
	}
	found := &contextFolder{source: f.source, stat: now, trusted: now.trustedAt(time.Now())}
	entries, err := folder.ReadDir(-1)
	if err != nil {
		return f, nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	sum := sha256.New()
	for _, entry := range entries {
		writeFields(sum, entry.Name(), entry.Type().String())
	}
	found.entries = string(sum.Sum(nil))
	return found, entries, nil
}

// sideBySide calls do for each of a list, until there is an error.
func sideBySide[T any](ctx context.Context, list []T, do func(*T) error) error {
	workers, ctx := event.NewGroup(ctx)
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for batch := range slices.Chunk(list, 256) {
		workers.Go(func() error {
			for i := range batch {
				if err := do(&batch[i]); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return workers.Wait()
}

// contextFS is a build context without the files' content, for a filter. It adds the folders that
// it reads to a hashedContext.
type contextFS struct {
	fsutil.FS
	root string
	into *hashedContext
}

func (c contextFS) Walk(ctx context.Context, target string, walk fs.WalkDirFunc) error {
	err := c.walk(ctx, target, nil, walk)
	if errors.Is(err, fs.SkipDir) { // the context itself is gone
		return nil
	}
	return err
}

func (c contextFS) walk(ctx context.Context, name string, folder fs.DirEntry, walk fs.WalkDirFunc) error {
	found, entries, err := (&contextFolder{source: filepath.Join(c.root, name)}).look()
	c.into.folders = append(c.into.folders, found)
	if err != nil {
		return walk(name, folder, err)
	}
	for _, entry := range entries {
		entry := contextEntry{entry, filepath.Join(name, entry.Name())}
		err := cmp.Or(ctx.Err(), walk(entry.path, entry, nil))
		if err == nil && entry.IsDir() {
			err = c.walk(ctx, entry.path, entry, walk)
		}
		if err != nil && !errors.Is(err, fs.SkipDir) { // which a filter returns also for what is gone
			return err
		}
	}
	return nil
}

// contextEntry has no more than a path and a type.
type contextEntry struct {
	fs.DirEntry
	path string
}

func (e contextEntry) Info() (fs.FileInfo, error) {
	return &fsutil.StatInfo{Stat: &types.Stat{Path: e.path, Mode: uint32(e.Type())}}, nil
}

// skipVanished lets a walk go on after a file that has just been removed, for which fsutil would
// leave out the rest of the folder.
func skipVanished(walk fs.WalkDirFunc) fs.WalkDirFunc {
	return func(path string, entry fs.DirEntry, err error) error {
		then := walk(path, entry, err)
		if entry != nil && !entry.IsDir() {
			return ignoreMissing(then)
		}
		return then
	}
}

func ignoreMissing(err error) error {
	if isMissing(err) {
		return nil
	}
	return err
}

// isMissing reports whether there is nothing at a path: no such name, or a parent that is no
// folder.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
