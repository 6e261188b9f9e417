// Package venv is the Python environment on this machine that has to hold the same libraries as the images: where it is, what is installed in
// it (read from its files, nothing of it is run), and how requirements get into it.
//
// Where to look: venv.go finds it, read.go what it is and where its libraries are, metadata.go what each of them says of itself, install.go
// pip.
package venv

import (
	"os"
	"path/filepath"
)

// Usual is the folder of an environment that nobody names.
const Usual = ".venv"

// Find returns the folder of the environment: the one that was configured, else the one that is active in this process's terminal, else the
// usual one in folder. Only the first need not be there.
func Find(configured, folder string) (dir string, found bool) {
	switch {
	case filepath.IsAbs(configured):
		return configured, true
	case configured != "":
		return filepath.Join(folder, configured), true
	}
	for _, dir := range []string{os.Getenv("VIRTUAL_ENV"), filepath.Join(folder, Usual)} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			if dir, err = filepath.Abs(dir); err == nil {
				return dir, true
			}
		}
	}
	return "", false
}
