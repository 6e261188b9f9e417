package config

import (
	"os"
	"path/filepath"
	"syscall"
)

// FileAbove returns the devloop.yaml of the nearest folder above dir, as a path relative to dir, ""
// if there is none. It is ours if it lies in the same git repository, and belongs to this user with
// its folder and the repository: a file with commands that somebody else has put into /tmp, or a
// link to a file of this user's, is not run by whoever works below.
func FileAbove(dir string) (file string, ours bool) {
	at, err := filepath.Abs(dir)
	if err == nil {
		at, err = filepath.EvalSymlinks(at) // as .. in the path that is returned
	}
	if err != nil {
		return "", false
	}
	for up := ""; ; {
		git := filepath.Join(at, ".git")
		_, err := os.Lstat(git)
		isRoot := err == nil
		if file != "" && (isRoot || !ours) {
			return file, ours && isRoot && isOurs(git)
		}
		if at == filepath.Dir(at) {
			return file, false
		}
		at, up = filepath.Dir(at), filepath.Join(up, "..")
		above := filepath.Join(at, FileName)
		if info, err := os.Stat(above); file == "" && err == nil && info.Mode().IsRegular() {
			file, ours = filepath.Join(up, FileName), !isRoot && isOurs(above) && isOurs(at)
		}
	}
}

// isOurs tells whether a file belongs to this user; a link, with what it leads to.
func isOurs(path string) bool {
	for _, stat := range []func(string) (os.FileInfo, error){os.Lstat, os.Stat} {
		info, err := stat(path)
		if err != nil {
			return false
		}
		if owner, known := info.Sys().(*syscall.Stat_t); !known || int(owner.Uid) != os.Getuid() {
			return false
		}
	}
	return true
}
