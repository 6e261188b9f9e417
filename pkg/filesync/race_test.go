//go:build linux

package filesync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// Whatever a container does meanwhile, nothing outside of it changes.
func TestRaces(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		outside := t.TempDir()
		for _, path := range []string{"x.py", "sub/y.py", "gone/z", "__pycache__/p"} {
			path = filepath.Join(outside, path)
			err := os.MkdirAll(filepath.Dir(path), 0o755)
			if err = errors.Join(err, os.WriteFile(path, []byte("outside"), 0o640)); err != nil {
				t.Fatal(err)
			}
		}
		before := snapshot(t, outside)
		for _, target := range []string{outside, "../../../../../../../../../.." + outside, "/proc/1/root" + outside} {
			c := startContainer(t, nil, "flip", "/app/flips", target)
			for i := range 8 {
				_, err := Write(t.Context(), n, []Container{c.Container}, []File{
					source(t, "/app/flips/x.py", fmt.Sprint("new", i), 0o644),
					source(t, "/app/flips/sub/y.py", fmt.Sprint("new", i), 0o644),
					source(t, "/app/flips/new/y.py", fmt.Sprint("new", i), 0o644),
					source(t, "/app/flips/gone", fmt.Sprint("a file ", i), 0o644),
					{Path: "/app/flips/gone/z", Absent: true},
					{Path: "/app/flips", Absent: true},
				})
				if err != nil {
					t.Fatal(err)
				}
				if after := snapshot(t, outside); after != before {
					t.Fatalf("outside: %s\nnot %s", after, before)
				}
			}
		}
	})
}

// snapshot is all that is in a folder.
func snapshot(t *testing.T, folder string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&all, "%s %s %s %s", path, info.Mode(), info.ModTime(), ownerOf(t, path))
		if entry.Type().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&all, " %s", content)
		}
		all.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return all.String()
}

// Of a connection that breaks nothing is left, and no file is half-written.
func TestBroken(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		c := startContainer(t, map[string]string{"/a": "old", "/gone": "old"})
		gone := File{Path: "/gone", Absent: true}
		small, large := source(t, "/a", "new", 0o644), source(t, "/b", strings.Repeat("x", 4<<20), 0o644)
		for _, after := range []int64{10, 120, 300, 2000, 1 << 20, 4<<20 + 1500} {
			_, err := Write(t.Context(), breaks{n, after}, []Container{c.Container}, []File{gone, small, large})
			if c.read("/a") != "old" || c.read("/b") != "no such file or directory" || c.read("/gone") != "old" {
				t.Errorf("after %d bytes: %s, %s, %v", after, c.read("/a"), c.read("/gone"), err)
			}
			c.clean()
		}
	})
}

// breaks is a node to which only so many bytes come.
type breaks struct {
	node
	after int64
}

func (b breaks) Run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	out, err := b.node.Run(ctx, io.LimitReader(stdin, b.after), args...)
	_ = stdin.(io.Closer).Close()
	return out, err
}

// However a script ends, each file is the old one or the new one, and the next script cleans up.
func TestKilled(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		c := startContainer(t, nil)
		var old, changed []File
		for i := range 24 {
			path := fmt.Sprintf("/app/%d/x%d.py", i/2, i)
			old = append(old, source(t, path, "old"+strconv.Itoa(i), 0o644))
			changed = append(changed, source(t, path, "new"+strconv.Itoa(i), 0o644))
		}
		whole := time.Now()
		holds(t, n, c, writeTo(t, n, c, old...), old...)
		duration := time.Since(whole)
		var paths []string
		for _, file := range old {
			paths = append(paths, file.Path)
		}
		for i := range 9 {
			n.signal = []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGHUP}[i%3]
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.Int64N(int64(duration))))
			_, err := Write(ctx, n, []Container{c.Container}, changed)
			cancel()
			listings, lookErr := Look(t.Context(), n, []Container{c.Container}, paths)
			if lookErr != nil || listings[0].Err != nil && !event.IsTransient(listings[0].Err) {
				t.Fatal(lookErr, listings)
			}
			for i, file := range old {
				state, ok := listings[0].Files[file.Path]
				if ok && !state.Matches(file) && !state.Matches(changed[i]) {
					t.Errorf("%v: %s: %+v", err, file.Path, state)
				}
			}
		}
		holds(t, n, c, writeTo(t, n, c, changed...), changed...)
	})
}
