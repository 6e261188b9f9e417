package venv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/devloop/devloop/pkg/command"
	"github.com/devloop/devloop/pkg/event"
)

// This file has requirements installed into an environment, by its own pip, or by uv where it has none.

const (
	// installTimeout is for all of it: a machine that has none of the packages yet may take minutes.
	installTimeout = 10 * time.Minute
	// goodbye is how long pip may take to undo what it has begun, once it was asked to end.
	goodbye = 5 * time.Second
	// outputLine is how much of a line of its output is read, and shownLine how much of it an error shows, in bytes: pip names all versions that
	// there are if it does not find the one that is asked for.
	outputLine, shownLine = 8 << 10, 240
	// keptLines is how many of its last lines are kept, and shownLines how many of these an error shows: the first ones say what failed,
	// the last ones why.
	keptLines, shownFirst, shownLast = 100, 3, 9
)

// Installed is what an installation has changed: name-version of each library, as pip tells it, "" for nothing.
type Installed string

// Install installs the requirements of a file, in folder, into the environment at dir; tell gets each line of the output. When ctx ends, what was
// begun is undone.
func Install(ctx context.Context, dir, folder, file string, tell func(line string)) (Installed, error) {
	if _, err := open(dir); err != nil {
		return "", err
	}
	args, err := installer(dir)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, installTimeout, fmt.Errorf("not done after %s", installTimeout))
	defer cancel()
	last, installed, err := run(ctx, folder, append(args, "-r", file), tell)
	if err == nil {
		return installed, nil
	}
	err = fmt.Errorf("install %s into %s: %w", filepath.Base(file), dir, err)
	if text := telling(last); text != "" {
		err = fmt.Errorf("%w\n%s", err, text)
	}
	return "", event.WithHint(err, "mend "+filepath.Base(file)+" and save; by hand: "+byHand(args, file))
}

// installer is the beginning of the command line.
func installer(dir string) ([]string, error) {
	python := filepath.Join(dir, "bin", "python")
	if _, err := os.Stat(python); err != nil { // also a link to a Python that was removed
		return nil, event.WithHint(fmt.Errorf("the Python of %s is not there: %w", dir, err), "make it anew: python3 -m venv --clear "+quoted(dir))
	}
	if hasPip(dir) {
		// Isolated: neither a folder nor a variable of this terminal decides what is imported.
		return []string{python, "-I", "-u", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"}, nil
	}
	uv, err := exec.LookPath("uv")
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("there is no pip in %s", dir), "install uv, which made it most likely, or give it pip: "+quoted(python)+" -m ensurepip")
	}
	return []string{uv, "pip", "install", "--python", python}, nil
}

// hasPip tells whether there is a pip of its own, or one that it lets in.
func hasPip(dir string) bool {
	_, versions, err := Read(dir)
	return err == nil && versions["pip"] != ""
}

// byHand is how a user does the same.
func byHand(args []string, file string) string {
	words := []string{quoted(args[0])}
	for _, arg := range args[1:] {
		if arg != "-I" && arg != "-u" && arg != "--disable-pip-version-check" && arg != "--no-input" {
			words = append(words, quoted(arg))
		}
	}
	return strings.Join(append(words, "-r", quoted(file)), " ")
}

// run runs a command to its end and returns its last lines. It ends with all that it started.
func run(ctx context.Context, folder string, args []string, tell func(line string)) (last []string, installed Installed, err error) {
	cmd := command.Command{
		Args: args, Folder: folder, Ask: syscall.SIGINT, Goodbye: goodbye, Line: outputLine,
		Env: append(os.Environ(), "PIP_USER=0", "NO_COLOR=1"), // into the environment, whatever the user's pip.conf says
	}
	err = cmd.Run(ctx, func(line string) {
		text := strings.TrimRight(event.Printable(line), " ")
		tell(text)
		last = append(last, text)
		last = last[max(0, len(last)-keptLines):]
		if what, ok := strings.CutPrefix(text, "Successfully installed "); ok { // of pip
			installed = Installed(what)
		}
		if what, ok := strings.CutPrefix(text, " + "); ok { // of uv
			installed = Installed(strings.TrimSpace(string(installed) + " " + strings.Replace(what, "==", "-", 1)))
		}
	}, nil)
	return last, installed, err
}

// telling are the lines that say what went wrong: those from the first error on, as many as there is room for, else the last ones.
func telling(lines []string) string {
	first := max(0, len(lines)-shownFirst-shownLast)
	for i, line := range lines {
		if start := strings.ToLower(strings.TrimSpace(line)); strings.HasPrefix(start, "error:") || strings.HasPrefix(start, "×") {
			first = i
			break
		}
	}
	lines = lines[first:]
	var shown []string
	for i, line := range lines {
		switch left := len(lines) - i; {
		case i < shownFirst || left <= shownLast:
			if len(line) > shownLine {
				line = strings.ToValidUTF8(line[:shownLine/2]+" … "+line[len(line)-shownLine/2:], "")
			}
			shown = append(shown, line)
		case left == shownLast+1:
			shown = append(shown, "…")
		}
	}
	return strings.Join(shown, "\n")
}
