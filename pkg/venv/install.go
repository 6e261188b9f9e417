package venv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// Packages are what is to be installed.
type Packages struct {
	// Requirements is a file of them, installed with what they depend on, in the versions that
	// Constraints names.
	Requirements string
	Constraints  []string // each as name==version

	// Exactly are installed without what they depend on, each as name==version, if there is no
	// file.
	Exactly []string

	// Options are lines of a requirements file that count for Exactly, too.
	Options []string
}

// Install installs packages into the environment at dir, with folder as the working directory, and
// returns what that changed, each as name-version. output receives each line of output. If ctx
// ends, pip undoes its work.
func Install(ctx context.Context, dir, folder string, p Packages, output func(line string)) (
	installed []string, err error) {
	args, err := installer(dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, installTimeout, fmt.Errorf("not done after %s", installTimeout))
	defer cancel()
	unlock, err := lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	what, pip := "libraries of the images", args
	if p.Requirements != "" {
		what = filepath.Base(p.Requirements)
		constraints, err := writeLines("constraints", p.Constraints)
		if err != nil {
			return nil, err
		}
		defer func() { _ = os.Remove(constraints) }() // in the system's temporary folder
		args = append(args, "-r", p.Requirements, "-c", constraints)
	}
	if len(p.Options) > 0 {
		options, err := writeLines("options", p.Options)
		if err != nil {
			return nil, err
		}
		defer func() { _ = os.Remove(options) }()
		pip = append(slices.Clone(pip), "-r", options)
	}
	if p.Requirements == "" {
		args = slices.Concat(pip, []string{"--no-deps"}, p.Exactly)
	}
	last, installed, err := run(ctx, folder, args, output)
	if err == nil {
		return installed, nil
	}
	failed := &InstallError{Unavailable: unavailable(last)}
	for _, match := range constraint.FindAllStringSubmatch(strings.Join(last, "\n"), maxConflicts) {
		failed.Conflicts = append(failed.Conflicts, match[1])
	}
	if len(failed.Conflicts) > 0 { // pip says the same if a version does not exist
		probe := slices.Concat(pip, []string{"--no-deps", "--dry-run"}, failed.Conflicts)
		lines, _, probeErr := run(ctx, folder, probe, output)
		if failed.Unavailable = unavailable(lines); probeErr != nil && failed.Unavailable != "" {
			failed.Conflicts, last = nil, lines
		}
	}
	failed.error = fmt.Errorf("install %s into %s: %w", what, dir, err)
	if text := excerpt(last); text != "" {
		failed.error = fmt.Errorf("%w\n%s", failed.error, text)
	}
	return installed, failed
}

// InstallError is a failed installation, with the end of the installer's output.
type InstallError struct {
	error
	Unavailable string   // what no index has for this machine and its Python, "" if there is another cause
	Conflicts   []string // constraints that the requirements exclude
}

func (e *InstallError) Unwrap() error { return e.error }

// notFound is what pip and uv print about a package that no index has, or has no file of that this
// Python could use. Their texts wrap.
var notFound = regexp.MustCompile(`No matching distribution found for (\S+)` +
	`|Because there is no version of (\S+)|Because (\S+) was not found in the package registry` +
	`|Because (\S+) has no (?:wheels|usable wheels)`)

// constraint is what pip prints of a constraint that cannot be met.
var constraint = regexp.MustCompile(`The user requested \(constraint\) (\S+)`)

// maxConflicts is how many of them count.
const maxConflicts = 20

func unavailable(lines []string) string {
	match := notFound.FindStringSubmatch(strings.Join(strings.Fields(strings.Join(lines, " ")), " "))
	if match == nil {
		return ""
	}
	return strings.TrimRight(cmp.Or(match[1:]...), ",.")
}

// writeLines writes a temporary file for pip.
func writeLines(what string, list []string) (path string, err error) {
	file, err := os.CreateTemp("", "devloop-"+what+"-*.txt")
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(strings.Join(list, "\n") + "\n")
	if err = errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(file.Name()) // it is the first error that counts
		return "", err
	}
	return file.Name(), nil
}

// lockInterval is how often a locked environment is tried again.
const lockInterval = 200 * time.Millisecond

// lock keeps another devloop from installing into the same environment: pip locks nothing.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) { // not all file systems have locks
			return func() { _ = folder.Close() }, nil
		}
		select {
		case <-time.After(lockInterval):
		case <-ctx.Done():
			_ = folder.Close()
			return nil, fmt.Errorf("another devloop installs into %s: %w", dir, context.Cause(ctx))
		}
	}
}

// installer is the beginning of the command line: pip, or uv if the environment has no pip. -I
// isolates pip: neither a folder nor a variable of this terminal decides what it imports.
func installer(dir string) ([]string, error) {
	e, err := Read(dir)
	if err != nil {
		return nil, err
	}
	python := filepath.Join(dir, "bin", "python")
	if _, err := os.Stat(python); err != nil {
		python = filepath.Join(dir, "bin", "python3")
	}
	if e.Versions["pip"] != "" {
		return []string{python, "-I", "-u", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"}, nil
	}
	uv, err := exec.LookPath("uv")
	if err == nil {
		return []string{uv, "pip", "install", "--python", python}, nil
	}
	hint := "install uv, or add pip: " + quoted(python) + " -m ensurepip"
	if e.Kind == KindConda {
		hint = "add it: conda install --prefix " + quoted(dir) + " pip"
	}
	return nil, event.WithHint(fmt.Errorf("there is no pip in %s", dir), hint)
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
