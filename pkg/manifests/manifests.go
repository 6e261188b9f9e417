// Package manifests reads Kubernetes manifests from files: those that patterns name, and those that
// a kustomization makes. They come as single documents that are checked as far as that is possible
// without a cluster.
package manifests

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

const (
	maxFile      = 4 << 20  // bytes
	maxTotal     = 64 << 20 // bytes of all files
	maxFiles     = 5_000    // that are read
	maxEntries   = 50_000   // of folders that patterns lead through
	maxDocuments = 10_000
	maxProblems  = 20 // that an error lists
)

// Source says where manifests come from: either Patterns or a Kustomization.
type Source struct {
	Folder        string   // of devloop.yaml, absolute; messages name files relative to it
	Patterns      []string // files, globs and folders; absolute, or relative to Folder
	Kustomization string   // folder of a kustomization; absolute, or relative to Folder
	RemoteBases   bool     // the kustomization may load from the network
}

// Document is one object: a List is taken apart.
type Document struct {
	File string // relative to the Source's Folder, with slashes; of a kustomization where it is known
	Line int    // of File where Text begins, or the item of a List, from 1; 0 if only the file is known
	Text string // one YAML document, as it is written, without ---
}

// Read returns the documents in the order of the patterns and then of the files' names, and the
// absolute paths of the files and folders that it read, also with an error.
func (s Source) Read(ctx context.Context) (documents []Document, read []string, err error) {
	if s.Kustomization != "" {
		return s.kustomize(ctx)
	}
	r := reader{Source: s, ctx: ctx, bytesLeft: maxTotal, entriesLeft: maxEntries, seen: map[string]bool{},
		first: map[id]object{}}
	for _, pattern := range s.Patterns {
		if err := r.pattern(pattern); err != nil {
			return nil, r.paths, err
		}
	}
	if err := r.problems.asError(); err != nil {
		return nil, r.paths, err
	}
	if len(r.objects) == 0 {
		return nil, r.paths, fmt.Errorf("the manifests %s hold no objects", strings.Join(s.Patterns, ", "))
	}
	for _, o := range r.objects {
		documents = append(documents, o.Document)
	}
	return documents, r.paths, nil
}

// Watched returns the files, folders and globs whose change may change what Read returns, absolute.
// They need not exist. It asks neither the cluster nor the network.
func (s Source) Watched() []string {
	if s.Kustomization != "" {
		return s.scan(nil).paths()
	}
	var paths []string
	for _, pattern := range s.Patterns {
		full := s.abs(pattern)
		_, glob := files.SplitGlob(full)
		if info, err := os.Stat(full); glob != "" || err != nil || !info.IsDir() {
			paths = append(paths, full)
			continue
		}
		for _, extension := range Extensions {
			paths = append(paths, filepath.Join(full, "**", "*"+extension))
		}
	}
	return paths
}

func (s Source) abs(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(s.Folder, path)
}

// name returns how messages call a file.
func (s Source) name(path string) string {
	name, err := filepath.Rel(s.Folder, path)
	if err != nil || strings.Count(name, "..") > 3 {
		return path
	}
	return filepath.ToSlash(name)
}

// reader is one Read.
type reader struct {
	Source
	ctx         context.Context //nolint:containedctx // of one call
	bytesLeft   int64           // that may still be read
	entriesLeft int             // of folders that may still be looked at
	seen        map[string]bool // real paths of files that were read
	paths       []string
	objects     []object
	first       map[id]object
	problems    problems
}

// pattern reads the files that a pattern names.
func (r *reader) pattern(pattern string) error {
	full := r.abs(pattern)
	fixed, rest := files.SplitGlob(full)
	info, err := os.Stat(fixed)
	switch {
	case err != nil && errors.Is(err, fs.ErrNotExist), err == nil && rest != "" && !info.IsDir():
		return r.noMatch(pattern, fixed)
	case err != nil:
		return fmt.Errorf("manifests %q: %w", pattern, err)
	case rest == "" && !info.IsDir():
		return r.file(fixed)
	case rest == "":
		rest = "**"
	}
	r.paths = append(r.paths, fixed)
	w := walk{reader: r, glob: strings.Split(rest, "/")}
	for _, part := range w.glob {
		if _, err := path.Match(part, ""); err != nil {
			return fmt.Errorf("manifests %q: %q is not a pattern: %w", pattern, part, err)
		}
	}
	if err := w.folder(fixed, w.glob.at(0), nil); err != nil {
		return err
	}
	if !w.matched {
		return r.noMatch(pattern, fixed)
	}
	return nil
}

// file reads a file, unless it was read before.
func (r *reader) file(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", r.name(path), reason(err))
	}
	if r.seen[real] {
		return nil
	}
	r.seen[real] = true
	r.paths = append(r.paths, path)
	if len(r.seen) > maxFiles {
		return fmt.Errorf("the manifests are more than %d files", maxFiles)
	}
	content, err := files.Read(path, maxFile)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", r.name(path), reason(err))
	}
	if r.bytesLeft -= int64(len(content)); r.bytesLeft < 0 {
		return fmt.Errorf("the manifests have more than %d MiB", maxTotal>>20)
	}
	for _, o := range r.problems.parse(r.name(path), content) {
		r.add(o)
	}
	if len(r.objects) > maxDocuments {
		return fmt.Errorf("the manifests are more than %d objects", maxDocuments)
	}
	return nil
}

// add adds an object. The same one may stand in several files, as namespaces do; two of the same
// name that differ are a mistake.
func (r *reader) add(o object) {
	other, twice := r.first[o.id]
	switch {
	case !twice:
		r.first[o.id] = o
		r.objects = append(r.objects, o)
	case !equal(o.Text, other.Text):
		r.problems.add(o.File, o.Line, 0, "%s is in %s:%d already, with other content", o.id, other.File, other.Line)
	}
}

func equal(a, b string) bool {
	one, err := yaml.YAMLToJSON([]byte(a))
	other, otherErr := yaml.YAMLToJSON([]byte(b))
	return err == nil && otherErr == nil && bytes.Equal(one, other)
}

// reason returns err without the path of its file.
func reason(err error) error {
	var op *fs.PathError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// noMatch returns the error for a pattern without a file, and names what is near.
func (r *reader) noMatch(pattern, fixed string) error {
	folder := fixed
	for {
		if info, err := os.Stat(folder); err == nil && info.IsDir() || folder == filepath.Dir(folder) {
			break
		}
		folder = filepath.Dir(folder)
	}
	err := fmt.Errorf("manifests %q: no file matches in %s", pattern, cmp.Or(r.name(folder), "."))
	names := manifestsIn(folder)
	if len(names) == 0 {
		return event.WithHint(err, "manifests are .yaml, .yml and .json files, and "+r.name(folder)+" has none of them")
	}
	return event.WithHint(err, r.name(folder)+" has "+strings.Join(names, ", "))
}
