package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

const settingsSize = 64 << 10 // bytes at most

// Settings are the user's own, for all projects. A repository cannot bring them.
type Settings struct {
	// Kube contexts that may be deployed to though nothing proves that they are on this machine.
	AllowContexts []string `key:"allowContexts"`
}

// SettingsPath returns where the user's settings are: $XDG_CONFIG_HOME/devloop/config.yaml, by
// default ~/.config/devloop/config.yaml.
func SettingsPath() (string, error) {
	if dir := os.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) { // the standard says to ignore others
		return filepath.Join(dir, "devloop", "config.yaml"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the user's settings: %w; set XDG_CONFIG_HOME", err)
	}
	return filepath.Join(home, ".config", "devloop", "config.yaml"), nil
}

// LoadSettings reads the settings at path; without a file there are none. The error is a
// *tree.Error. A file that another user may have written is one: it would speak for this user.
func LoadSettings(path string) (s Settings, err error) {
	r := &tree.Report{}
	from := &tree.Origin{Name: path, Order: 1}
	text, err := readOwn(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		if errors.Is(err, errWritable) {
			r.Hint = "chmod go-w " + path
		}
		r.Unreadable(from, path, err)
		return s, r.AsError(nil)
	}
	if root := r.Parse(from, text); root != nil {
		(&decoder{Report: r}).read(root, &s, "")
	}
	if len(r.Problems) > 0 {
		return Settings{}, r.AsError(nil)
	}
	return s, nil
}

var errWritable = errors.New("others may write to it")

// readOwn reads a file that only this user, or root, can have written. It checks the open file:
// the one at path may be another one by then.
func readOwn(path string) ([]byte, error) {
	file, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && int(owner.Uid) != os.Getuid() && owner.Uid != 0:
		return nil, fmt.Errorf("it belongs to another user (uid %d)", owner.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return nil, errWritable
	}
	return files.ReadOpen(file, settingsSize)
}
