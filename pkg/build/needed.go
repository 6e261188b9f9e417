package build

// Files that a RUN is given need a build: what it makes of requirements.txt or package.json is in
// the image, too. Which files it reads cannot be known. Those that a COPY names before a RUN are
// there for it, as those are that its command names; a folder that was copied mostly is not. And
// what a RUN changes is in the image as the RUN made it: what was copied may not be written over
// it.

import (
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/devloop/devloop/pkg/event"
)

// needed returns why files of the context need a build, by their paths.
func (a *assembly) needed() (map[string]error, error) {
	why := map[string]error{}
	for _, bytes := range a.definition.Def {
		step := digest.FromBytes(bytes)
		op := a.ops[step]
		exec := op.GetExec()
		words := commandWords(exec.GetMeta().GetArgs())
		changed := changedPaths(exec.GetMeta())
		for _, mount := range exec.GetMounts() {
			if mount.Input < 0 {
				continue
			}
			before, err := a.input(op.Inputs[mount.Input])
			if err != nil {
				return nil, err
			}
			add := func(n *inode, format string, args ...any) {
				if why[n.file.path] != nil {
					return
				}
				why[n.file.path] = event.WithHint(
					fmt.Errorf("%s, so a change of it takes a build", fmt.Sprintf(format, args...)),
					"if that RUN does not need it, copy it further down")
			}
			mounted := before.lookup(mount.Selector)
			if mounted == nil {
				continue
			}
			if mounted.file != nil && !mounted.isDir() {
				add(mounted, "a RUN mounts %s (%s)", mounted.file.path, a.line(step))
			}
			mounted.all("/", func(at string, n *inode) {
				switch {
				case n.file == nil || n.isDir():
				case words[path.Base(at)]:
					add(n, "a RUN names %s (%s)", n.file.path, a.line(step))
				case mount.Dest == "/" && matchesAny(changed, at):
					add(n, "a RUN may change %s (%s)", n.file.path, a.line(step))
				case a.copiesByName(n.step, n.file.path):
					add(n, "%s copies %s by its name before a RUN (%s)", a.line(n.step), n.file.path, a.line(step))
				}
			})
		}
	}
	return why, nil
}

// copiesByName tells whether a COPY names a file of the context, or a pattern that begins with its
// name. In another stage, the file may be in another folder.
func (a *assembly) copiesByName(step digest.Digest, file string) bool {
	op := a.ops[step]
	for _, action := range op.GetFile().GetActions() {
		source := strings.TrimPrefix(path.Clean("/"+action.GetCopy().GetSrc()), "/")
		from, file := int(action.GetSecondaryInput()), file
		isOfContext := from >= 0 && from < len(op.GetInputs()) && a.contexts[digest.Digest(op.Inputs[from].Digest)] != nil
		if !isOfContext {
			source, file = path.Base(source), path.Base(file)
		}
		matches, err := path.Match(source, file)
		if matches && err == nil && !strings.ContainsAny(path.Base(source)[:1], `*?[`) {
			return true
		}
	}
	return false
}

// commandWords are the last elements of all that may be a path in a command.
func commandWords(args []string) map[string]bool {
	words := map[string]bool{}
	for word := range fieldsOf(strings.Join(args, " ")) {
		words[path.Base(word)] = true
	}
	return words
}

func fieldsOf(command string) iter.Seq[string] {
	return strings.FieldsFuncSeq(command, func(r rune) bool { return strings.ContainsRune(" \t\r\n;&|<>()'\"=,:", r) })
}

// changers are tools that change or remove the files that they name, or all in a folder.
var changers = []string{"chmod", "dos2unix", "mv", "perl", "rm", "sed"}

// changedPaths returns the patterns of paths that such tools are called with. What lies there is
// not what was copied.
func changedPaths(command *pb.Meta) (patterns []string) {
	isEnd := func(r rune) bool { return strings.ContainsRune(";&|\n", r) }
	for one := range strings.FieldsFuncSeq(strings.Join(command.GetArgs(), " "), isEnd) {
		fields := slices.Collect(fieldsOf(one))
		if !slices.ContainsFunc(fields, func(f string) bool { return slices.Contains(changers, path.Base(f)) }) {
			continue
		}
		for _, field := range fields {
			if !path.IsAbs(field) {
				field = path.Join("/", command.GetCwd(), field)
			}
			if field = path.Clean(field); field != "/" { // a part of a script for sed
				patterns = append(patterns, field)
			}
		}
	}
	return patterns
}

// matchesAny tells whether one of the patterns is of a path, or of a folder that it is in.
func matchesAny(patterns []string, name string) bool {
	return name != "/" && (matchesAny(patterns, path.Dir(name)) ||
		slices.ContainsFunc(patterns, func(pattern string) bool {
			matches, err := path.Match(pattern, name)
			return matches && err == nil
		}))
}
