package files

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "file")
	text := func(text string, err error) func(io.Writer) error {
		return func(w io.Writer) error {
			_, writeErr := io.WriteString(w, text)
			return errors.Join(err, writeErr)
		}
	}
	if err := Replace(path, text("a", nil)); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	if err := Replace(path, text("half", failed)); !errors.Is(err, failed) {
		t.Errorf("the error is %v", err)
	}
	if content, err := os.ReadFile(path); string(content) != "a" || err != nil {
		t.Errorf("after a failure it holds %q, %v", content, err)
	}
	if err := Replace(path, text("b", nil)); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(path); string(content) != "b" || err != nil {
		t.Errorf("it holds %q, %v", content, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("it has mode %v, %v", info.Mode(), err)
	}
	if all, err := os.ReadDir(filepath.Dir(path)); len(all) != 1 || err != nil {
		t.Errorf("there is %v, %v", all, err)
	}
}
