package loop

// What a change is worth: files that hold what they held when they were read are no reason to
// build.

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
	"github.com/devloop/devloop/pkg/watch"
)

// filterTimeout bounds the look at the files after a change. It takes milliseconds, but Docker is
// asked for base images, and may hang. After that the change counts.
const filterTimeout = 500 * time.Millisecond

// reading is what a run has read.
type reading struct {
	stages       Stages
	target       *Target
	roots        []string // files and folders of the configuration, values and charts
	filesAtStart []file   // below roots, before the first of them was read
	sum          string   // of all content
	rest         string   // of all content but the files that are synced
}

// checkUnmoved returns event.ErrSuperseded if a file was written since the run began to read: a
// stage may have read half of the new content, even if the old one is back. Images check their own
// inputs.
func (r *reading) checkUnmoved(ctx context.Context) error {
	if now := walk(ctx, r.roots); now.err != nil || !slices.Equal(now.files, r.filesAtStart) {
		return event.ErrSuperseded
	}
	return nil
}

// worth is what a change is worth.
type worth int

const (
	worthRun  worth = iota
	worthSync       // only files that are synced hold something else
	worthNothing
)

// weigh compares the files with what the run under way, or the last good one, has read.
func (l *Loop) weigh(ctx context.Context) worth {
	before := l.lastRead.Load()
	if before == nil {
		return worthRun
	}
	ctx, cancel := context.WithTimeout(ctx, filterTimeout)
	defer cancel()
	target, _, err := before.stages.Images.Hash(ctx)
	if err != nil {
		return worthRun
	}
	now := walk(ctx, before.roots)
	all, rest := sums(target, sumFiles(ctx, now.files))
	switch {
	case now.err != nil || l.lastRead.Load() != before:
		return worthRun
	case all == before.sum:
		return worthNothing
	case rest == before.rest:
		return worthSync
	}
	return worthRun
}

// maxRead is the size of files, in bytes, up to which their content counts. Helm allows no larger
// ones in a chart; others, which take seconds to read, count by size and time.
const maxRead = 16 << 20

// sums are of all content, that of files and of images by their tags; and of all but the files that
// are synced.
func sums(target *Target, content string) (all, rest string) {
	tags, rests := []string{content}, []string{content}
	for _, image := range target.Images {
		tag := image.Tag.String()
		tags, rests = append(tags, tag), append(rests, cmp.Or(image.Rest, tag))
	}
	return strings.Join(tags, "\n"), strings.Join(rests, "\n")
}

// sumFiles is of the content of files. Only regular files are read, a block at a time; if ctx ends
// meanwhile, the sum matches no complete one.
func sumFiles(ctx context.Context, list []file) string {
	h := sha256.New() // to which writing never fails
	for _, f := range list {
		if f.size > maxRead {
			_, _ = fmt.Fprintf(h, "%q %d %d\n", f.path, f.size, f.modified)
			continue
		}
		content := sha256.New()
		_, err := files.Copy(ctx, content, f.path, maxRead) // it may be growing
		_, _ = fmt.Fprintf(h, "%q %v %x\n", f.path, err, content.Sum(nil))
	}
	_, _ = fmt.Fprintf(h, "%v\n", ctx.Err())
	return hex.EncodeToString(h.Sum(nil))
}

// file is a file's state, links followed. It is comparable.
type file struct {
	path     string
	exists   bool
	size     int64
	mode     fs.FileMode
	modified int64
}

// tree is what a walk found.
type tree struct {
	files []file   // everything but folders, and what does not exist
	watch []string // what has to be watched so that every change in it is noticed, since watches do not follow links
	err   error    // why it is not complete
}

// maxWalked is how many files and folders may be below what a run reads, links followed. A link may
// lead to the root of the machine's files.
const maxWalked = 100_000

// walk finds what is below files and folders, also behind links, as Helm reads charts, without the
// files of editors and other tools, which no chart holds. A root may be a glob. It enters each
// linked folder once per root. It ends with ctx, and goes on with the next root after maxWalked.
func walk(ctx context.Context, roots []string) (t tree) {
	for _, root := range roots {
		t.err = cmp.Or(t.err, t.add(ctx, root))
	}
	return t
}

func (t *tree) add(ctx context.Context, root string) error {
	left, entered := maxWalked, map[string]bool{}
	watched := watch.Root(root)
	excluded := func(string, bool) bool { return false }
	if watched.Name != root { // a glob
		excluded = watched.Filter()
	}
	todo := []string{watched.Name}
	var links []string
	for i := 0; i < len(todo); i++ {
		err := filepath.WalkDir(todo[i], func(path string, entry fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			isFolder := entry != nil && entry.IsDir()
			if path != todo[i] && (files.IsToolFile(filepath.Base(path)) || excluded(path, isFolder)) {
				if isFolder {
					return fs.SkipDir
				}
				return nil
			}
			if left--; left < 0 {
				return event.WithHint(
					fmt.Errorf("%s: more than %d files and folders are below it, links followed", root, maxWalked),
					"move what does not belong to it elsewhere, also links that lead out of it")
			}
			if err == nil && entry.IsDir() {
				return nil
			}
			info, statErr := os.Stat(path)
			switch {
			case err != nil || statErr != nil:
				t.files = append(t.files, file{path: path})
			case !info.IsDir():
				t.files = append(t.files, file{path, true, info.Size(), info.Mode(), info.ModTime().UnixNano()})
				if path != root && entry.Type()&fs.ModeSymlink != 0 {
					links = append(links, path)
				}
			default:
				if folder, err := filepath.EvalSymlinks(path); err == nil && !entered[folder] {
					entered[folder] = true
					todo, links = append(todo, folder), append(links, path)
				}
			}
			return nil // so that the walk goes on
		})
		if err != nil {
			return err
		}
		if i == 0 {
			t.watch = append(t.watch, root) // also if its links lead to more than can be watched
		}
	}
	t.watch = append(t.watch, links...)
	return nil
}
