package build

// What earlier hashes found, by stat: an unchanged file is not read again, and an unchanged context
// costs one stat a file, without a walk.

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"
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

// stat calls unix.Stat, which follows links, or unix.Lstat, which does not.
func stat(path string, call func(string, *unix.Stat_t) error) (fileStat, error) {
	var s unix.Stat_t
	err := call(path, &s)
	for errors.Is(err, unix.EINTR) { // as network file systems may answer
		err = call(path, &s)
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
	now, err = stat(path, unix.Lstat)
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
	if _, err := io.Copy(sum, files.UntilDone(ctx, file)); err != nil {
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
	files      []contextFile // folders before what is in them
	// The files and links that count, and the folders that were read: their stat changes when
	// something in them is made, removed or renamed.
	seen  []seenPath
	begun time.Time
}

// contextFile is a file, folder or other entry of a build context, as a build is sent it.
type contextFile struct {
	path     string // relative to the context, with slashes
	source   string // absolute
	mode     fs.FileMode
	size     int64
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

type seenPath struct {
	path string // absolute
	stat fileStat
}

// add has to be called before a folder is read.
func (h *hashedContext) add(path string) error {
	now, err := stat(path, unix.Lstat)
	if err != nil {
		return ignoreMissing(err)
	}
	h.seen = append(h.seen, seenPath{path, now})
	return nil
}

// trusted reports whether any later change shows in a stat.
func (h *hashedContext) trusted() bool {
	return !slices.ContainsFunc(h.seen, func(seen seenPath) bool { return !seen.stat.trustedAt(h.begun) })
}

var errChanged = errors.New("changed")

func (h *hashedContext) unchanged(ctx context.Context) bool {
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for batch := range slices.Chunk(h.seen, 256) {
		workers.Go(func() error {
			return event.Guard(func() error {
				for _, seen := range batch {
					if now, err := stat(seen.path, unix.Lstat); err != nil || now != seen.stat {
						return errChanged
					}
				}
				return ctx.Err()
			})
		})
	}
	return workers.Wait() == nil
}

// recorder adds the folders that a walk reads to a hashedContext, before they are read.
type recorder struct {
	fsutil.FS
	root string
	into *hashedContext
}

func (r recorder) Walk(ctx context.Context, target string, walk fs.WalkDirFunc) error {
	if err := r.into.add(filepath.Join(r.root, target)); err != nil {
		return err
	}
	return r.FS.Walk(ctx, target, skipVanished(func(path string, entry fs.DirEntry, err error) error {
		then := walk(path, entry, err)
		if then == nil && err == nil && entry != nil && entry.IsDir() {
			return r.into.add(filepath.Join(r.root, path))
		}
		return then
	}))
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
