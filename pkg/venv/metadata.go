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

const (
	// headerLength is how much of a metadata file is read, in bytes: the name and version come
	// first.
	headerLength = 1 << 20
	// headerLine is how much of each line counts, in bytes.
	headerLine = 4 << 10
)

var (
	separators = regexp.MustCompile(`[-_.]+`)
	isName     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	isVersion  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.!+_-]*$`)
)

// normalized returns the canonical form of a library's name (PEP 503).
func normalized(name string) string {
	return strings.ToLower(separators.ReplaceAllString(name, "-"))
}

// readLibrary returns the name and version of what is installed at path, "" if that is no library,
// or only a leftover. Whether path is a folder or a file depends on the tool that installed it.
func readLibrary(path string) (name, version string, err error) {
	base := filepath.Base(path)
	if strings.HasPrefix(base, "~") || strings.HasPrefix(base, ".") { // pip is removing it
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
		return "", "", nil // it may be being removed
	case err != nil:
		return "", "", err
	}
	defer func() { _ = file.Close() }() // only read
	return readHeader(file)
}

// readHeader returns the name and version in a metadata file, which begins like a mail. Each is ""
// if it is missing or invalid.
func readHeader(from io.Reader) (name, version string, err error) {
	lines := bufio.NewReaderSize(io.LimitReader(from, headerLength), headerLine)
	fields := map[string]string{}
	for len(fields) < 2 {
		line, long, err := lines.ReadLine()
		if errors.Is(err, io.EOF) || err == nil && len(line) == 0 {
			break // an empty line ends the header
		}
		if err != nil {
			return "", "", err
		}
		key, value, found := strings.Cut(string(line), ":")
		key = strings.ToLower(key)
		if _, known := fields[key]; found && !known && (key == "name" || key == "version") {
			fields[key] = strings.TrimSpace(value)
		}
		for long && err == nil {
			_, long, err = lines.ReadLine()
		}
	}
	if isName.MatchString(fields["name"]) {
		name = normalized(fields["name"])
	}
	if isVersion.MatchString(fields["version"]) {
		version = fields["version"]
	}
	return name, version, nil
}
