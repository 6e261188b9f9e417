// Package filesync writes files into containers that run, and tells which files they hold.
package filesync

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	maxPaths = 20_000
	maxSize  = 512 << 20 // bytes, of all files of a Write
	maxText  = 500       // bytes, of what a container's tools say
	// timeout is for hashing, or writing, all that is allowed.
	timeout = 2 * time.Minute
)

//go:embed script.sh
var script string

// ErrGone is the error of a container that has ended. Whatever starts in its place is another one.
var ErrGone = errors.New("the container has ended")

// Refusal is the error of a container that cannot get files, as long as it runs.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return r.Reason }

// Shell runs commands where the files of containers can be reached.
type Shell interface {
	// Run runs a command with stdin, unless that is nil, and returns its standard output. The error of
	// a failed command has its standard error.
	Run(ctx context.Context, stdin io.Reader, args ...string) (string, error)
}

// Container is a container that a Shell reaches.
type Container struct {
	ID  string // of its runtime, without a scheme
	PID int    // of its first process, as the node sees it; 0 if the Shell runs in the container
}

// File is what a container is to hold at a path.
type File struct {
	Path   string // in the container, absolute
	Absent bool   // nothing is to be there

	Source string      // on this machine, of a regular file
	Mode   fs.FileMode // type and permissions
	Owner  string      // user[:group], by name or number, of a file that is new there; "" for root
	Size   int64       // bytes
	Digest string      // sha256 of a regular file, hex
	Link   string      // target of a symbolic link
}

// unprintable are characters that end a field or a line, and others that no name needs.
var unprintable = regexp.MustCompile(`[\x00-\x1f\x7f]`)

// CanHold tells whether a container can get files at a path.
func CanHold(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && p != "/" && !unprintable.MatchString(p)
}

func checkPath(p string) error {
	if !CanHold(p) {
		return &Refusal{fmt.Sprintf("files with a path like %q are not synced", p)}
	}
	return nil
}

// owners are users and groups, by name or number.
var owners = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)

func (f File) owner() string { return cmp.Or(f.Owner, "-") }

func (f File) check() error {
	if err := checkPath(f.Path); err != nil || f.Absent {
		return err
	}
	switch {
	case f.Owner != "" && !owners.MatchString(f.Owner):
		return &Refusal{fmt.Sprintf("%q is no user and group for %s", f.Owner, f.Path)}
	case f.Mode&fs.ModeSymlink != 0 && (f.Link == "" || unprintable.MatchString(f.Link)):
		return &Refusal{fmt.Sprintf("the link %s leads to %q", f.Path, f.Link)}
	case f.Mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0: // a new owner takes them away
		return &Refusal{f.Path + " has a setuid, setgid or sticky bit"}
	case f.Mode.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0:
		return &Refusal{f.Path + " is not a regular file, folder or link"}
	}
	return nil
}

func checkCount(n int) error {
	if n > maxPaths {
		return &Refusal{fmt.Sprintf("%d files to sync are more than %d", n, maxPaths)}
	}
	return nil
}

var containerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// containerLines returns the first lines of what the script reads.
func containerLines(containers []Container) (string, error) {
	var lines strings.Builder
	for _, c := range containers {
		id := c.ID
		switch {
		case c.PID == 0:
			id = "-"
		case c.PID < 0 || !containerID.MatchString(c.ID):
			return "", fmt.Errorf("%q is no ID of a container", c.ID)
		}
		fmt.Fprintf(&lines, "c\t%d\t%s\n", c.PID, id)
	}
	return lines.String(), nil
}

// readScript reads the script from standard input, and leaves the rest to it: the arguments of a
// command in a container are a part of an address, whose length proxies limit.
const readScript = `script=
while IFS= read -r line && [ "$line" != "# end" ]; do script="$script$line
"; done
eval "$script"`

func run(ctx context.Context, shell Shell, containers []Container, stdin io.Reader, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if slices.ContainsFunc(containers, func(c Container) bool { return c.PID == 0 }) {
		stdin = io.MultiReader(strings.NewReader(script+"# end\n"), stdin)
		return shell.Run(ctx, stdin, "sh", "-c", readScript, "devloop", command)
	}
	return shell.Run(ctx, stdin, "sh", "-c", script, "devloop", command)
}
