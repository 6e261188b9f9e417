// Package venv is the Python environment of this machine, which has to hold the same libraries as
// the images: where it is, what is installed (read from its files, without running any of it), and
// how requirements are installed.
package venv

import (
	"regexp"
	"strings"
)

// Environment is a Python environment as its files describe it.
type Environment struct {
	Path     string            `json:"path"`
	Kind     string            `json:"kind"`   // one of the kinds below
	Python   string            `json:"python"` // its version, 3.11.2 or 3.11, "" if it is unknown
	Versions map[string]string `json:"-"`      // of its libraries, by their normalized names

	// FromAddress are libraries that the user installed from a folder (editable ones, too), an
	// archive or a repository.
	FromAddress map[string]bool `json:"-"`

	folders []string // of its libraries, in the order in which Python searches them
}

// Kinds of environments.
const (
	KindVenv         = "venv" // of python3 -m venv
	KindVirtualenv   = "virtualenv"
	KindUv           = "uv"
	KindConda        = "conda"
	KindInstallation = "installation" // of Python itself: Debian's, or one of pyenv's
)

var shellSafe = regexp.MustCompile(`^[\w./~@%+:,-]+$`)

// quoted quotes a path for a shell.
func quoted(path string) string {
	if shellSafe.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
