// What BuildKit is sent of a build context.
package build

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/devloop/devloop/pkg/event"
)

// sent is a folder as BuildKit is shown it. BuildKit keeps a copy and asks for the files whose size or time differ from those in it, but a file
// can get other content and keep both (rsync -t, cp -p, a second save within the clock's step). So the nanoseconds of a time, which an image
// does not keep, say what the file holds.
type sent struct {
	fsutil.FS
	root  string
	files *fileDigests
}

func newSent(root string, files *fileDigests) (*sent, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	folder, err := fsutil.NewFS(root)
	return &sent{folder, root, files}, err
}

// Walk is called in goroutines of BuildKit's, which guard nothing.
func (s *sent) Walk(ctx context.Context, target string, walk fs.WalkDirFunc) error {
	return event.Guard(func() error {
		return s.FS.Walk(ctx, target, wholeFolders(func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry != nil && entry.Type().IsRegular() {
				entry = sentFile{entry, ctx, filepath.Join(s.root, path), s.files}
			}
			return walk(path, entry, err)
		}))
	})
}

// Open opens regular files only. Of what cannot be opened, a socket above all, BuildKit is sent no
// content.
func (s *sent) Open(path string) (io.ReadCloser, error) { return openFile(filepath.Join(s.root, path)) }

// sentFile is looked at only where it is sent.
type sentFile struct {
	fs.DirEntry
	ctx   context.Context // of the walk
	path  string
	files *fileDigests
}

func (f sentFile) Info() (fs.FileInfo, error) {
	info, err := f.DirEntry.Info()
	if err != nil {
		return nil, err
	}
	stat, ok := info.Sys().(*types.Stat)
	if !ok {
		return info, nil
	}
	digest, _, err := f.files.digest(f.ctx, f.path)
	if err != nil {
		return nil, err
	}
	content, err := strconv.ParseUint(digest[:15], 16, 64) // of its hex digits, as many as a duration holds
	if err != nil {
		return nil, err
	}
	stat.ModTime = time.Unix(0, stat.ModTime).Truncate(time.Second).Add(time.Duration(content) % time.Second).UnixNano()
	return &fsutil.StatInfo{Stat: stat}, nil
}

// wholeFolders has a walk go on behind a file that was there a moment ago: fsutil would leave out the rest of its folder.
func wholeFolders(walk fs.WalkDirFunc) fs.WalkDirFunc {
	return func(path string, entry fs.DirEntry, err error) error {
		then := walk(path, entry, err)
		if entry != nil && !entry.IsDir() {
			return unlessGone(then)
		}
		return then
	}
}

func unlessGone(err error) error {
	if gone(err) {
		return nil
	}
	return err
}

// gone tells whether there is nothing at a path: its last name is missing, or a folder on the way
// to it is no folder (any more).
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) }
