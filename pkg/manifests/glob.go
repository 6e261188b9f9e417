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

// Extensions are those of manifests, as kubectl has them.
var Extensions = []string{".yaml", ".yml", ".json"}

func isManifest(name string) bool { return slices.Contains(Extensions, path.Ext(name)) }

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

// glob is the parts of a pattern between its slashes; ** stands for any number of folders.
type glob []string

// places are indexes into a glob: what may match the rest of a path. One that is the glob's length
// says that all of it has matched.
type places []int

// at returns the places at an index.
func (g glob) at(index int) places {
	if index < len(g) && g[index] == "**" {
		return append(places{index}, g.at(index+1)...)
	}
	return places{index}
}

// next returns the places after a name. Hidden names match only what begins with a dot.
func (g glob) next(from places, name string) (after places) {
	for _, i := range from {
		switch {
		case i == len(g), isHidden(name) && !strings.HasPrefix(g[i], "."):
		case g[i] == "**":
			after = append(after, g.at(i)...)
		default:
			if match, _ := path.Match(g[i], name); match { // the pattern was checked
				after = append(after, g.at(i+1)...)
			}
		}
	}
	slices.Sort(after)
	return slices.Compact(after)
}

// walk reads what a glob or a folder leads to, in the order of names.
type walk struct {
	*reader
	glob    glob
	matched bool // a file, though another pattern may have named it before
}

// folder reads what is in a folder; above are its parents, with links resolved.
func (w *walk) folder(at string, from places, above []fs.FileInfo) error {
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
		if w.entriesLeft--; w.entriesLeft < 0 {
			return fmt.Errorf("manifests in %s: more than %d files and folders; name the folders with the manifests",
				w.name(at), maxEntries)
		}
		after := w.glob.next(from, entry.Name())
		if len(after) == 0 {
			continue
		}
		if err := w.entry(filepath.Join(at, entry.Name()), after, append(above, here)); err != nil {
			return err
		}
	}
	return nil
}

// entry reads a file or a folder that the glob has led to.
func (w *walk) entry(at string, after places, above []fs.FileInfo) error {
	complete := slices.Contains(after, len(w.glob))
	wanted := complete && isManifest(at)
	info, err := os.Stat(at)
	switch {
	case err != nil && wanted:
		return fmt.Errorf("manifest %s: %w", w.name(at), reason(err))
	case err != nil:
		return nil // a link to nothing
	case info.IsDir() && complete: // with all that is in it
		inner := walk{reader: w.reader, glob: glob{"**"}}
		err := inner.folder(at, inner.glob.at(0), above)
		w.matched = w.matched || inner.matched
		return err
	case info.IsDir():
		return w.folder(at, after, above)
	case wanted:
		w.matched = true
		return w.file(at)
	}
	return nil
}
