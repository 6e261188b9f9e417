package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	copy "github.com/tonistiigi/fsutil/copy"
)

// assembler makes the file system of an image in folders, with BuildKit's own code for copies. A
// RUN does nothing, and base images are empty.
type assembler struct {
	t       *testing.T
	context string
	exclude []string
	ops     map[string]*pb.Op
	done    map[string]string
}

// assemble returns the folder of an image's files, or why it cannot be built.
func assemble(t *testing.T, image Image) (string, error) {
	t.Helper()
	definition, _, err := newSyncBuilder(t).convert(t.Context(), &Input{Image: image}, io.Discard)
	if err != nil {
		return "", err
	}
	exclude, err := image.excludes()
	if err != nil {
		return "", err
	}
	a := &assembler{t, image.Context, exclude, map[string]*pb.Op{}, map[string]string{}}
	var last *pb.Op
	for _, bytes := range definition.Def {
		last = &pb.Op{}
		if err := last.UnmarshalVT(bytes); err != nil {
			return "", err
		}
		a.ops[digest.FromBytes(bytes).String()] = last
	}
	if last == nil {
		return t.TempDir(), nil
	}
	return a.input(last.Inputs[0])
}

func (a *assembler) input(in *pb.Input) (string, error) {
	if dir, ok := a.done[in.Digest]; ok {
		return dir, nil
	}
	dir, err := a.output(a.ops[in.Digest])
	a.done[in.Digest] = dir
	return dir, err
}

func (a *assembler) output(op *pb.Op) (string, error) {
	dir := a.t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	switch kind := op.Op.(type) {
	case *pb.Op_Source:
		return dir, a.source(dir, kind.Source)
	case *pb.Op_Exec:
		for _, mount := range kind.Exec.Mounts {
			if mount.Dest == "/" && mount.Input >= 0 {
				return a.input(op.Inputs[mount.Input])
			}
		}
	case *pb.Op_Merge:
		for _, in := range kind.Merge.Inputs {
			layer, err := a.input(op.Inputs[in.Input])
			if err != nil {
				return "", err
			}
			if err := clone(layer, dir, true); err != nil {
				return "", err
			}
		}
	case *pb.Op_File:
		return dir, a.file(op, kind.File, dir)
	}
	return dir, nil
}

func (a *assembler) source(dir string, op *pb.SourceOp) error {
	if !strings.HasPrefix(op.Identifier, "local://") {
		return nil
	}
	encoded, err := (&pb.Op{Op: &pb.Op_Source{Source: op}}).MarshalVT()
	if err != nil {
		return err
	}
	follow, _, err := localPatterns(encoded)
	if err != nil {
		return err
	}
	all, err := fsutil.NewFS(a.context)
	if err != nil {
		return err
	}
	sent, err := fsutil.NewFilterFS(all, &fsutil.FilterOpt{FollowPaths: follow, ExcludePatterns: a.exclude})
	if err != nil {
		return err
	}
	return sent.Walk(a.t.Context(), "", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		from, to := filepath.Join(a.context, name), filepath.Join(dir, name)
		switch {
		case entry.IsDir():
			err = os.MkdirAll(to, 0o755)
		case info.Mode()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(from); err == nil {
				return os.Symlink(target, to)
			}
		default:
			var content []byte
			if content, err = os.ReadFile(from); err == nil {
				err = os.WriteFile(to, content, 0o644)
			}
		}
		return errors.Join(err, os.Chmod(to, info.Mode()))
	})
}

// clone copies all of a file system over another one.
func clone(from, to string, replace bool) error {
	return copy.Copy(context.Background(), from, "/", to, "/", func(info *copy.CopyInfo) {
		info.CopyDirContents, info.AlwaysReplaceExistingDestPaths = true, replace
	})
}

func (a *assembler) file(op *pb.Op, file *pb.FileOp, dir string) error {
	if len(op.Inputs) > 0 && file.Actions[0].Input >= 0 {
		base, err := a.input(op.Inputs[file.Actions[0].Input])
		if err != nil {
			return err
		}
		if err := clone(base, dir, false); err != nil {
			return err
		}
	}
	for _, action := range file.Actions {
		var err error
		switch do := action.Action.(type) {
		case *pb.FileAction_Mkdir:
			_, err = copy.MkdirAll(filepath.Join(dir, do.Mkdir.Path), fs.FileMode(do.Mkdir.Mode),
				chowner(dir, do.Mkdir.Owner), nil)
		case *pb.FileAction_Mkfile:
			err = os.WriteFile(filepath.Join(dir, do.Mkfile.Path), do.Mkfile.Data, fs.FileMode(do.Mkfile.Mode))
		case *pb.FileAction_Copy:
			from := a.t.TempDir()
			if int(action.SecondaryInput) < len(op.Inputs) {
				if from, err = a.input(op.Inputs[action.SecondaryInput]); err != nil {
					return err
				}
			}
			err = a.copy(from, dir, do.Copy)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copy is docopy of BuildKit's solver/llbsolver/file/backend.go, but for archives.
func (a *assembler) copy(from, to string, do *pb.FileActionCopy) error {
	clean := func(name string) string {
		cleaned := path.Join("/", name)
		if strings.HasSuffix(name, "/.") {
			return strings.TrimSuffix(cleaned, "/") + "/."
		} else if strings.HasSuffix(name, "/") && cleaned != "/" {
			return cleaned + "/"
		}
		return cleaned
	}
	sources := []string{clean(do.Src)}
	if do.AllowWildcard {
		var err error
		if sources, err = copy.ResolveWildcards(from, clean(do.Src), do.FollowSymlink); err != nil {
			return err
		}
	}
	for _, source := range sources {
		err := copy.Copy(a.t.Context(), from, source, to, clean(do.Dest), func(info *copy.CopyInfo) {
			info.IncludePatterns, info.ExcludePatterns = do.IncludePatterns, do.ExcludePatterns
			info.Chown = chowner(to, do.Owner)
			info.CopyDirContents, info.FollowLinks = do.DirCopyContents, do.FollowSymlink
			if info.ModeStr = do.ModeStr; info.ModeStr == "" && do.Mode != -1 {
				mode := int(do.Mode)
				info.Mode = &mode
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// chowner is for root: others cannot give files away.
func chowner(root string, owner *pb.ChownOpt) copy.Chowner {
	return func(old *copy.User) (*copy.User, error) {
		if owner == nil || os.Getuid() != 0 {
			return old, nil
		}
		uid, gid := numbers(root, ownerOf(owner))
		return &copy.User{UID: uid, GID: gid}, nil
	}
}

// numbers are those of a user[:group] in a file system. Names that are not there are root.
func numbers(root, owner string) (uid, gid int) {
	number := func(file, name string) (int, int) {
		if isNumber(name) {
			var id int
			_, _ = fmt.Sscan(name, &id)
			return id, id
		}
		content, _ := os.ReadFile(filepath.Join(root, "etc", file))
		for line := range strings.Lines(string(content)) {
			if fields := strings.Split(strings.TrimSpace(line), ":"); fields[0] == name {
				var id, group int
				_, _ = fmt.Sscan(fields[2], &id)
				if len(fields) > 3 {
					_, _ = fmt.Sscan(fields[3], &group)
				}
				return id, group
			}
		}
		return 0, 0
	}
	user, group, both := strings.Cut(owner, ":")
	uid, gid = number("passwd", user)
	if both {
		gid, _ = number("group", group)
	}
	return uid, gid
}
