package tree

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// CheckFile returns why path, relative to dir, is not a regular file; "" if it is, or if path is
// empty, which the decoder has reported.
func (r *Report) CheckFile(dir, path string) string {
	return r.check(dir, path, "file", fs.FileMode.IsRegular)
}

// CheckFolder is CheckFile for a folder.
func (r *Report) CheckFolder(dir, path string) string {
	return r.check(dir, path, "folder", fs.FileMode.IsDir)
}

// check remembers what it found: aliases can name the same path very often.
func (r *Report) check(dir, path, kind string, isKind func(fs.FileMode) bool) string {
	message, known := r.checked[kind+" "+path]
	if known || path == "" {
		return message
	}
	full := Abs(dir, path)
	info, err := os.Stat(full)
	switch {
	case err == nil && isKind(info.Mode()):
	case err == nil:
		message = fmt.Sprintf("%q is not a %s", path, kind)
	case strings.ContainsRune(path, 0):
		message = fmt.Sprintf("%q is not a path", path)
	default:
		r.missing = append(r.missing, full)
		message = fmt.Sprintf("%q cannot be read: %v", path, err)
		if os.IsNotExist(err) {
			message = fmt.Sprintf("there is no %s %q%s", kind, path, DidYouMean(path, siblings(full, path)))
		}
	}
	if r.checked == nil {
		r.checked = map[string]string{}
	}
	r.checked[kind+" "+path] = message
	return message
}

// siblings returns what lies in the folder of full, as path would name it.
func siblings(full, path string) []string {
	entries, _ := os.ReadDir(filepath.Dir(full)) // they are only suggestions
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = filepath.Join(filepath.Dir(path), e.Name())
	}
	return names
}

// SimilarFile returns the name of what lies in the folder of path, absolute, if name, which is
// missing there, is a typo of it; "" if there is nothing.
func SimilarFile(name, path string) string {
	if similar := Similar(name, siblings(path, name)); IsTypo(name, similar) {
		return similar
	}
	return ""
}

// Abs returns path, relative to dir, as an absolute path.
func Abs(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
