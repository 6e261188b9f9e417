package tree

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Files and folders that a configuration names.

func (r *Report) File(dir, path string) string {
	return r.exists(dir, path, "file", fs.FileMode.IsRegular)
}

func (r *Report) Folder(dir, path string) string {
	return r.exists(dir, path, "folder", fs.FileMode.IsDir)
}

// exists returns why path is not what is wanted, or "": also for "", of which something was said already. It looks once for each path: aliases can name one very often.
func (r *Report) exists(dir, path, kind string, is func(fs.FileMode) bool) string {
	message, known := r.looked[kind+" "+path]
	if !known && path != "" {
		message = r.look(dir, path, kind, is)
		if r.looked == nil {
			r.looked = map[string]string{}
		}
		r.looked[kind+" "+path] = message
	}
	return message
}

func (r *Report) look(dir, path, kind string, is func(fs.FileMode) bool) string {
	full := Abs(dir, path)
	info, err := os.Stat(full)
	switch {
	case err == nil && is(info.Mode()):
		return ""
	case err == nil:
		return fmt.Sprintf("%q is not a %s", path, kind)
	case strings.ContainsRune(path, 0):
		return fmt.Sprintf("%q is not a path", path)
	}
	r.missing = append(r.missing, full)
	var beside []string
	entries, _ := os.ReadDir(filepath.Dir(full)) // only for the advice
	for _, e := range entries {
		beside = append(beside, filepath.Join(filepath.Dir(path), e.Name()))
	}
	if os.IsNotExist(err) {
		return fmt.Sprintf("there is no %s %q%s", kind, path, DidYouMean(path, beside))
	}
	return fmt.Sprintf("%q cannot be read: %v", path, err)
}

func Abs(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
