// Package journal remembers what devloop may delete: one locked file for each (cluster, project).
//
// A thing is recorded before it is made, and the record is on the disk before Record returns. So after kill -9, or a
// power cut, the next devloop knows about everything that the last one may have left behind. An entry only permits
// deletion; whether the thing exists, the cluster says.
//
// The file holds JSON lines and is only appended to. Open replaces it by a shorter one that says the same. The lock is
// on a second file, which is never replaced nor removed: a lock on a file that others can no longer find locks nothing.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// The kinds of things that are recorded, and how they are named.
const (
	Namespace = "namespace" // dask-gateway
	Release   = "release"   // namespace/name
	Revision  = "revision"  // namespace/name@7, of a release, while it is written
	CRD       = "crd"       // daskclusters.gateway.dask.org
	Volume    = "volume"    // namespace/name of a volume claim that outlives its release
	Image     = "image"     // worker:3fa…
	Pod       = "pod"       // namespace/name of one that is there for moments only
	UID       = "uid"       // kind name@UID: which one of that name is meant by the other entry
	Folder    = "folder"    // kind name@/home/me/web: from whose devloop.yaml the thing of the other entry was made
)

// Entry permits the deletion of one thing.
type Entry struct {
	Kind string
	Name string
	Time time.Time // of its last Record
}

// Journal is an open, locked journal. It may be used by several goroutines.
type Journal struct {
	path string
	lock *os.File

	mu      sync.Mutex
	file    *os.File // nil once closed
	size    int64    // of the lines in file that are whole
	entries []Entry  // the one recorded last is last
	broken  error    // the file may hold half a line: nothing must follow it
}

// DefaultDir returns the folder for journals: $XDG_STATE_HOME/devloop, by default ~/.local/state/devloop.
func DefaultDir() (string, error) {
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) { // the standard says to ignore others
		return filepath.Join(state, "devloop"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for devloop's state: %w; set XDG_STATE_HOME", err)
	}
	return filepath.Join(home, ".local", "state", "devloop"), nil
}

// Open opens, and if need be makes, the journal of a project on a cluster (any text that identifies it). Until Close no
// other process can: then the error is a *LockedError.
func Open(dir, cluster, project string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the journal: %w", err)
	}
	path := filepath.Join(dir, url.PathEscape(cluster)+"_"+url.PathEscape(project)+".jsonl")
	lock, err := acquire(path+".lock", project)
	if err != nil {
		return nil, err
	}
	j := &Journal{path: path, lock: lock}
	if err := j.open(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return j, nil
}

func (j *Journal) open() (err error) {
	if j.entries, err = read(j.path); err != nil {
		return err
	}
	j.file, j.size, err = replace(j.path, j.entries)
	return err
}

// Record permits the deletion of a thing: call it before making the thing. When it returns nil the permission is on the
// disk. Recording a thing again makes it the newest.
func (j *Journal) Record(kind, name string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := Entry{kind, name, time.Now()}
	if err := j.append(line{Op: opRecord, Kind: kind, Name: name, Time: e.Time}); err != nil {
		return err
	}
	j.entries = append(without(j.entries, kind, name), e)
	return nil
}

// Forget takes the permission back: call it after the thing was deleted. It is as durable as Record. Forgetting what is
// not recorded does nothing.
func (j *Journal) Forget(kind, name string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !has(j.entries, kind, name) {
		return nil
	}
	if err := j.append(line{Op: opForget, Kind: kind, Name: name, Time: time.Now()}); err != nil {
		return err
	}
	j.entries = without(j.entries, kind, name)
	return nil
}

// Entries returns what of a kind may be deleted, oldest first. The slice belongs to the caller.
func (j *Journal) Entries(kind string) []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	var of []Entry
	for _, e := range j.entries {
		if e.Kind == kind {
			of = append(of, e)
		}
	}
	return of
}

// Names returns the names of one kind, oldest first.
func (j *Journal) Names(kind string) []string {
	entries := j.Entries(kind)
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name
	}
	return names
}

// Has tells whether a thing may be deleted.
func (j *Journal) Has(kind, name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return has(j.entries, kind, name)
}

// Close ends the use of the journal and then unlocks it. A second Close does nothing.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Close(), j.lock.Close()) // closing the lock's file unlocks it
	j.file = nil
	return err
}

// append writes a line and waits until it is on the disk. When that fails, the file is as it was before. The caller
// holds mu.
func (j *Journal) append(l line) error {
	switch {
	case j.file == nil:
		return fmt.Errorf("%s the %s %s: the journal is closed", l.Op, l.Kind, l.Name)
	case j.broken != nil:
		return fmt.Errorf("%s the %s %s: an earlier write failed; restart devloop: %w", l.Op, l.Kind, l.Name, j.broken)
	}
	text, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("%s the %s %s: %w", l.Op, l.Kind, l.Name, err)
	}
	text = append(text, '\n')
	_, err = j.file.WriteAt(text, j.size)
	if err == nil {
		err = j.file.Sync()
	}
	if err == nil {
		j.size += int64(len(text))
		return nil
	}
	// A full disk may have room again at the next save, but half a line must not stay.
	if undo := j.file.Truncate(j.size); undo != nil {
		j.broken = errors.Join(err, undo)
	}
	return fmt.Errorf("%s the %s %s (nothing is made that devloop could not delete again): %w", l.Op, l.Kind, l.Name, err)
}

func has(entries []Entry, kind, name string) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.Kind == kind && e.Name == name })
}

func without(entries []Entry, kind, name string) []Entry {
	return slices.DeleteFunc(entries, func(e Entry) bool { return e.Kind == kind && e.Name == name })
}
