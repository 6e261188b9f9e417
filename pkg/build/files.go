// What was hashed before, by what stat says of it: an unchanged file is not read again, and an unchanged context not even walked, so that it
// costs one stat a file.
package build

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
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tonistiigi/fsutil"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// settled is how old a change must be before its stat can be trusted: file systems keep time in steps of up to 2 s, and two
// writes within a step look alike.
const settled = 2 * time.Second

// fileStat is what stat says of a file or a folder; times are in nanoseconds.
type fileStat struct {
	size, mtime, ctime int64
	inode              uint64
}

func statOf(info os.FileInfo) fileStat {
	stat := fileStat{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		stat.inode = sys.Ino
		stat.ctime = changeTime(sys).UnixNano()
	}
	return stat
}

// settledAt tells whether the last change was long enough before a time. The mtime is what people and programs set it to, and counts only
// where there is nothing better.
func (s fileStat) settledAt(at time.Time) bool {
	return at.Sub(time.Unix(0, cmp.Or(s.ctime, s.mtime))) > settled
}

// fileDigests are those of files whose stat could be trusted. It is safe for concurrent use.
type fileDigests struct {
	mu    sync.Mutex
	known map[string]knownFile // by absolute path
}

type knownFile struct {
	stat   fileStat
	digest string
}

// digest returns the sha256 of the file's content, hex, and what stat said before it was read. Only
// a regular file is opened: a socket, which BuildKit is sent as an empty file, has no content.
func (d *fileDigests) digest(ctx context.Context, path string) (digest string, stat fileStat, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", stat, err
	}
	stat = statOf(info)
	if !info.Mode().IsRegular() {
		return hex.EncodeToString(sha256.New().Sum(nil)), stat, nil
	}
	d.mu.Lock()
	known, ok := d.known[path]
	d.mu.Unlock()
	if ok && known.stat == stat {
		return known.digest, stat, nil
	}
	file, err := openFile(path)
	if err != nil {
		return "", stat, err
	}
	defer func() { _ = file.Close() }() // only read
	if info, err = file.Stat(); err != nil {
		return "", stat, err
	}
	stat = statOf(info)
	opened := time.Now()
	sum := sha256.New()
	if _, err := io.Copy(sum, files.UntilDone(ctx, file)); err != nil {
		return "", stat, err
	}
	digest = hex.EncodeToString(sum.Sum(nil))
	if stat.settledAt(opened) {
		d.mu.Lock()
		d.known[path] = knownFile{stat, digest}
		d.mu.Unlock()
	}
	return digest, stat, nil
}

// openFile opens a file that was a regular one a moment ago. If it is none by now, there is no such
// file any more.
func openFile(path string) (*os.File, error) {
	file, err := files.Open(path)
	if errors.Is(err, files.ErrNotRegular) {
		err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return file, err
}

// contexts are what was last found in build contexts, by folder and patterns. It is safe for concurrent use.
type contexts struct {
	mu    sync.Mutex
	known map[string]*hashedContext
}

func (c *contexts) get(key string) *hashedContext {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[key]
}

func (c *contexts) put(key string, found *hashedContext) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[key] = found
}

// hashedContext is what a part of a build context held.
type hashedContext struct {
	sum, stamp string
	// Everything that was looked at: the files and links that count, and the folders that were read, whose stat changes when something is made,
	// removed or renamed in them.
	seen  []seenPath
	begun time.Time
}

type seenPath struct {
	path string // absolute
	stat fileStat
}

// see has to be called before a folder is read.
func (h *hashedContext) see(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return unlessGone(err)
	}
	h.seen = append(h.seen, seenPath{path, statOf(info)})
	return nil
}

// settled tells whether a later change to any of it shows in a stat.
func (h *hashedContext) settled() bool {
	for _, seen := range h.seen {
		if !seen.stat.settledAt(h.begun) {
			return false
		}
	}
	return true
}

// unchanged tells whether all of it is as it was.
func (h *hashedContext) unchanged(ctx context.Context) bool {
	const batch = 256
	var next atomic.Int64
	var differs atomic.Bool
	var looking sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(h.seen)/batch+1) {
		looking.Go(func() {
			err := event.Guard(func() error {
				for {
					to := int(next.Add(batch))
					if to-batch >= len(h.seen) || differs.Load() {
						return nil
					}
					for _, seen := range h.seen[to-batch : min(to, len(h.seen))] {
						if info, err := os.Lstat(seen.path); err != nil || statOf(info) != seen.stat {
							differs.Store(true)
						}
					}
					if ctx.Err() != nil {
						differs.Store(true)
					}
				}
			})
			if err != nil {
				differs.Store(true)
			}
		})
	}
	looking.Wait()
	return !differs.Load()
}

// folders notes the folders that a walk reads, before it does.
type folders struct {
	fsutil.FS
	root string
	into *hashedContext
}

func (f folders) Walk(ctx context.Context, target string, walk fs.WalkDirFunc) error {
	if err := f.into.see(filepath.Join(f.root, target)); err != nil {
		return err
	}
	return f.FS.Walk(ctx, target, wholeFolders(func(path string, entry fs.DirEntry, err error) error {
		then := walk(path, entry, err)
		if then == nil && err == nil && entry != nil && entry.IsDir() {
			return f.into.see(filepath.Join(f.root, path))
		}
		return then
	}))
}
