// Package filediff tells what changed in files: the packages of a requirements file, the paths of
// YAML such as a release's values. Of YAML it never shows a value, which may be secret.
package filediff

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
	"github.com/devloop/devloop/pkg/watch"
)

const (
	maxFile   = 512 << 10 // bytes of a file whose content is kept
	maxKept   = 8 << 20   // bytes of all of them
	maxFiles  = 200       // whose content is kept
	maxWalked = 10_000    // files and folders that are looked through for them
	// maxCompared is how many bytes are compared before a run starts: what changed must not delay it.
	maxCompared = 256 << 10

	shownFiles = 5
	shownLines = 5  // of a file
	shownText  = 80 // characters of a name or a version
)

// Tracker says how files differ from what they held when the last run that succeeded read them, or,
// until one has, when the first run did. That is what the next run brings, however many runs failed
// or were superseded in between. It is not safe for concurrent use.
type Tracker struct {
	base *reading // nil until there was a run
	last *reading // of the last run
}

// reading is what files held at one time.
type reading struct {
	files    map[string]content
	bytes    int
	complete bool // no file was left out
}

// content is what a file held.
type content struct {
	format format
	text   []byte
	failed bool // it could not be read
}

// format returns what changed between two texts, nil if one of them is not in this format.
type format func(before, after []byte) []event.LineChange

// Read remembers what a run reads: those of the files, and of the files in folders, whose format is
// known.
func (t *Tracker) Read(ctx context.Context, paths []watch.Path) {
	r := &reading{files: map[string]content{}, complete: true}
	var folders []watch.Path
	for _, path := range paths {
		text, err := files.Read(path.Name, maxFile)
		switch format := formatOf(path.Name); {
		case errors.Is(err, syscall.EISDIR):
			if !slices.ContainsFunc(folders, func(f watch.Path) bool { // images share their context
				return f.Name == path.Name && f.Base == path.Base && slices.Equal(f.Exclude, path.Exclude)
			}) {
				folders = append(folders, path)
			}
		case format != nil:
			r.add(path.Name, format, text, err)
		case err == nil && isRequirements(path.Name, text):
			r.add(path.Name, requirementChanges, text, nil)
		}
	}
	left := maxWalked
	for _, folder := range folders {
		excluded := folder.Filter()
		err := filepath.WalkDir(folder.Name, func(path string, entry fs.DirEntry, err error) error {
			if left--; left < 0 || ctx.Err() != nil {
				r.complete = false
				return fs.SkipAll
			}
			isFolder := entry != nil && entry.IsDir()
			switch {
			case err != nil || path == folder.Name:
			case isFolder && (files.IsToolFile(entry.Name()) || excluded(path, true)):
				return fs.SkipDir
			case !isFolder:
				if format := formatOf(path); format != nil && !excluded(path, false) {
					text, err := files.Read(path, maxFile)
					r.add(path, format, text, err)
				}
			}
			return nil
		})
		r.complete = r.complete && err == nil
	}
	if t.last = r; t.base == nil {
		t.base = r
	}
}

func (r *reading) add(path string, format format, text []byte, err error) {
	if _, known := r.files[path]; known || errors.Is(err, fs.ErrNotExist) {
		return
	}
	if len(r.files) == maxFiles || r.bytes+len(text) > maxKept {
		r.complete = false
		return
	}
	r.bytes += len(text)
	r.files[path] = content{format, text, err != nil}
}

// Succeeded has later changes compared with what the last run read.
func (t *Tracker) Succeeded() { t.base = t.last }

// Changes returns what changed in files: first in those that are given, then in others that differ
// from what they held, since a run that failed or was superseded has not brought them.
func (t *Tracker) Changes(changed []string) event.FileChanges {
	var paths []string
	lines := map[string][]event.LineChange{}
	left, withLines := maxCompared, 0
	look := func(path string, isChanged bool) {
		if _, known := lines[path]; known || withLines == shownFiles {
			return
		}
		lines[path] = t.lines(path, &left)
		if withLines += min(len(lines[path]), 1); isChanged || len(lines[path]) > 0 {
			paths = append(paths, path)
		}
	}
	for _, path := range changed {
		look(path, true)
	}
	if t.base != nil {
		others := slices.Concat(slices.Collect(maps.Keys(t.base.files)), slices.Collect(maps.Keys(t.last.files)))
		slices.Sort(others)
		for _, path := range others {
			look(path, false)
		}
	}
	slices.SortStableFunc(paths, func(a, b string) int { return min(len(lines[b]), 1) - min(len(lines[a]), 1) })
	paths = paths[:min(len(paths), shownFiles)]
	var changes event.FileChanges
	for _, path := range paths {
		all := lines[path]
		shown := all[:min(len(all), shownLines)]
		changes = append(changes,
			event.FileChange{File: shortName(path, paths), Lines: shown, More: len(all) - len(shown)})
	}
	return changes
}

// lines returns what changed in a file since the base, nil if left, which it counts down, is fewer
// bytes than that takes.
func (t *Tracker) lines(path string, left *int) []event.LineChange {
	if t.base == nil || *left <= 0 {
		return nil
	}
	before, known := t.base.files[path]
	format := before.format
	switch {
	case known:
	case !t.base.complete:
		return nil // it may have been there
	case t.last.files[path].format != nil:
		format = t.last.files[path].format
	default:
		format = formatOf(path)
	}
	if format == nil || before.failed {
		return nil
	}
	after, err := files.Read(path, maxFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || bytes.Equal(before.text, after) {
		return nil
	}
	size := len(before.text) + len(after)
	if size > *left {
		return nil
	}
	*left -= size
	return format(before.text, after)
}

// shortName is the base name, with the folder if another one of the paths has the same.
func shortName(path string, paths []string) event.Name {
	name := filepath.Base(path)
	for _, other := range paths {
		if other != path && filepath.Base(other) == name {
			return event.Name(filepath.Join(filepath.Base(filepath.Dir(path)), name))
		}
	}
	return event.Name(name)
}

var (
	isRequirementsName = regexp.MustCompile(`(?i)(requirements|constraints).*\.(txt|in)$`)
	inRequirements     = regexp.MustCompile(`(?i)/requirements/[^/]+\.(txt|in)$`)
	isYAMLName         = regexp.MustCompile(`(?i)\.ya?ml$`)
)

// formatOf returns the format that a file's path says it has, nil if it says none.
func formatOf(path string) format {
	switch name := filepath.Base(path); {
	case isYAMLName.MatchString(name):
		return yamlChanges
	case isRequirementsName.MatchString(name), inRequirements.MatchString(path):
		return requirementChanges
	}
	return nil
}

// isRequirements tells whether a file that is read by its own name is a requirements file that is
// called otherwise: deps.txt.
func isRequirements(path string, text []byte) bool {
	if extension := filepath.Ext(path); extension != ".txt" && extension != ".in" {
		return false
	}
	versions := false
	for _, r := range parseRequirements(text) {
		if !r.valid {
			return false
		}
		versions = versions || r.version != ""
	}
	return versions
}

// short returns text as one line that is short enough to be shown.
func short(text string) string {
	text = event.Printable(strings.TrimSpace(text))
	if utf8.RuneCountInString(text) <= shownText {
		return text
	}
	return string([]rune(text)[:shownText-1]) + "…"
}

// changed returns the change of a package or a path that has been there.
func changed(name, before, after string) event.LineChange {
	if before == after { // they differ in what is not shown
		before, after = "", ""
	} else {
		before, after = cmp.Or(before, "any"), cmp.Or(after, "any")
	}
	return event.LineChange{Name: name, Before: before, After: after, Change: event.Changed}
}
