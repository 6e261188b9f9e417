// Package journal remembers what devloop may delete: one locked file for each (cluster, project).
//
// A thing is recorded before it is made, and the record is on the disk before Record returns. So
// after kill -9 or a power cut, the next devloop knows everything that the last one may have left.
// A record only permits deletion; the cluster says what exists.
//
// The file holds JSON lines and is only appended to. Open replaces it by a shorter one with the
// same records. The lock is on a second file, which is never replaced. It is removed only together
// with the journal, by whoever holds the lock.
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

// Kind is a kind of thing that is recorded.
type Kind string

// The kinds, and what the names of each look like.
const (
	Namespace Kind = "namespace" // dask-gateway
	Release   Kind = "release"   // namespace/name
	Revision  Kind = "revision"  // namespace/name@7: a release's, while it is written
	CRD       Kind = "crd"       // daskclusters.gateway.dask.org
	Volume    Kind = "volume"    // namespace/name of a claim that outlives its release
	Image     Kind = "image"     // worker:3fa…
	Pod       Kind = "pod"       // namespace/name of a check pod

	// These say more about the thing of another record.
	UID    Kind = "uid"    // kind name@UID: which object of that name it is
	Folder Kind = "folder" // kind name@/home/me/web: whose devloop.yaml it was made from

	// Place permits nothing: it says which machine, and what there, was the cluster.
	Place Kind = "place" // minikube:laptop:3fa…:/home/me/.minikube/profiles/web
)

const (
	extension     = ".jsonl"
	lockExtension = ".lock" // after the other one
)

// Journal is an open, locked journal. It may be used by several goroutines.
type Journal struct {
	path string
	lock *os.File

	mu      sync.Mutex
	file    *os.File // nil once closed
	size    int64    // of the complete lines in file, in bytes
	records []line   // oldest first
	broken  error    // the file may end with half a line: nothing may follow it
}

// DefaultDir returns the folder for journals: $XDG_STATE_HOME/devloop, or ~/.local/state/devloop.
func DefaultDir() (string, error) {
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) { // the specification says to ignore others
		return filepath.Join(state, "devloop"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for devloop's state: %w; set XDG_STATE_HOME", err)
	}
	return filepath.Join(home, ".local", "state", "devloop"), nil
}

// Open opens the journal of a project on a cluster, which any text may identify, and creates it if
// there is none. While another process has it open, the error is a *LockedError.
func Open(dir, cluster, project string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the journal: %w", err)
	}
	path := filepath.Join(dir, url.PathEscape(cluster)+"_"+url.PathEscape(project)+extension)
	lock, err := acquire(path+lockExtension, project)
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
	if j.records, err = read(j.path); err != nil {
		return err
	}
	j.file, j.size, err = replace(j.path, j.records)
	return err
}

// Record permits the deletion of a thing: call it before making the thing. When it returns nil the
// permission is on the disk. Recording a thing again makes it the newest.
func (j *Journal) Record(kind Kind, name string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := line{Op: opRecord, Kind: kind, Name: name, Time: time.Now()}
	if err := j.append(l); err != nil {
		return err
	}
	j.records = append(without(j.records, kind, name), l)
	return nil
}

// Forget withdraws the permission: call it after deleting the thing. It is as durable as Record. It
// does nothing if there is no record.
func (j *Journal) Forget(kind Kind, name string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !has(j.records, kind, name) {
		return nil
	}
	if err := j.append(line{Op: opForget, Kind: kind, Name: name, Time: time.Now()}); err != nil {
		return err
	}
	j.records = without(j.records, kind, name)
	return nil
}

// Names returns the names of a kind, oldest first. The slice belongs to the caller.
func (j *Journal) Names(kind Kind) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var names []string
	for _, l := range j.records {
		if l.Kind == kind {
			names = append(names, l.Name)
		}
	}
	return names
}

// Has reports whether a thing may be deleted.
func (j *Journal) Has(kind Kind, name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return has(j.records, kind, name)
}

// Close closes and unlocks the journal. A second Close does nothing.
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

// Remove closes the journal and removes its files: of a cluster that is gone, nothing can be
// deleted any more.
func (j *Journal) Remove() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return fmt.Errorf("remove the journal %s: it is closed", j.path)
	}
	err := removeFiles(j.path)
	err = errors.Join(err, j.file.Close(), j.lock.Close())
	j.file = nil
	return err
}

// append writes a line and waits until it is on the disk. If that fails, the file stays as it was.
// The caller holds mu.
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
	// A full disk may have room again at the next save, so remove the incomplete line.
	if undo := j.file.Truncate(j.size); undo != nil {
		j.broken = errors.Join(err, undo)
	}
	return fmt.Errorf("%s the %s %s (nothing is made that devloop could not delete again): %w",
		l.Op, l.Kind, l.Name, err)
}

func has(records []line, kind Kind, name string) bool {
	return slices.ContainsFunc(records, func(l line) bool { return l.Kind == kind && l.Name == name })
}

func without(records []line, kind Kind, name string) []line {
	return slices.DeleteFunc(records, func(l line) bool { return l.Kind == kind && l.Name == name })
}
