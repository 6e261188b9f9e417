// What a change is worth: files that hold what they held when they were read are no reason to build anything.
package loop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// lookTimeout bounds the look at the files after a change, which takes milliseconds; base images are asked of Docker, which may hang.
// After that the change counts.
const lookTimeout = 500 * time.Millisecond

// sifted is a Change, and whether the files hold the same as before.
type sifted struct {
	Change
	same bool
}

// reading is what a run has read, and what it came to.
type reading struct {
	stages Stages
	tags   []name.Tag
	files  []string // of the configuration, values and charts
	sum    string   // of all content
	stamp  string   // of files, before the first of them was read
}

// unmoved returns event.ErrSuperseded if a file was written since the run began to read: a stage may have seen it halfway, though it
// holds now what it held then. Images look after their own inputs.
func (r *reading) unmoved(ctx context.Context) error {
	if stamp(ctx, r.files) != r.stamp {
		return event.ErrSuperseded
	}
	return nil
}

// sift passes changes on until ctx ends.
func (l *Loop) sift(ctx context.Context, out chan<- sifted) {
	for {
		select {
		case c := <-l.changes:
			s := sifted{Change: c}
			if !c.Asked { // after a panic the change counts, and the run meets the same and tells it
				_ = l.sink.For("loop").Guard("look at a change", func() error {
					s.same = l.same(ctx)
					return nil
				})
			}
			if s.same {
				l.sink.For("loop").Detail("files hold what they held before", "files", names(c.Paths))
			}
			select {
			case out <- s:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// same reports whether the files hold what the run under way, or the last good one, has read.
func (l *Loop) same(ctx context.Context) bool {
	before := l.read.Load()
	if before == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	tags, _, err := before.stages.Images.Hash(ctx)
	if err != nil || sum(ctx, tags, before.files) != before.sum {
		return false
	}
	return l.read.Load() == before
}

// largestRead is the size of files, in bytes, up to which their content counts. No chart may have
// larger ones; what lies beside it may, and counts by its size and time, as to read it takes
// seconds.
const largestRead = 16 << 20

// sum is of the content of files, and of folders with all that is in them, and of images by their
// tags. Links are followed, as those do who read the files. Only regular files are read, a block at
// a time; if ctx ends meanwhile, the result matches no complete one.
func sum(ctx context.Context, tags []name.Tag, paths []string) string {
	h := sha256.New() // to which writing never fails
	for _, tag := range tags {
		_, _ = fmt.Fprintf(h, "%s\n", tag)
	}
	err := each(ctx, paths, func(path string) {
		if info, err := os.Stat(path); err == nil && info.Size() > largestRead {
			_, _ = fmt.Fprintf(h, "%q %d %d\n", path, info.Size(), info.ModTime().UnixNano())
			return
		}
		content := sha256.New()
		_, err := files.Copy(ctx, content, path, largestRead) // it may be growing
		_, _ = fmt.Fprintf(h, "%q %v %x\n", path, err, content.Sum(nil))
	})
	_, _ = fmt.Fprintf(h, "%v\n", err)
	return hex.EncodeToString(h.Sum(nil))
}

// stamp tells by size and time whether files were written.
func stamp(ctx context.Context, files []string) string {
	h := sha256.New()
	err := each(ctx, files, func(path string) {
		info, err := os.Stat(path)
		if err != nil {
			_, _ = fmt.Fprintf(h, "%q %v\n", path, err)
			return
		}
		_, _ = fmt.Fprintf(h, "%q %d %v %d\n", path, info.Size(), info.Mode(), info.ModTime().UnixNano())
	})
	_, _ = fmt.Fprintf(h, "%v\n", err)
	return hex.EncodeToString(h.Sum(nil))
}

// mostWalked is how many files and folders may be below what a run reads, links followed. A link may
// lead to the root of the machine's files.
const mostWalked = 100_000

// each visits files, and in folders everything but folders; folders behind links, too, as Helm reads charts.
func each(ctx context.Context, files []string, visit func(path string)) error {
	for _, file := range files {
		if err := walk(ctx, file, visit, func(string) {}); err != nil {
			return err
		}
	}
	return nil
}

// linked returns the links below a file or folder that lead to folders.
func linked(ctx context.Context, file string) (links []string, err error) {
	err = walk(ctx, file, func(string) {}, func(link string) { links = append(links, link) })
	return links, err
}

// small tells whether a folder can be watched: without what its links lead to.
func small(ctx context.Context, folder string) bool {
	left := mostWalked
	return filepath.WalkDir(folder, func(string, fs.DirEntry, error) error {
		if left--; left < 0 || ctx.Err() != nil {
			return fs.SkipAll
		}
		return nil
	}) == nil && left >= 0 && ctx.Err() == nil
}

// walk visits what is not a folder, and what is not there at all, below a path; it enters each real
// folder once. It ends with ctx, and with an error after mostWalked.
func walk(ctx context.Context, root string, visit, link func(path string)) error {
	left, entered := mostWalked, map[string]bool{}
	var enter func(root string) error
	enter = func(below string) error {
		return filepath.WalkDir(below, func(path string, entry fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if left--; left < 0 {
				return event.WithHint(fmt.Errorf("%s: more than %d files and folders are below it, links followed", root, mostWalked),
					"move what is no part of it elsewhere, also links that lead out of it")
			}
			switch {
			case err != nil:
				visit(path)
			case entry.Type()&fs.ModeSymlink != 0:
				target, err := filepath.EvalSymlinks(path)
				if info, statErr := os.Stat(path); err != nil || statErr != nil || !info.IsDir() {
					visit(path)
				} else if !entered[target] {
					entered[target] = true
					link(path)
					return enter(target)
				}
			case !entry.IsDir():
				visit(path)
			}
			return nil // so that the walk goes on
		})
	}
	return enter(root)
}
