// A cache of file digests by what stat says of a file, so that an unchanged context costs one stat a file.
package build

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// settled is how old a change must be before its stat can be trusted: file systems keep time in steps of up to 2 s, and two
// writes within a step look alike.
const settled = 2 * time.Second

type fileStat struct {
	size, mtime, ctime int64
	inode              uint64
}

type fileDigests struct {
	mu    sync.Mutex
	known map[string]knownFile // by absolute path
}

type knownFile struct {
	stat   fileStat
	digest string
}

// digest returns the sha256 of the file's content, hex, and what stat said before it was read.
func (d *fileDigests) digest(path string) (digest string, stat fileStat, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", stat, err
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return "", stat, err
	}
	stat = statOf(info)
	d.mu.Lock()
	known, ok := d.known[path]
	d.mu.Unlock()
	if ok && known.stat == stat {
		return known.digest, stat, nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", stat, err
	}
	digest = hex.EncodeToString(sum.Sum(nil))
	if time.Since(time.Unix(0, max(stat.mtime, stat.ctime))) > settled {
		d.mu.Lock()
		d.known[path] = knownFile{stat, digest}
		d.mu.Unlock()
	}
	return digest, stat, nil
}

func statOf(info os.FileInfo) fileStat {
	stat := fileStat{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		stat.inode = sys.Ino
		stat.ctime = changeTime(sys).UnixNano()
	}
	return stat
}
