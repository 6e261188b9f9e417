package venv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/devloop/devloop/pkg/command"
	"github.com/devloop/devloop/pkg/event"
)

const (
	// installTimeout bounds an installation: a machine without any of the packages may take
	// minutes.
	installTimeout = 10 * time.Minute
	// undoTimeout is how long pip may take to undo its work when it is interrupted.
	undoTimeout = 5 * time.Second
	// outputLine is how much of a line of output is read, in bytes.
	outputLine = 8 << 10
	// keptLines is how many of the last lines are kept.
	keptLines = 100

	// An error shows the first lines, which say what failed, and the last, which say why. Long ones
	// are cut to shownLine bytes: pip may list all versions of a library.
	shownFirst, shownLast, shownLine = 3, 9, 240
)

// Install installs the requirements in a file into the environment at dir, with folder as the
// working directory, and returns what that changed, each as name-version. output receives each line
// of output. If ctx ends, pip undoes its work.
func Install(ctx context.Context, dir, folder, file string, output func(line string)) (installed []string, err error) {
	if _, err := open(dir); err != nil {
		return nil, err
	}
	args, err := installer(dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, installTimeout, fmt.Errorf("not done after %s", installTimeout))
	defer cancel()
	last, installed, err := run(ctx, folder, append(args, "-r", file), output)
	if err == nil {
		return installed, nil
	}
	err = fmt.Errorf("install %s into %s: %w", filepath.Base(file), dir, err)
	if text := excerpt(last); text != "" {
		err = fmt.Errorf("%w\n%s", err, text)
	}
	return nil, event.WithHint(err, "fix "+filepath.Base(file)+" and save; by hand: "+byHand(args, file))
}

// quietArgs are pip's options that a user does not need. -I isolates it: neither a folder nor a
// variable of this terminal decides what it imports.
var quietArgs = []string{"-I", "-u", "--disable-pip-version-check", "--no-input"}

// installer is the beginning of the command line: pip, or uv if the environment has no pip.
func installer(dir string) ([]string, error) {
	python := filepath.Join(dir, "bin", "python")
	if _, err := os.Stat(python); err != nil { // it may be a link to a Python that was removed
		return nil, event.WithHint(fmt.Errorf("the Python of %s is not there: %w", dir, err),
			"recreate it: python3 -m venv --clear "+quoted(dir))
	}
	if _, versions, err := Read(dir); err == nil && versions["pip"] != "" {
		return []string{python, "-I", "-u", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"}, nil
	}
	uv, err := exec.LookPath("uv")
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("there is no pip in %s", dir),
			"install uv, which most likely made it, or add pip: "+quoted(python)+" -m ensurepip")
	}
	return []string{uv, "pip", "install", "--python", python}, nil
}

// byHand is the command for a user to do the same.
func byHand(args []string, file string) string {
	var words []string
	for _, arg := range append(slices.Clone(args), "-r", file) {
		if !slices.Contains(quietArgs, arg) {
			words = append(words, quoted(arg))
		}
	}
	return strings.Join(words, " ")
}

// run runs a command to its end and returns its last lines of output and what it installed.
func run(ctx context.Context, folder string, args []string, output func(line string)) (
	last, installed []string, err error) {
	cmd := command.Command{
		Args: args, Folder: folder, StopSignal: syscall.SIGINT, GracePeriod: undoTimeout, MaxLine: outputLine,
		Env: append(os.Environ(), "PIP_USER=0", "NO_COLOR=1"), // into the environment, whatever pip.conf says
	}
	err = cmd.Run(ctx, func(line string) {
		line = strings.TrimRight(event.Printable(line), " ")
		output(line)
		last = append(last, line)
		last = last[max(0, len(last)-keptLines):]
		if list, ok := strings.CutPrefix(line, "Successfully installed "); ok { // pip
			installed = strings.Fields(list)
		}
		if library, ok := strings.CutPrefix(line, " + "); ok { // uv
			installed = append(installed, strings.Replace(library, "==", "-", 1))
		}
	}, nil)
	return last, installed, err
}

// excerpt is the output from the first error on, or else its end, cut to what an error may show.
func excerpt(lines []string) string {
	first := slices.IndexFunc(lines, func(line string) bool {
		line = strings.ToLower(strings.TrimSpace(line))
		return strings.HasPrefix(line, "error:") || strings.HasPrefix(line, "×")
	})
	if first < 0 {
		first = max(0, len(lines)-shownFirst-shownLast)
	}
	lines = slices.Clone(lines[first:])
	for i, line := range lines {
		if len(line) > shownLine {
			lines[i] = strings.ToValidUTF8(line[:shownLine/2]+" … "+line[len(line)-shownLine/2:], "")
		}
	}
	if cut := len(lines) - shownLast; cut > shownFirst {
		lines = slices.Replace(lines, shownFirst, cut, "…")
	}
	return strings.Join(lines, "\n")
}
