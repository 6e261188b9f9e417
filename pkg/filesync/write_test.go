//go:build linux

package filesync

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// source is a file of this machine that is to be at a path.
func source(t testing.TB, path, content string, mode fs.FileMode) File {
	t.Helper()
	name := filepath.Join(t.TempDir(), strconv.Itoa(len(content)))
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(content))
	return File{Path: path, Source: name, Mode: mode, Size: int64(len(content)), Digest: hex.EncodeToString(sum[:])}
}

// writeTo writes files into one container.
func writeTo(t testing.TB, n node, c *container, files ...File) Written {
	t.Helper()
	written, err := Write(t.Context(), n, []Container{c.Container}, files)
	if err != nil {
		t.Fatal(err)
	}
	c.clean()
	return written[0]
}

// holds fails unless the files were written, and are seen.
func holds(t testing.TB, n node, c *container, w Written, files ...File) {
	t.Helper()
	if w.Err != nil {
		t.Errorf("write: %v", w.Err)
		return
	}
	var paths []string
	for _, file := range files {
		paths = append(paths, file.Path)
		if state := w.Files[file.Path]; !state.Matches(file) {
			t.Errorf("written %s: %+v, not %+v", file.Path, state, file)
		}
	}
	listings, err := Look(t.Context(), n, []Container{c.Container}, paths)
	if err != nil || listings[0].Err != nil {
		t.Fatal(err, listings[0].Err)
	}
	for _, file := range files {
		if state := listings[0].Files[file.Path]; !state.Matches(file) {
			t.Errorf("seen %s: %+v, not %+v", file.Path, state, file)
		}
	}
}

func TestWrite(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		c := startContainer(t, map[string]string{
			"/app/old.py": "old", "/app/gone.py": "gone", "/app/cache/__pycache__/a.pyc": "compiled",
			"/app/folder/x/y": "in it", "/app/file": "file", "/link": "-> /app", "/app/link": "-> ../../app/old.py",
			"/etc/passwd": "root:x:0:0::/:\nme:x:1234:2345::/:\n", "/etc/group": "root:x:0:\nus:x:777:\n"})
		if err := os.Chown(c.path("/app/old.py"), 1000, 1001); err != nil {
			t.Fatal(err)
		}
		all := []File{
			source(t, "/app/old.py", "new", 0o644),
			source(t, "/app/-n new", "", 0o755),
			source(t, "/link/by link.py", "by link", 0o600),
			source(t, `/app/a\b 'c' "d" $e`+" ü*?", "odd", 0o644),
			source(t, "/app/new/deep/er/x.py", "deeper", 0o644),
			source(t, "/app/.hidden", "hidden", 0o644),
			source(t, "/app/folder", "a file now", 0o644),
			source(t, "/app/file/inside", "a folder now", 0o644),
			source(t, "/app/link", "no link any more", 0o644),
			{Path: "/app/file", Mode: fs.ModeDir | 0o700},
			{Path: "/app/to", Mode: fs.ModeSymlink | 0o777, Link: "old.py"},
			{Path: "/app/links/of one", Mode: fs.ModeSymlink | 0o777, Link: "../old.py"},
			{Path: "/app/gone.py", Absent: true},
			{Path: "/app/never/there", Absent: true},
			{Path: "/app/cache", Absent: true},
		}
		holds(t, n, c, writeTo(t, n, c, all...), all...)
		for path, want := range map[string]string{"/app/old.py": "new", "/app/by link.py": "by link",
			"/app/folder": "a file now", "/app/gone.py": "no such file or directory",
			"/app/cache": "no such file or directory", "/app/to": "new"} {
			if got := c.read(path); got != want {
				t.Errorf("%s: %q", path, got)
			}
		}
		for _, path := range []string{"/app/old.py", "/app/by link.py", "/app/new/deep/er/x.py"} {
			if owner := ownerOf(t, c.path(path)); path == "/app/old.py" && owner != "1000:1001" {
				t.Errorf("%s: %s", path, owner)
			}
		}
	})
}

func ownerOf(t testing.TB, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return ""
	}
	stat := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", stat.Uid, stat.Gid)
}

// A new file has the owner of those that are there, or what the plan says by the container's names.
func TestOwners(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		c := startContainer(t, map[string]string{"/a": "a", "/b": "b", "/other": "x",
			"/etc/passwd": "root:x:0:0::/:\nme:x:1234:2345::/:\n", "/etc/group": "root:x:0:\nus:x:777:\n"})
		owned := func(path, owner string) File {
			file := source(t, path, path, 0o644)
			file.Owner = owner
			return file
		}
		owners := map[string]string{"": "0:0", "me": "1234:2345", "me:us": "1234:777", "5": "5:5", "5:6": "5:6"}
		for owner, want := range owners {
			path := "/new/" + owner + "/x"
			w := writeTo(t, n, c, owned(filepath.Clean(path), owner))
			if got := ownerOf(t, c.path(path)); w.Err != nil || got != want {
				t.Errorf("%q: %s, %v", owner, got, w.Err)
			}
		}
		for _, path := range []string{"/a", "/b"} {
			if err := os.Chown(c.path(path), 10, 20); err != nil {
				t.Fatal(err)
			}
		}
		all := []File{owned("/a", ""), owned("/b", ""), owned("/c", "me"), owned("/folder/c", "me")}
		holds(t, n, c, writeTo(t, n, c, all...), all...)
		for _, file := range all {
			if got := ownerOf(t, c.path(file.Path)); got != "10:20" {
				t.Errorf("%s: %s", file.Path, got)
			}
		}
		for _, file := range []File{owned("/around/1", "me"), owned("/around/2", "")} {
			if w := writeTo(t, n, c, file); w.Err != nil || ownerOf(t, c.path(file.Path)) != "1234:2345" {
				t.Errorf("%s: %s, %v", file.Path, ownerOf(t, c.path(file.Path)), w.Err)
			}
		}
		w := writeTo(t, n, c, owned("/x", "nobody"))
		if refusal := (&Refusal{}); !errors.As(w.Err, &refusal) || refusal.Reason != "it has no user or group nobody" {
			t.Errorf("%v", w.Err)
		}
	})
}

// What cannot get files says why, and keeps what it had.
func TestRefused(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		elsewhere, none := t.TempDir(), "no such file or directory"
		if err := os.WriteFile(elsewhere+"/x", []byte("in the volume"), 0o644); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{"/app/x": "old", "/app/y": "old"}
		both := []File{source(t, "/app/x", "new", 0o644), source(t, "/app/y", "new", 0o644)}
		for name, test := range map[string]struct {
			args   []string
			files  []File
			reason string
			y      string
		}{
			"read-only":          {[]string{"readonly"}, both, "its file system is read-only", "old"},
			"a volume":           {[]string{"bind", elsewhere, "app"}, both, "a volume covers /app", none},
			"a tmpfs":            {[]string{"tmpfs", "app", ""}, both, "a volume covers /app", none},
			"a file of a volume": {[]string{"bind", elsewhere + "/x", "app/x"}, both, "a volume covers /app/x", "old"},
			"a volume below": {[]string{"bind", elsewhere, "app/sub dir"}, []File{source(t, "/app", "new", 0o644)},
				"a volume covers /app", "old"},
			"deleted": {[]string{"bind", elsewhere + "/x", "app/x"}, []File{{Path: "/app/x", Absent: true}},
				"a volume covers /app/x", "old"},
			"a link in a ring": {nil, []File{source(t, "/ring/x", "new", 0o644)},
				"the links on the way to /ring cannot be followed", "old"},
		} {
			t.Run(name, func(t *testing.T) {
				files["/app/sub dir/z"], files["/ring"] = "z", "-> /ring"
				c := startContainer(t, files, test.args...)
				w := writeTo(t, n, c, test.files...)
				if refusal := (&Refusal{}); !errors.As(w.Err, &refusal) || refusal.Reason != test.reason {
					t.Errorf("%v", w.Err)
				}
				if got := c.read("/app/y"); got != test.y {
					t.Errorf("/app/y: %s", got)
				}
				if content, err := os.ReadFile(elsewhere + "/x"); string(content) != "in the volume" {
					t.Errorf("the volume: %s, %v", content, err)
				}
			})
		}
		for path, file := range map[string]File{
			"/a\nb": {Path: "/a\nb"}, "a": {Path: "a"}, "/a/../b": {Path: "/a/../b"}, "/": {Path: "/"},
			"/s": {Path: "/s", Mode: 0o644 | fs.ModeSetuid}, "/l": {Path: "/l", Mode: fs.ModeSymlink, Link: "a\tb"},
			"/o": {Path: "/o", Owner: "a b"}, "/dev": {Path: "/dev", Mode: fs.ModeDevice},
		} {
			_, err := Write(t.Context(), n, []Container{{ID: newID(), PID: 1}}, []File{file})
			if refusal := (&Refusal{}); !errors.As(err, &refusal) {
				t.Errorf("%q: %v", path, err)
			}
		}
	})
}

// A container that has ended, and one whose process number another one has now.
func TestGone(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		here, gone := startContainer(t, map[string]string{"/x": "old"}), startContainer(t, nil)
		gone.stop()
		reused := here.Container
		reused.ID = newID()
		file := source(t, "/x", "new", 0o644)
		listings, err := Look(t.Context(), n, []Container{gone.Container, reused, here.Container}, []string{"/x"})
		if err != nil || !errors.Is(listings[0].Err, ErrGone) || !errors.Is(listings[1].Err, ErrGone) ||
			listings[2].Err != nil {
			t.Errorf("%v, %+v", err, listings)
		}
		for range 2 {
			written, err := Write(t.Context(), n, []Container{gone.Container, reused}, []File{file})
			if err != nil || !errors.Is(written[0].Err, ErrGone) || !errors.Is(written[1].Err, ErrGone) ||
				here.read("/x") != "old" {
				t.Errorf("%v, %+v, %s", err, written, here.read("/x"))
			}
		}
		here.clean()
		written, err := Write(t.Context(), n, []Container{gone.Container, here.Container}, []File{file})
		if err != nil || !errors.Is(written[0].Err, ErrGone) || written[1].Err != nil || here.read("/x") != "new" {
			t.Errorf("%v, %+v", err, written)
		}
	})
}

// A process whose root is the node's own is no container of its own.
func TestNoContainer(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		c := startProcess(t, exec.Command("cat"))
		folder := t.TempDir()
		written, err := Write(t.Context(), n, []Container{c}, []File{source(t, folder+"/x", "new", 0o644)})
		if refusal := (&Refusal{}); err != nil || !errors.As(written[0].Err, &refusal) {
			t.Errorf("%v, %+v", err, written)
		}
		if _, err := os.Stat(folder + "/x"); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
}

// Python takes what it compiled from a file with the same time and size.
func TestSameSecond(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		c := startContainer(t, nil)
		saved := time.Now().Truncate(time.Second)
		last := time.Time{}
		for _, content := range []string{"x = 1", "x = 2", "x = 3"} {
			file := source(t, "/x.py", content, 0o644)
			if err := os.Chtimes(file.Source, saved, saved); err != nil {
				t.Fatal(err)
			}
			holds(t, n, c, writeTo(t, n, c, file), file)
			info, err := os.Stat(c.path("/x.py"))
			if err != nil {
				t.Fatal(err)
			}
			if info.ModTime().Equal(last) || info.ModTime().Sub(saved).Abs() > 2*time.Second {
				t.Errorf("%s: %s after %s, saved at %s", content, info.ModTime(), last, saved)
			}
			last = info.ModTime()
		}
	})
}

// Many files, a large one, and containers side by side.
func TestALot(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		var all []File
		for i := range 440 {
			all = append(all, source(t, fmt.Sprintf("/app/pkg%d/sub/mod %d.py", i/420, i), fmt.Sprint("x = ", i), 0o644))
		}
		all = append(all, source(t, "/app/large", strings.Repeat("0123456789abcdef", 16<<20/16), 0o755))
		var containers []*container
		var ids []Container
		for range 2 {
			c := startContainer(t, map[string]string{"/app/pkg0/sub/mod 1.py": "old", "/app/large": "old"})
			containers, ids = append(containers, c), append(ids, c.Container)
		}
		written, err := Write(t.Context(), n, ids, all)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range containers {
			c.clean()
			holds(t, n, c, written[i], all...)
		}
		var absent []File
		for _, file := range all {
			absent = append(absent, File{Path: file.Path, Absent: true})
		}
		for _, folder := range []string{"/app", "/app/pkg0", "/app/pkg0/sub", "/app/pkg1", "/app/pkg1/sub"} {
			absent = append(absent, File{Path: folder, Absent: true})
		}
		holds(t, n, containers[0], writeTo(t, n, containers[0], absent...), absent...)
		if _, err := os.Lstat(containers[0].path("/app")); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
}

// A file that is saved while it is sent must not be taken for what was hashed.
func TestChangedMeanwhile(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		c := startContainer(t, map[string]string{"/a": "old", "/b": "old"})
		for name, change := range map[string]func(path string) error{
			"content": func(path string) error { return os.WriteFile(path, []byte("neu"), 0o600) },
			"longer":  func(path string) error { return os.WriteFile(path, []byte("newer"), 0o600) },
			"shorter": func(path string) error { return os.WriteFile(path, nil, 0o600) },
			"removed": os.Remove,
		} {
			first, second := source(t, "/a", "new", 0o644), source(t, "/b", "new", 0o644)
			if err := change(second.Source); err != nil {
				t.Fatal(err)
			}
			_, err := Write(t.Context(), n, []Container{c.Container}, []File{first, second})
			if !event.IsTransient(err) || !strings.Contains(fmt.Sprint(err), "changed while it was synced") {
				t.Errorf("%s: %v", name, err)
			}
			if c.read("/a") != "old" || c.read("/b") != "old" {
				t.Errorf("%s: %s %s", name, c.read("/a"), c.read("/b"))
			}
			c.clean()
		}
	})
}
