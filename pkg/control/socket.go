package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/devloop/devloop/pkg/event"
)

// SocketDir returns the folder of this user's sockets, which need not exist. Only this user may
// read it.
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
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || ok && int(owner.Uid) != os.Getuid() {
		return "", event.WithHint(fmt.Errorf("%s is not a folder that only this user may read", dir),
			"remove it, or set XDG_RUNTIME_DIR")
	}
	return dir, nil
}

// longestPath of a socket, in bytes, is macOS's. Linux has 4 more.
const longestPath = 103

// socketPath returns where the socket of a name is: by a hash of it where the path would be too
// long, as it soon is below the temporary folders of macOS.
func socketPath(dir, name string) (string, error) {
	const suffix = ".sock"
	path := filepath.Join(dir, name+suffix)
	if len(path) > longestPath {
		sum := sha256.Sum256([]byte(name))
		path = filepath.Join(dir, hex.EncodeToString(sum[:8])+suffix)
	}
	if len(path) > longestPath {
		return "", event.WithHint(fmt.Errorf("the path of a socket may have %d bytes, and %s has %d",
			longestPath, path, len(path)), "set XDG_RUNTIME_DIR to a folder with a shorter path")
	}
	return path, nil
}

// ErrAnotherRuns is about a second devloop of the same project, file and cluster.
var ErrAnotherRuns = event.WithHint(errors.New("another devloop runs for this project"),
	"it is in another terminal: devloop status")

// listenSocket replaces a socket on which no process listens: a devloop that was killed left it.
func listenSocket(ctx context.Context, name string) (net.Listener, error) {
	dir, err := SocketDir()
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		_, err = SocketDir() // another user may have created it meanwhile
	}
	if err != nil {
		return nil, err
	}
	path, err := socketPath(dir, name)
	if err != nil {
		return nil, err
	}
	if connection, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		_ = connection.Close()
		return nil, ErrAnotherRuns
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path) // others have no access to the folder
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}
