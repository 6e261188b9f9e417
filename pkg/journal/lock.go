package journal

// The lock: flock on a file of its own. The kernel gives it back when the process ends, however it ends.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// LockedError says that another devloop works on the same project and cluster.
type LockedError struct {
	Project string
	PID     int    // of the other devloop; 0 if it has not said yet
	Path    string // of the lock's file
}

func (e *LockedError) Error() string {
	holder := "another devloop"
	if e.PID > 0 {
		holder += fmt.Sprintf(" (pid %d)", e.PID)
	}
	return fmt.Sprintf("%s is working on project %q on this cluster; it holds %s", holder, e.Project, e.Path)
}

// Hint returns what the user can do.
func (e *LockedError) Hint() string {
	if e.PID > 0 {
		return fmt.Sprintf("end it first: go to its terminal and press Ctrl+C, or: kill -INT %d", e.PID)
	}
	return "end it first: go to its terminal and press Ctrl+C"
}

// acquire takes the lock and writes into its file who holds it.
func acquire(path, project string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the journal: %w", err)
	}
	if err := flock(file); err != nil {
		defer func() { _ = file.Close() }()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &LockedError{Project: project, PID: holder(file), Path: path}
		}
		return nil, fmt.Errorf("lock the journal %s: %w", path, err)
	}
	err = file.Truncate(0) // at no moment does it name a mixture of two
	if err == nil {
		_, err = fmt.Fprintln(file, os.Getpid())
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock the journal: %w", err)
	}
	return file, nil
}

func flock(file *os.File) error {
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// holder returns the pid in the lock's file, 0 if there is none.
func holder(file *os.File) int {
	text, _ := io.ReadAll(file)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}
