package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"

	"github.com/devloop/devloop/pkg/event"
)

var update = flag.Bool("update", false, "write what testdata/synced should say")

// eachSyncCase calls test for each file of testdata/synced.
func eachSyncCase(t *testing.T, test func(t *testing.T, file string, archive *txtar.Archive)) {
	t.Helper()
	cases, err := filepath.Glob("testdata/synced/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatal(err, "no cases")
	}
	for _, file := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			test(t, file, archive)
		})
	}
}

// syncCase is a file of testdata/synced: a project and its rules. Its comment has lines "sync FROM
// [TO]", "mode OCTAL FILE", "link FILE TARGET", "dir FOLDER", "target STAGE" and "arg NAME=VALUE".
func syncCase(t *testing.T, archive *txtar.Archive) (image Image, want string) {
	t.Helper()
	dir := t.TempDir()
	image = Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir, Args: map[string]string{}}
	for _, file := range archive.Files {
		if file.Name == "want" {
			want = string(file.Data)
			continue
		}
		name := filepath.Join(dir, file.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, file.Data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	_, lines, _ := strings.Cut(string(archive.Comment), "\n\n")
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		var err error
		switch words[0] {
		case "sync":
			image.Sync = append(image.Sync, SyncRule{words[1], strings.Join(words[2:], "")})
		case "mode":
			mode, invalid := strconv.ParseUint(words[1], 8, 32)
			err = errors.Join(invalid, syscall.Chmod(filepath.Join(dir, words[2]), uint32(mode)))
		case "link":
			err = os.Symlink(words[2], filepath.Join(dir, words[1]))
		case "dir":
			err = os.MkdirAll(filepath.Join(dir, words[1]), 0o755)
		case "target":
			image.Target = words[1]
		case "arg":
			name, value, _ := strings.Cut(words[1], "=")
			image.Args[name] = value
		default:
			err = fmt.Errorf("what is %q?", line)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return image, want
}

// newSyncBuilder knows a base image.
func newSyncBuilder(t *testing.T) *Builder {
	config := fmt.Sprintf(`{"config":{"WorkingDir":"/srv"},"rootfs":{"type":"layers","diff_ids":["sha256:%064d"]}}`, 1)
	return newBuilder(fakeEngine{bases: bases{"docker.io/library/base:latest": config}}, t.TempDir())
}

// TestSynced: where the files of rules are by the Dockerfile, which is where BuildKit's code puts
// them, and what is wrong with rules.
func TestSynced(t *testing.T) {
	eachSyncCase(t, func(t *testing.T, file string, archive *txtar.Archive) {
		image, want := syncCase(t, archive)
		input, err := newSyncBuilder(t).Hash(t.Context(), image)
		var got strings.Builder
		if err != nil {
			var wrong *SyncError
			if !errors.As(err, &wrong) {
				t.Fatal(err)
			}
			fmt.Fprintf(&got, "rule %d: %v\n%s\n", wrong.Rule, wrong, event.Hint(err))
		} else {
			for _, file := range input.Synced.Files {
				source, _ := filepath.Rel(image.Context, file.Source)
				fmt.Fprintf(&got, "%s %s %s %s %d\n", file.Path, source, file.Mode, file.Owner, file.Rule)
			}
			if !strings.Contains(string(archive.Files[0].Data), "RUN") { // nothing can be run here
				root, err := assemble(t, image)
				if err != nil {
					t.Fatal(err)
				}
				compare(t, input.Synced.Files, root)
			}
		}
		if *update {
			archive.Files[len(archive.Files)-1].Data = []byte(got.String())
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if got.String() != want {
			t.Errorf("got\n%snot\n%s", got.String(), want)
		}
	})
}

// compare checks that the image's file system holds the synced files, and copies of them nowhere
// else.
func compare(t *testing.T, files []SyncedFile, root string) {
	t.Helper()
	expected, digests := map[string]string{}, map[string]bool{}
	for _, file := range files {
		expected[file.Path] = stateOf(file, root)
		digests[file.Digest] = file.Mode.IsRegular()
	}
	is := imageState(t, root)
	maps.DeleteFunc(is, func(path, state string) bool {
		_, synced := expected[path]
		return !synced && !digests[state[strings.LastIndex(state, " ")+1:]]
	})
	paths := maps.Clone(expected)
	maps.Copy(paths, is)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if is[path] != expected[path] {
			t.Errorf("%s: the image has %q, not %q", path, is[path], expected[path])
		}
	}
}

// stateOf is what imageState says of a file that was synced.
func stateOf(file SyncedFile, root string) string {
	uid, gid := numbers(root, file.Owner)
	if os.Getuid() != 0 {
		uid, gid = os.Getuid(), os.Getgid()
	}
	return fmt.Sprint(file.Mode, " ", uid, ":", gid, " ", file.Digest, file.Link)
}

// imageState returns mode, owner and content of all that is in an image.
func imageState(t *testing.T, root string) map[string]string {
	t.Helper()
	is := map[string]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		content := ""
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			content, err = os.Readlink(path)
		case info.Mode().IsRegular():
			var text []byte
			text, err = os.ReadFile(path)
			sum := sha256.Sum256(text)
			content = hex.EncodeToString(sum[:])
		}
		owner := info.Sys().(*syscall.Stat_t)
		is[strings.TrimPrefix(path, root)] = fmt.Sprint(info.Mode(), " ", owner.Uid, ":", owner.Gid, " ", content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// TestRest: Rest is the same after changes of synced files alone, and another one after all others.
func TestRest(t *testing.T) {
	files := tree{
		"Dockerfile": "FROM base\nARG A=1\nLABEL a=$A\nCOPY setup.cfg .\nCOPY src src\nCOPY more/ /more\nRUN pip install .\n",
		"src/a.py":   "a", "src/b.py": "b", "src/sub/c.py": "c", "src/data/d.txt": "d", "setup.cfg": "s",
		"src/data/e.py": "e", "more/x.txt": "x", ".dockerignore": "**/*.pyc\n", "src/to@": "a.py",
	}
	rules := []SyncRule{{From: "src/**/*.py", To: "src"}, {From: "more/"}}
	dir := files.write(t)
	image := Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir, Sync: rules}
	builder := newSyncBuilder(t)
	hash := func(change func(*Image) error) (rest, full string) {
		t.Helper()
		changed := image
		if change != nil {
			if err := change(&changed); err != nil {
				t.Fatal(err)
			}
		}
		input, err := builder.Hash(t.Context(), changed)
		if err != nil {
			t.Fatal(err)
		}
		return input.Synced.Rest, input.Hash
	}
	write := func(name, content string) func(*Image) error {
		return func(*Image) error {
			name := filepath.Join(dir, name)
			return errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644))
		}
	}
	remove := func(name string) func(*Image) error {
		return func(*Image) error { return os.RemoveAll(filepath.Join(dir, name)) }
	}
	chmod := func(name string, mode fs.FileMode) func(*Image) error {
		return func(*Image) error { return os.Chmod(filepath.Join(dir, name), mode) }
	}
	rename := func(from, to string) func(*Image) error {
		return func(*Image) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	}
	rule := func(rules ...SyncRule) func(*Image) error {
		return func(i *Image) error {
			i.Sync = rules
			return nil
		}
	}
	before, fullBefore := hash(nil)
	for _, change := range []struct {
		what       string
		do         func(*Image) error
		rest, full bool // whether they are another one
	}{
		{"nothing", nil, false, false},
		{"an edit", write("src/a.py", "aa"), false, true},
		{"a mode", chmod("src/a.py", 0o755), false, true},
		{"a new file", write("src/new.py", "n"), false, true},
		{"a new folder", write("src/new/deep/n.py", "n"), false, true},
		{"a folder's mode", chmod("src/new/deep", 0o700), false, true},
		{"a new name", rename("src/b.py", "src/new/deep/bb.py"), false, true},
		{"another folder", rename("src/new", "src/newer"), false, true},
		{"files away", remove("src/newer/deep/n.py"), false, true},
		{"the folder away", remove("src/newer"), false, true},
		{"the last file of a folder", remove("src/sub/c.py"), false, true},
		{"that folder", remove("src/sub"), false, true},
		{"a file of a rule for a folder", write("more/y/z", "z"), false, true},
		{"a new link", func(*Image) error { return os.Symlink("x.txt", filepath.Join(dir, "more/link")) }, false, true},
		{"an ignored file", write("src/a.pyc", "ignored"), false, false},
		{"an editor's file", write("src/.a.py.swp", "temporary"), false, false},
		{"a file that is not synced", write("src/data/d.txt", "dd"), true, true},
		{"the mode of one", chmod("src/data/d.txt", 0o600), true, true},
		{"a folder with one", chmod("src/data", 0o700), true, true},
		{"a new one", write("src/sub/d.txt", "d"), true, true},
		{"one away", remove("src/sub"), true, true},
		{"a link that is not synced", remove("src/to"), true, true},
		{"a file beside", write("setup.cfg", "ss"), true, true},
		{"a rule", rule(SyncRule{From: "src/**/*.py"}, rules[1]), true, true},
		{"a rule less", rule(rules[0]), true, true},
		{"rules the other way round", rule(rules[1], rules[0]), true, true},
		{"an argument", func(i *Image) error {
			i.Args = map[string]string{"A": "2"}
			return nil
		}, true, true},
		{"a RUN", write("Dockerfile", strings.Replace(files["Dockerfile"], "pip", "uv", 1)), true, true},
		{"a destination", write("Dockerfile", strings.Replace(files["Dockerfile"], "/more\n", "/most\n", 1)), true, true},
		{"an owner", write("Dockerfile", strings.Replace(files["Dockerfile"], "COPY more", "COPY --chown=1 more", 1)), true,
			true},
		{"the base image's folder", write("Dockerfile", strings.Replace(files["Dockerfile"], "base", "scratch", 1)), true,
			true},
	} {
		rest, full := hash(change.do)
		if (rest != before) != change.rest || (full != fullBefore) != change.full {
			t.Errorf("%s: Rest is another one: %v; the hash is: %v", change.what, rest != before, full != fullBefore)
		}
		if change.do != nil {
			before, fullBefore = hash(nil)
		}
	}
	withRules, _ := builder.Hash(t.Context(), image)
	image.Sync = nil
	without, err := builder.Hash(t.Context(), image)
	if err != nil || without.Tag == withRules.Tag || without.Synced != nil {
		t.Errorf("without rules, containers with synced files are not replaced: %s, %s, %v", without.Tag, withRules.Tag, err)
	}
}

// TestRestOfFrom: what is synced into an image is an input like all others of one that is built
// from it.
func TestRestOfFrom(t *testing.T) {
	b := newSyncBuilder(t)
	hash := func(content string) (base, app Input) {
		t.Helper()
		dir := tree{"Dockerfile": "FROM scratch\nCOPY src /app\n", "src/a.py": content}.write(t)
		base, err := b.Hash(t.Context(), Image{Name: "lower", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir,
			Sync: []SyncRule{{From: "src"}}})
		if err != nil {
			t.Fatal(err)
		}
		dir = tree{"Dockerfile": "ARG BASE\nFROM $BASE\nCOPY src /app\n", "src/b.py": "b"}.write(t)
		app, err = b.Hash(t.Context(), Image{Name: "app", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir,
			Sync: []SyncRule{{From: "src"}}, From: []Input{base}, Args: map[string]string{"BASE": base.Tag.String()}})
		if err != nil {
			t.Fatal(err)
		}
		return base, app
	}
	base1, app1 := hash("1")
	base2, app2 := hash("2")
	if base1.Synced.Rest != base2.Synced.Rest || app1.Synced.Rest == app2.Synced.Rest {
		t.Errorf("the base image: %v, the one from it: %v", base1.Synced, app1.Synced)
	}
}

// TestSyncedOther: what cannot be made elsewhere as it is here, and what ADD unpacks, stays a
// matter of builds.
func TestSyncedOther(t *testing.T) {
	dir := tree{"Dockerfile": "FROM scratch\nCOPY src /app\nADD a.tar b.gz c.txt /app/\n", "src/a": "a", "src/xattr": "x",
		"c.txt": "plain", "src/folder/f": "f"}.write(t)
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	if err := errors.Join(writer.WriteHeader(&tar.Header{Name: "inside", Mode: 0o644}), writer.Close(),
		os.WriteFile(filepath.Join(dir, "a.tar"), archive.Bytes(), 0o644), unix.Mkfifo(filepath.Join(dir, "src/pipe"), 0o644),
		unix.Setxattr(filepath.Join(dir, "src/xattr"), "user.a", []byte("b"), 0)); err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	_, err := zip.Write([]byte("no archive"))
	if err := errors.Join(err, zip.Close(), os.WriteFile(filepath.Join(dir, "b.gz"), zipped.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "src/socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	input, err := newSyncBuilder(t).Hash(t.Context(), Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"),
		Context: dir, Sync: []SyncRule{{From: "**"}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, file := range input.Synced.Files {
		got = append(got, file.Path)
	}
	if want := "/app/a /app/b.gz /app/c.txt /app/folder /app/folder/f"; strings.Join(got, " ") != want {
		t.Errorf("synced: %v, not %s", got, want)
	}
}
