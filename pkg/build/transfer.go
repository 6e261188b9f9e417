package build

import (
	"context"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/devloop/devloop/pkg/event"
)

// transferFS is a folder as BuildKit is sent it. BuildKit keeps a copy and asks for the files whose
// size or time differ from it, but a file can change and keep both (rsync -t, cp -p, a second save
// within the clock's step). So the nanoseconds of a time, which images do not keep, stand for the
// content.
type transferFS struct {
	fsutil.FS
	root  string
	files *fileDigests
}

func newTransferFS(root string, files *fileDigests) (*transferFS, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	folder, err := fsutil.NewFS(root)
	return &transferFS{folder, root, files}, err
}

// Walk guards against panics: BuildKit's goroutines do not.
func (t *transferFS) Walk(ctx context.Context, target string, walk fs.WalkDirFunc) error {
	return event.Guard(func() error {
		return t.FS.Walk(ctx, target, skipVanished(func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry != nil && entry.Type().IsRegular() {
				entry = transferFile{entry, ctx, filepath.Join(t.root, path), t.files}
			}
			return walk(path, entry, err)
		}))
	})
}

// Open opens regular files only. BuildKit is sent no content of a file that cannot be opened, such
// as a socket.
func (t *transferFS) Open(path string) (io.ReadCloser, error) {
	return openFile(filepath.Join(t.root, path))
}

// transferFile is read only if BuildKit asks for its Info.
type transferFile struct {
	fs.DirEntry
	ctx   context.Context // of the walk
	path  string
	files *fileDigests
}

func (f transferFile) Info() (fs.FileInfo, error) {
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
	content, err := strconv.ParseUint(digest[:15], 16, 64) // as many hex digits as a duration holds
	if err != nil {
		return nil, err
	}
	stat.ModTime = time.Unix(0, stat.ModTime).Truncate(time.Second).Add(time.Duration(content) % time.Second).UnixNano()
	return &fsutil.StatInfo{Stat: stat}, nil
}
