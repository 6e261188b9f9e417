package journal

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// RemoveGone removes the journals of clusters that are gone, and returns the names of their files.
// isGone decides by the cluster that Open was given, and by a Place that was recorded; a cluster
// with several places has to be gone from all of them. A journal without a place stays, and so does
// one that is open or cannot be read.
func RemoveGone(dir string, isGone func(cluster, place string) bool) (removed []string, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+extension))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, path := range paths {
		name := filepath.Base(path)
		escaped, _, ok := strings.Cut(name, "_")
		cluster, err := url.PathUnescape(escaped)
		if !ok || err != nil || !allGone(path, cluster, isGone) {
			continue
		}
		lock, err := acquire(path+lockExtension, name)
		if err != nil {
			continue // it is in use
		}
		if allGone(path, cluster, isGone) { // as before, now that nobody writes to it
			if err := removeFiles(path); err != nil {
				errs = append(errs, err)
			} else {
				removed = append(removed, name)
			}
		}
		_ = lock.Close()
	}
	return removed, errors.Join(errs...)
}

// allGone tells whether the cluster of the journal at path is gone from all its places.
func allGone(path, cluster string, isGone func(cluster, place string) bool) bool {
	records, err := read(path)
	known := false
	for _, l := range records {
		if l.Kind != Place {
			continue
		}
		if known = true; !isGone(cluster, l.Name) {
			return false
		}
	}
	return known && err == nil
}

// removeFiles removes a journal's files; the caller has its lock. The lock's file goes last.
func removeFiles(path string) error {
	for _, file := range []string{path, path + ".new", path + lockExtension} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
