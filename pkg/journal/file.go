package journal

// The journal's file: JSON lines.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	opRecord = "record"
	opForget = "forget"
)

type line struct {
	Op   string    `json:"op"`
	Kind string    `json:"kind"`
	Name string    `json:"name"`
	Time time.Time `json:"time"`
}

// read returns what the file at path permits, none if there is no file. Half a line at its end is what a crash leaves of
// a record that never returned: nothing was made on its strength, so it is left out.
func read(path string) ([]Entry, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	var entries []Entry
	for n := 1; ; n++ {
		first, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			return entries, nil
		}
		var l line
		if err := json.Unmarshal(first, &l); err != nil {
			return nil, malformed(path, n, err.Error())
		}
		if l.Kind == "" || l.Name == "" {
			return nil, malformed(path, n, "kind or name is missing")
		}
		entries = without(entries, l.Kind, l.Name)
		switch l.Op {
		case opRecord:
			entries = append(entries, Entry{l.Kind, l.Name, l.Time})
		case opForget:
		default:
			return nil, malformed(path, n, fmt.Sprintf("op %q is not known", l.Op))
		}
		text = rest
	}
}

func malformed(path string, n int, what string) error {
	return fmt.Errorf("%s:%d: this line of the journal cannot be read: %s; remove the line: "+
		"devloop then leaves alone what it was about", path, n, what)
}

// replace puts a file with just these entries at path and returns it open, with its size. At any moment, a crash leaves
// either the old file or the new one.
func replace(path string, entries []Entry) (file *os.File, size int64, err error) {
	var text bytes.Buffer
	for _, e := range entries {
		if err := json.NewEncoder(&text).Encode(line{opRecord, e.Kind, e.Name, e.Time}); err != nil {
			return nil, 0, fmt.Errorf("write the journal %s: %w", path, err)
		}
	}
	next := path + ".new" // only the holder of the lock is here
	file, err = os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("write the journal: %w", err)
	}
	_, err = file.Write(text.Bytes())
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		_ = file.Close()
		return nil, 0, fmt.Errorf("write the journal: %w", err)
	}
	return file, int64(text.Len()), nil
}

// syncFolder makes a rename in the folder durable, and the folder itself in its parent: it may be new.
func syncFolder(dir string) error {
	for _, d := range []string{dir, filepath.Dir(dir)} {
		f, err := os.Open(d)
		if err != nil {
			return err
		}
		err = f.Sync()
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
