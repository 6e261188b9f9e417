package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/devloop/devloop/pkg/event"
)

// SocketDir is where the sockets of this user's devloops are, whether it is there or not; nobody
// else may look into it.
func SocketDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "devloop-"+strconv.Itoa(os.Getuid()))
	if runtime := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(runtime) { // the standard says to ignore others
		dir = filepath.Join(runtime, "devloop")
	}
	info, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return dir, nil
	}
	if err != nil {
		return "", err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || info.Mode().Perm()&0o077 != 0 || ok && int(owner.Uid) != os.Getuid() {
		return "", event.WithHint(fmt.Errorf("%s is not a folder that is this user's alone", dir), "remove it, or set XDG_RUNTIME_DIR")
	}
	return dir, nil
}

// ErrAnotherRuns is for the second devloop of a project, file and cluster.
var ErrAnotherRuns = event.WithHint(errors.New("another devloop runs for this devloop.yaml"), "it is in another terminal: devloop status")

// ListenSocket opens the socket of this devloop. One that nobody listens on was left by a devloop that
// was killed. The name is that of the project, its file and its cluster.
func ListenSocket(ctx context.Context, name string) (net.Listener, error) {
	dir, err := SocketDir()
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		_, err = SocketDir() // somebody else may have been faster to make it
	}
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+".sock")
	if connection, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		_ = connection.Close()
		return nil, ErrAnotherRuns
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path) // its folder is closed to others already
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}
