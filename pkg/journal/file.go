package journal

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

// line is one line of the file. Those that count are records: each permits the deletion of one
// thing.
type line struct {
	Op   string    `json:"op"`
	Kind Kind      `json:"kind"`
	Name string    `json:"name"`
	Time time.Time `json:"time"`
}

// read returns the records in the file at path that were not forgotten: none if there is no file.
// An incomplete last line, from a crash, is ignored: its Record never returned, so nothing was
// made.
func read(path string) (records []line, err error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	for n := 1; ; n++ {
		first, rest, complete := bytes.Cut(text, []byte("\n"))
		if !complete {
			return records, nil
		}
		var l line
		if err := json.Unmarshal(first, &l); err != nil {
			return nil, malformed(path, n, err.Error())
		}
		if l.Kind == "" || l.Name == "" {
			return nil, malformed(path, n, "kind or name is missing")
		}
		records = without(records, l.Kind, l.Name)
		switch l.Op {
		case opRecord:
			records = append(records, l)
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

// replace writes a file with just these records and returns it open, with its size in bytes. A
// crash leaves either the old file or the new one.
func replace(path string, records []line) (file *os.File, size int64, err error) {
	var text bytes.Buffer
	for _, l := range records {
		if err := json.NewEncoder(&text).Encode(l); err != nil {
			return nil, 0, fmt.Errorf("write the journal %s: %w", path, err)
		}
	}
	next := path + ".new" // the lock keeps other processes away
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

// syncFolder makes a rename in the folder durable, and the folder itself, which may be new.
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
