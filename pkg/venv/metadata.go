package venv

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/devloop/devloop/pkg/files"
)

// This file is what one installed library says of itself, in files whose beginning is a header as that of a mail.

const (
	// headerLength is how much of such a file is looked at, in bytes: name and version are in its first lines.
	headerLength = 1 << 20
	// headerLine is how much of one of its lines is.
	headerLine = 4 << 10
)

// separators are what names may be written with instead of one another.
var separators = regexp.MustCompile(`[-_.]+`)

// isName and isVersion are what may be compared.
var (
	isName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	isVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.!+_-]*$`)
)

// normalized is the one way to write a library's name, as PEP 503 has it.
func normalized(name string) string {
	return strings.ToLower(separators.ReplaceAllString(name, "-"))
}

// readHeader returns the library's name and version, "" for what is not there or makes no sense.
func readHeader(from io.Reader) (name, version string, err error) {
	lines := bufio.NewReaderSize(io.LimitReader(from, headerLength), headerLine)
	seen := map[string]bool{} // the first of a key counts
	for cut := false; ; {
		line, err := lines.ReadSlice('\n')
		text, rest := strings.TrimRight(string(line), "\r\n"), cut
		cut = errors.Is(err, bufio.ErrBufferFull) // the rest of a long line is left out
		if err != nil && !cut && !errors.Is(err, io.EOF) {
			return "", "", err
		}
		if text == "" && !rest || len(seen) == 2 { // the header ends with an empty line
			break
		}
		key, value, ok := strings.Cut(text, ":")
		key, value = strings.ToLower(key), strings.TrimSpace(value)
		switch {
		case rest || !ok || seen[key]:
		case key == "name":
			name, seen[key] = value, true
		case key == "version":
			version, seen[key] = value, true
		}
		if err != nil && !cut {
			break
		}
	}
	if !isName.MatchString(name) {
		name = ""
	}
	if !isVersion.MatchString(version) {
		version = ""
	}
	return normalized(name), version, nil
}

// readLibrary returns the name and version of what is installed at path, "" if that is no library, or only the leftovers of one. Whether it may be
// a folder or a file depends on the tool that installed it.
func readLibrary(path string) (name, version string, err error) {
	base := filepath.Base(path)
	if strings.HasPrefix(base, "~") || strings.HasPrefix(base, ".") { // how pip names what it is just removing
		return "", "", nil
	}
	switch filepath.Ext(base) {
	case ".dist-info":
		path = filepath.Join(path, "METADATA")
	case ".egg-info":
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			path = filepath.Join(path, "PKG-INFO")
		}
	case ".egg":
		path = filepath.Join(path, "EGG-INFO", "PKG-INFO")
	default:
		return "", "", nil
	}
	file, err := files.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR),
		errors.Is(err, files.ErrNotRegular):
		return "", "", nil // it may just be going away
	case err != nil:
		return "", "", err
	}
	defer func() { _ = file.Close() }() // only read
	return readHeader(file)
}
