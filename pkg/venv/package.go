package venv

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/devloop/devloop/pkg/files"
)

// maxRecord is how much of the list of a library's files is read, in bytes.
const maxRecord = 16 << 20

// Package returns where the environment has a package of this name installed, "" if it has none,
// and which library it is of, "" if that is not known. A link to source, the user's own files, is
// none, and neither is an editable install.
func (e *Environment) Package(name, source string) (path, library string) {
	own, _ := os.Stat(source)
	for _, folder := range e.folders {
		path = filepath.Join(folder, name)
		if _, err := os.Stat(filepath.Join(path, "__init__.py")); err != nil {
			continue
		}
		if info, err := os.Stat(path); err == nil && own != nil && os.SameFile(info, own) {
			continue
		}
		return path, ownerOf(folder, name)
	}
	return "", ""
}

// ownerOf returns the library that lists a package among its files, as "name version".
func ownerOf(folder, name string) string {
	records, _ := filepath.Glob(filepath.Join(quotedMeta(folder), "*.dist-info", "RECORD")) // the pattern is valid
	for _, record := range records {
		if listsFile(record, name+"/__init__.py") {
			library, version, _ := readLibrary(filepath.Dir(record))
			return strings.TrimSpace(library + " " + version)
		}
	}
	return ""
}

func listsFile(record, name string) bool {
	file, err := files.Open(record)
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }() // only read
	lines := bufio.NewScanner(io.LimitReader(file, maxRecord))
	for lines.Scan() {
		if path, _, _ := strings.Cut(lines.Text(), ","); path == name {
			return true
		}
	}
	return false
}

// quotedMeta quotes what has a meaning in patterns.
func quotedMeta(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
