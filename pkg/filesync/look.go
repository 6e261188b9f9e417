package filesync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
)

// Listing is what a container holds.
type Listing struct {
	Container Container
	Files     map[string]State // by path
	Err       error            // ErrGone if the container has ended
}

// State is what a container holds at a path.
type State struct {
	Absent bool
	// Mode is type and, of a regular file, permissions. A link that leads to a folder has both types.
	Mode   fs.FileMode
	Digest string // sha256 of a regular file, hex
	Link   string // target of a symbolic link
}

// Matches reports whether the state is what is wanted. The permissions of a folder are the image's:
// a build, too, leaves those of one that is there, and a link to a folder is one. A folder in which
// something else is, such as what Python compiled, may stay where nothing is wanted.
func (s State) Matches(want File) bool {
	switch {
	case want.Absent:
		return s.Absent || s.Mode.Type() == fs.ModeDir
	case s.Absent:
		return false
	case want.Mode.IsDir():
		return s.Mode.IsDir()
	case want.Mode&fs.ModeSymlink != 0:
		return s.Mode&fs.ModeSymlink != 0 && s.Link == want.Link
	}
	return s.Mode == want.Mode && s.Digest == want.Digest
}

// Look returns what the containers hold at the paths, in their order. A path behind a link is what
// the container would find there.
func Look(ctx context.Context, shell Shell, containers []Container, paths []string) ([]Listing, error) {
	if err := checkCount(len(paths)); err != nil {
		return nil, err
	}
	var wanted strings.Builder
	for _, path := range paths {
		if err := checkPath(path); err != nil {
			return nil, err
		}
		fmt.Fprintf(&wanted, "p\t%s\n", path)
	}
	var all []Listing
	for some := range slices.Chunk(containers, maxPaths/max(len(paths), 1)) { // so that the answer is bounded
		text, err := containerLines(some)
		if err != nil {
			return nil, err
		}
		out, err := run(ctx, shell, some, strings.NewReader(text+wanted.String()+".\n"), "look")
		r := newReport(some, paths)
		if err = r.take(out, err); err != nil {
			return nil, fmt.Errorf("look at files in containers: %w", err)
		}
		all = append(all, r.listings()...)
	}
	return all, nil
}

// listings returns what was seen of each container.
func (r *report) listings() []Listing {
	all := make([]Listing, len(r.containers))
	for i, container := range r.containers {
		all[i] = Listing{Container: container, Files: r.files[i]}
		switch {
		case r.failed[i] != nil:
			all[i].Err = r.failed[i]
		case !r.alive[i]:
			all[i].Err = ErrGone
		case len(r.files[i]) < len(r.paths):
			all[i].Err = event.Transient(errors.New("its files changed while they were read"))
		}
	}
	return all
}
