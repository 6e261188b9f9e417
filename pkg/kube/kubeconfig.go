package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// WriteKubeconfig writes a kubeconfig for this cluster alone into the folder that runtime returns,
// for commands: the user may have selected another context since, or the context may lead
// elsewhere. The file is locked until remove, so that a later devloop can tell which files are
// stale.
func (c *Cluster) WriteKubeconfig(ctx context.Context, runtime func() (string, error)) (
	file string, remove func(), err error) {
	e, err := c.connection.current(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("write a kubeconfig for commands: %w", err)
	}
	folder, err := runtime()
	if err == nil {
		err = os.MkdirAll(folder, 0o700)
	}
	if err == nil {
		_, err = runtime() // another process may have made it meanwhile
	}
	if err == nil {
		RemoveStaleKubeconfigs(folder)
		file, remove, err = writeLocked(folder, e.kubeconfig)
	}
	if err != nil {
		return "", nil, event.WithHint(fmt.Errorf("write a kubeconfig for commands: %w", err),
			cmp.Or(event.Hint(err), "it has to be a folder in which you may write: XDG_RUNTIME_DIR"))
	}
	return file, remove, nil
}

// The beginnings of the files' names.
const (
	KubeconfigPrefix    = "kubeconfig-"
	NewKubeconfigPrefix = ".new-kubeconfig-" // not locked yet
)

// writeLocked writes a file that only this user can read, and locks it until remove.
func writeLocked(folder string, content []byte) (name string, remove func(), err error) {
	file, err := os.CreateTemp(folder, NewKubeconfigPrefix+"*") // with mode 0600
	if err != nil {
		return "", nil, err
	}
	name = filepath.Join(folder, KubeconfigPrefix+strings.TrimPrefix(filepath.Base(file.Name()), NewKubeconfigPrefix))
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = file.Write(content)
	}
	if err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(file.Name()), file.Close())
	}
	return name, func() {
		_ = os.Remove(name)
		_ = file.Close() // which releases the lock
	}, nil
}

// RemoveStaleKubeconfigs removes the files of devloops that were killed: they are not locked.
func RemoveStaleKubeconfigs(folder string) {
	for _, pattern := range []string{KubeconfigPrefix + "*", NewKubeconfigPrefix + "*"} {
		stale, _ := files.Glob(filepath.Join(folder, pattern)) // the pattern is valid
		for _, name := range stale {
			removeUnlocked(name, strings.HasPrefix(pattern, NewKubeconfigPrefix))
		}
	}
}

// removeUnlocked removes a file that is not locked. A new one is locked just after its creation.
func removeUnlocked(name string, isNew bool) {
	file, err := files.Open(name)
	if err != nil {
		return
	}
	defer func() { _ = file.Close() }() // which releases the lock
	info, err := file.Stat()
	if err != nil || isNew && time.Since(info.ModTime()) < time.Minute {
		return
	}
	if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = os.Remove(name)
	}
}
