package build

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"io"
)

// isArchive tells whether ADD would unpack the file, as BuildKit does. What only programs beyond
// this one can unpack counts as an archive.
func (f *contextFile) isArchive() bool {
	if !f.mode.IsRegular() || f.isSocket {
		return false
	}
	file, err := openFile(f.source)
	if err != nil {
		return false // the build says so
	}
	defer func() { _ = file.Close() }() // only read
	content := bufio.NewReader(file)
	start, _ := content.Peek(6) // a shorter file is no archive
	var unpacked io.Reader = content
	switch {
	case bytes.HasPrefix(start, []byte("\x1f\x8b\x08")):
		if unpacked, err = gzip.NewReader(content); err != nil {
			return false
		}
	case bytes.HasPrefix(start, []byte("BZh")):
		unpacked = bzip2.NewReader(content)
	case bytes.HasPrefix(start, []byte("\xfd7zXZ\x00")), bytes.HasPrefix(start, []byte("\x28\xb5\x2f\xfd")):
		return true
	}
	_, err = tar.NewReader(unpacked).Next()
	return err == nil
}
