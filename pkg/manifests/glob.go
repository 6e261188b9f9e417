package manifests

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/files"
)

// maxDepth limits folders in folders.
const maxDepth = 50

// splitPattern splits a pattern before its first segment with a wildcard: rest is "" if it has
// none, or if a file has the name of the pattern.
func splitPattern(pattern string) (fixed, rest string) {
	segments := strings.Split(filepath.ToSlash(pattern), "/")
	first := slices.IndexFunc(segments, func(s string) bool { return strings.ContainsAny(s, `*?[`) })
	if first < 0 {
		return pattern, ""
	}
	if _, err := os.Lstat(pattern); err == nil {
		return pattern, ""
	}
	return filepath.Clean("/" + strings.Join(segments[:first], "/")), strings.Join(segments[first:], "/")
}

// isManifest tells whether a file in a folder is taken for a manifest.
func isManifest(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return !isHidden(name)
	}
	return false
}

func isHidden(name string) bool { return strings.HasPrefix(name, ".") || files.IsToolFile(name) }

// manifestsIn returns the names of the first files in folder that may be manifests, and of its
// folders.
func manifestsIn(folder string) []string {
	const most = 8
	var names []string
	entries, _ := os.ReadDir(folder) // they are only suggestions
	for _, entry := range entries {
		switch {
		case isHidden(entry.Name()):
			continue
		case entry.IsDir():
			names = append(names, entry.Name()+"/")
		case isManifest(entry.Name()):
			names = append(names, entry.Name())
		}
	}
	if len(names) > most {
		return append(names[:most], "…")
	}
	return names
}

// walk reads what a glob or a folder leads to, in the order of names.
type walk struct {
	*reader
	matched bool // a file, though another pattern may have named it before
}

// folder matches what is in a folder with the segments of a pattern; above are its parents, with
// links resolved.
func (w *walk) folder(at string, segments []string, above []fs.FileInfo) error {
	here, err := os.Stat(at)
	switch {
	case err != nil:
		return fmt.Errorf("manifests in %s: %w", w.name(at), reason(err))
	case slices.ContainsFunc(above, func(other fs.FileInfo) bool { return os.SameFile(here, other) }):
		return nil // a link to a folder that it is in
	case len(above) == maxDepth:
		return fmt.Errorf("manifests in %s: its folders are more than %d deep", w.name(at), maxDepth)
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return fmt.Errorf("manifests in %s: %w", w.name(at), reason(err))
	}
	for _, entry := range entries {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if w.left--; w.left < 0 {
			return fmt.Errorf("manifests in %s: more than %d files and folders; name the folders with the manifests",
				w.name(at), maxLooked)
		}
		if err := w.entry(filepath.Join(at, entry.Name()), segments, append(above, here)); err != nil {
			return err
		}
	}
	return nil
}

// entry matches a file or a folder with the first of the segments.
func (w *walk) entry(at string, segments []string, above []fs.FileInfo) error {
	name, last := filepath.Base(at), len(segments) == 1
	deep := segments[0] == "**"
	if isHidden(name) && !strings.HasPrefix(segments[0], ".") {
		return nil
	}
	if !deep {
		if match, err := path.Match(segments[0], name); err != nil {
			return fmt.Errorf("manifests: %q is not a pattern: %w", segments[0], err)
		} else if !match {
			return nil
		}
	}
	info, err := os.Stat(at)
	switch {
	case err != nil && isManifest(name):
		return fmt.Errorf("manifest %s: %w", w.name(at), reason(err))
	case err != nil:
		return nil
	case info.IsDir() && deep:
		return w.folder(at, segments, above)
	case info.IsDir() && last:
		return w.folder(at, []string{"**"}, above)
	case info.IsDir():
		return w.folder(at, segments[1:], above)
	case deep && !last:
		return w.entry(at, segments[1:], above)
	case last && isManifest(name):
		w.matched = true
		return w.file(at)
	}
	return nil
}
