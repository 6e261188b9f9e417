// Package venv is the Python environment of this machine, which has to hold the same libraries as
// the images: where it is, what is installed (read from its files, without running any of it), and
// how requirements are installed.
package venv

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// DefaultFolder is the folder of an environment without a configured one.
const DefaultFolder = ".venv"

// Find returns the folder of the environment: the configured one, which need not exist, else the
// active one of this process's terminal, else the usual one in folder.
func Find(configured, folder string) (dir string, found bool) {
	switch {
	case filepath.IsAbs(configured):
		return configured, true
	case configured != "":
		return filepath.Join(folder, configured), true
	}
	for _, dir := range []string{os.Getenv("VIRTUAL_ENV"), filepath.Join(folder, DefaultFolder)} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			if dir, err = filepath.Abs(dir); err == nil {
				return dir, true
			}
		}
	}
	return "", false
}

var shellSafe = regexp.MustCompile(`^[\w./~@%+:,-]+$`)

// quoted quotes a path for a shell.
func quoted(path string) string {
	if shellSafe.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
