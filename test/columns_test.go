package test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"
)

// Comments are prose, which is hard to read in long lines. The linter bounds code, and comments
// behind it.
func TestCommentsAreNarrow(t *testing.T) {
	const columns = 100
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == filepath.Join("..", "test", "cluster") {
			return fs.SkipDir // a changed file there builds Kubernetes anew
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for number, line := range bytes.Split(text, []byte("\n")) {
			comment := bytes.TrimLeft(line, "\t")
			isDirective := bytes.HasPrefix(comment, []byte("//go:"))
			if width := utf8.RuneCount(line); width > columns && bytes.HasPrefix(comment, []byte("//")) && !isDirective {
				t.Errorf("%s:%d: a comment of %d columns, not %d", path, number+1, width, columns)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
