package journal

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// LockedError says that another devloop works on the same project and cluster.
type LockedError struct {
	Project string
	PID     int    // of the other devloop; 0 if it is not known yet
	Path    string // of the lock file
}

func (e *LockedError) Error() string {
	owner := "another devloop"
	if e.PID > 0 {
		owner += fmt.Sprintf(" (pid %d)", e.PID)
	}
	return fmt.Sprintf("%s is working on project %q on this cluster; it holds %s", owner, e.Project, e.Path)
}

// Hint says what the user can do.
func (e *LockedError) Hint() string {
	if e.PID > 0 {
		return fmt.Sprintf("end it first: go to its terminal and press Ctrl+C, or: kill -INT %d", e.PID)
	}
	return "end it first: go to its terminal and press Ctrl+C"
}

// acquire locks the file by flock, which the kernel releases however the process ends, and writes
// this process's pid into it.
func acquire(path, project string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock the journal: %w", err)
		}
		removed, err := lockFile(file, path, project)
		if err == nil && !removed {
			return file, nil
		}
		_ = file.Close()
		if err != nil {
			return nil, err
		}
	}
}

// lockFile locks a file that was opened at path. removed tells that the previous owner has removed
// it in the meantime: then others cannot see this lock.
func lockFile(file *os.File, path, project string) (removed bool, err error) {
	if err := flock(file); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, &LockedError{Project: project, PID: lockOwner(file), Path: path}
		}
		return false, fmt.Errorf("lock the journal %s: %w", path, err)
	}
	opened, err := file.Stat()
	if err != nil {
		return false, fmt.Errorf("lock the journal: %w", err)
	}
	if there, err := os.Stat(path); err != nil || !os.SameFile(opened, there) {
		return true, nil
	}
	err = file.Truncate(0) // a reader never sees a mixture of two pids
	if err == nil {
		_, err = fmt.Fprintln(file, os.Getpid())
	}
	if err != nil {
		return false, fmt.Errorf("lock the journal: %w", err)
	}
	return false, nil
}

func flock(file *os.File) error {
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// lockOwner returns the pid in the lock file, 0 if there is none.
func lockOwner(file *os.File) (pid int) {
	_, _ = fmt.Fscan(file, &pid)
	return pid
}
