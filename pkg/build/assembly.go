package build

// Where a Dockerfile's build puts the files of its context: the operations of BuildKit's definition
// are carried out on file systems of names.

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/devloop/devloop/pkg/event"
)

// assembly carries out the operations of a build.
type assembly struct {
	definition *llb.Definition
	contexts   map[digest.Digest]*hashedContext
	dockerfile string

	ops  map[digest.Digest]*pb.Op
	uses map[edge]int // how many inputs it is
	done map[edge]*rootfs
}

// edge is an output of an operation.
type edge struct {
	op     digest.Digest
	output int64
}

// run returns the image's file system.
func (a *assembly) run() (*rootfs, error) {
	a.ops, a.uses, a.done = map[digest.Digest]*pb.Op{}, map[edge]int{}, map[edge]*rootfs{}
	var last *pb.Op
	for _, bytes := range a.definition.Def {
		last = &pb.Op{}
		if err := last.UnmarshalVT(bytes); err != nil {
			return nil, err
		}
		a.ops[digest.FromBytes(bytes)] = last
		for _, in := range last.Inputs {
			a.uses[edge{digest.Digest(in.Digest), in.Index}]++
		}
	}
	if last != nil && last.Op == nil && len(last.Inputs) == 1 {
		return a.input(last.Inputs[0])
	}
	return &rootfs{root: newFolder("")}, nil // FROM scratch, and nothing more
}

// take returns an input that may be changed.
func (a *assembly) take(in *pb.Input) (*rootfs, error) {
	taken, err := a.input(in)
	if err != nil {
		return nil, err
	}
	if at := (edge{digest.Digest(in.Digest), in.Index}); a.uses[at] == 1 {
		delete(a.done, at)
		return taken, nil
	}
	return &rootfs{taken.root.clone(), taken.open}, nil
}

func (a *assembly) input(in *pb.Input) (*rootfs, error) {
	at := edge{digest.Digest(in.Digest), in.Index}
	if known := a.done[at]; known != nil {
		return known, nil
	}
	op := a.ops[at.op]
	if op == nil {
		return nil, fmt.Errorf("BuildKit's definition lacks operation %s", at.op)
	}
	made, err := a.output(op, at)
	if err != nil {
		return nil, err
	}
	a.done[at] = made
	return made, nil
}

func (a *assembly) output(op *pb.Op, at edge) (*rootfs, error) {
	made := &rootfs{root: newFolder(at.op), open: true}
	switch kind := op.Op.(type) {
	case *pb.Op_Source:
		if found := a.contexts[at.op]; found != nil {
			made.open = false
			made.fill(found.files)
		}
	case *pb.Op_Exec:
		for _, mount := range kind.Exec.Mounts {
			if mount.Output == at.output && mount.Input >= 0 {
				before, err := a.take(op.Inputs[mount.Input])
				if err != nil {
					return nil, err
				}
				if from := before.lookup(mount.Selector); from != nil && from.isDir() {
					made.root = from
				}
			}
		}
	case *pb.Op_File:
		return a.file(op, kind.File, at)
	case *pb.Op_Merge:
		made.open = false
		for i, in := range kind.Merge.Inputs {
			if i == 0 {
				base, err := a.take(op.Inputs[in.Input])
				if err != nil {
					return nil, err
				}
				made = base
				continue
			}
			layer, err := a.input(op.Inputs[in.Input])
			if err != nil {
				return nil, err
			}
			made.open = made.open || layer.open
			made.root.overlay(layer.root)
		}
	}
	return made, nil
}

// reads tells whether the build reads anything at or below a folder of its context.
func (a *assembly) reads(folder string) bool {
	for _, bytes := range a.definition.Def {
		patterns, local, err := localPatterns(bytes)
		if !local || err != nil {
			continue
		}
		if len(patterns) == 0 || folder == "." {
			return true
		}
		for _, pattern := range patterns {
			fixed := path.Clean(strings.TrimLeft(pattern, "/"))
			for hasWildcards(fixed) {
				fixed = path.Dir(fixed)
			}
			if within(fixed, folder) || within(folder, fixed) {
				return true
			}
		}
	}
	return false
}

// explainUnused says what becomes of a file that the image does not hold.
func (a *assembly) explainUnused(file *contextFile) error {
	for _, bytes := range a.definition.Def {
		step := digest.FromBytes(bytes)
		for _, mount := range a.ops[step].GetExec().GetMounts() {
			if mount.Input < 0 {
				continue
			}
			there, err := a.input(a.ops[step].Inputs[mount.Input])
			if err == nil && there.holds(file) {
				return event.WithHint(
					fmt.Errorf("a RUN uses %s (%s), and no COPY brings it into the image", file.path, a.line(step)),
					"leave out such files: what a RUN makes of them takes a build")
			}
		}
	}
	return event.WithHint(fmt.Errorf("no COPY of %s brings %s into the image", a.dockerfile, file.path),
		"sync only what the Dockerfile copies")
}

// line is where in the Dockerfile an operation is.
func (a *assembly) line(step digest.Digest) string {
	if source := a.definition.Source; source != nil {
		for _, location := range source.Locations[string(step)].GetLocations() {
			for _, lines := range location.Ranges {
				return fmt.Sprintf("%s:%d", a.dockerfile, lines.Start.Line)
			}
		}
	}
	return a.dockerfile
}

func (a *assembly) file(op *pb.Op, file *pb.FileOp, at edge) (*rootfs, error) {
	results := map[int64]*rootfs{} // of the actions, counted on from the inputs
	value := func(i int64, get func(*pb.Input) (*rootfs, error)) (*rootfs, error) {
		switch {
		case i < 0:
			return &rootfs{root: newFolder(at.op)}, nil
		case i < int64(len(op.Inputs)):
			return get(op.Inputs[i])
		case results[i] != nil:
			return results[i], nil
		}
		return nil, fmt.Errorf("operation %s of BuildKit's definition has no input %d", at.op, i)
	}
	for i, action := range file.Actions {
		made, err := value(action.Input, a.take) // a Dockerfile's actions follow each other
		if err != nil {
			return nil, err
		}
		switch do := action.Action.(type) {
		case *pb.FileAction_Mkdir:
			made.mkdirAll(do.Mkdir.Path, fs.FileMode(do.Mkdir.Mode), ownerOf(do.Mkdir.Owner), at.op)
		case *pb.FileAction_Mkfile:
			made.put(made.resolve(do.Mkfile.Path), &inode{mode: fs.FileMode(do.Mkfile.Mode).Perm(),
				owner: ownerOf(do.Mkfile.Owner), step: at.op})
		case *pb.FileAction_Copy:
			from, err := value(action.SecondaryInput, a.input)
			if err != nil {
				return nil, err
			}
			if err := made.copy(from, do.Copy, at.op); err != nil {
				return nil, err
			}
		default: // no Dockerfile makes others
			made.open = true
		}
		results[int64(len(op.Inputs)+i)] = made
		if action.Output == at.output {
			return made, nil
		}
	}
	return nil, fmt.Errorf("operation %s of BuildKit's definition has no output %d", at.op, at.output)
}
