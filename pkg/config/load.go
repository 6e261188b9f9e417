package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/devloop/devloop/pkg/config/tree"
)

// Source is what a configuration is read from. Each part is merged over those before it.
type Source struct {
	Files    []string // by default devloop.yaml; paths in all of them are relative to the first one's folder
	Profiles []string // names, in this order; "-name" switches one off
	Set      []Assignment
	Only     []string // names of releases: see Config.Only. Empty means all
	whole    bool     // translate all of a file of which the user chose a part

	// Translate returns the tree of a devloop.yaml for a file of another format, nil if it is of none
	// that it knows. It may be nil.
	Translate func(*tree.Report, tree.Original) *tree.Translation
}

// Assignment sets one value, on the command line or in the environment.
type Assignment struct {
	From string // where the user wrote it, for messages: "--set"
	Text string // "forwards[0].local=8002"
}

// Load reads the source. The error is a *tree.Error; its messages name files as the source does.
//
// Layers are merged like this: mappings key by key; releases by name, forwards by target, namespace
// and port, and new ones are appended; other lists and single values are replaced; null removes
// what is there. Only the first file needs apiVersion and name.
func Load(source Source) (*Config, error) {
	if len(source.Files) == 0 {
		source.Files = []string{FileName}
	}
	l := &loader{Report: &tree.Report{}, source: source}
	var c *Config
	if layers := l.layers(); len(layers) == len(source.Files) {
		c = l.assemble(layers)
	}
	if len(l.Problems) > 0 {
		return nil, l.AsError(l.files)
	}
	if l.isPart {
		c.asPart(source)
	}
	if len(source.Only) > 0 {
		return c.Only(source.Only)
	}
	return c, nil
}

// ProfileNames returns the names of the profiles in the source, for shell completion. Files that
// cannot be read are skipped.
func ProfileNames(source Source) []string {
	return profileNames((&loader{Report: &tree.Report{}, source: source}).layers())
}

// ReleaseNames returns the names of the releases in the source, for shell completion.
func ReleaseNames(source Source) []string {
	source.Only = nil
	c, err := Load(source)
	if err != nil {
		return nil
	}
	return c.ReleaseNames()
}

// loader reads one source.
type loader struct {
	*tree.Report
	source    Source
	dir       string   // that paths are relative to, absolute
	files     []string // that were read, absolute
	format    string
	notes     []tree.Note
	variables []string
	isPart    bool // the user chose a part of a translated file
}

// layers returns the trees of those files that can be read.
func (l *loader) layers() []*tree.Node {
	var layers []*tree.Node
	for i := range l.source.Files {
		if documents := l.read(i); len(documents) > 0 {
			if root := l.layer(documents); root != nil {
				layers = append(layers, root)
			}
		}
	}
	return layers
}

// read returns the trees of a file's documents, none if it cannot be read.
func (l *loader) read(i int) []*tree.Node {
	name := l.source.Files[i]
	from := &tree.Origin{Name: name, Order: i}
	path, err := filepath.Abs(name)
	if err != nil {
		l.Unreadable(from, name, err)
		l.Hint = "the folder that devloop was started in is gone: cd into one that there is"
		return nil
	}
	l.files = append(l.files, path)
	documents := l.ParseFile(from, path)
	if i == 0 {
		l.dir = filepath.Dir(path)
	}
	if len(documents) == 0 && l.Hint == "" {
		l.Hint = l.unreadableHint(i, path)
	}
	return documents
}

// unreadableHint says what to do about a file of the source that cannot be read. It is at path.
func (l *loader) unreadableHint(i int, path string) string {
	name := l.source.Files[i]
	here := filepath.Join(filepath.Dir(name), FileName)
	switch {
	case errors.Is(l.Cause, tree.ErrEmpty) && i == 0:
		return "it has to start with \"apiVersion: " + Version + "\""
	case errors.Is(l.Cause, syscall.EISDIR) && isFile(filepath.Join(path, FileName)):
		return "name the file in it: " + filepath.Join(name, FileName)
	case !errors.Is(l.Cause, fs.ErrNotExist):
		return ""
	case name == FileName:
		if above, _ := FileAbove(l.dir); above != "" {
			return fmt.Sprintf("there is one above: cd %s, or add -f %s", filepath.Dir(above), above)
		}
		return FileName + " says which images to build, which Helm releases to deploy and which ports to forward " +
			"(a skaffold.yaml is read, too); go to the folder that has one, or let devloop init write it"
	case !isFolder(filepath.Dir(path)):
		return "there is no folder " + filepath.Dir(name)
	}
	if similar := tree.SimilarFile(name, path); similar != "" {
		return "did you mean " + similar + "?"
	}
	switch {
	case i > 0:
		return ""
	case isFile(filepath.Join(l.dir, FileName)):
		return "there is a " + here
	}
	return "there is no " + here + ", either; devloop init writes a " + FileName
}

// layer translates a file, if need be, and checks it by itself. It returns nil for a tree of
// another version: all its other keys would be wrong, too, which is no help.
func (l *loader) layer(documents []*tree.Node) *tree.Node {
	root, isTranslated := l.translate(documents)
	if !isTranslated {
		root = l.Only(documents)
	}
	if root == nil {
		return nil
	}
	if v := root.Get("apiVersion"); v != nil && v.IsScalar() && !v.IsNull() && v.Value != Version {
		l.Wrong(v, "this devloop reads %q, not %q", Version, v.Value)
		if root.Get("kind") != nil && root.Get("metadata") != nil {
			l.Hint = "it looks like a Kubernetes manifest: devloop init writes a " + FileName +
				" that deploys those in its folder"
		}
		return nil
	}
	d := &decoder{Report: l.Report, partial: true}
	d.read(root, &file{}, "")
	return root
}

// translate returns the tree of a devloop.yaml for a file of another format.
func (l *loader) translate(documents []*tree.Node) (root *tree.Node, isTranslated bool) {
	if l.source.Translate == nil {
		return nil, false
	}
	o := tree.Original{Path: l.files[len(l.files)-1], Documents: documents, Profiles: l.source.Profiles,
		Whole: l.source.whole}
	if documents[0].Origin.Order > 0 {
		o.Dir = l.dir
	}
	t := l.source.Translate(l.Report, o)
	if t == nil {
		return nil, false
	}
	l.dir, l.format, l.notes, l.source.Profiles = t.Dir, t.Format, append(l.notes, t.Notes...), t.Profiles
	l.files, l.variables = append(l.files, t.Files...), append(l.variables, t.Variables...)
	l.isPart = l.isPart || t.IsPart
	return t.Root, true
}

// assemble makes one configuration of all layers.
func (l *loader) assemble(layers []*tree.Node) *Config {
	var merged document
	root := mergeLayers(l.Report, layers, l.source)
	d := &decoder{Report: l.Report, again: true}
	d.read(root, &merged, "")
	if l.Hint == "" && root.IsMapping() {
		l.Hint = beginHint(root, filepath.Base(l.dir))
	}
	c := &merged.Config
	c.Path, c.Dir, c.Name = l.files[0], l.dir, merged.Name
	c.files, c.root = l.files, root
	c.Format, c.Notes, c.variables = l.format, tree.SortedNotes(l.notes), l.variables
	validate(l.Report, c)
	return c
}

// beginHint says how a devloop.yaml in a folder of this name begins, if root does not.
func beginHint(root *tree.Node, folder string) string {
	var lines []string
	if root.Get("apiVersion") == nil {
		lines = append(lines, fmt.Sprintf("%q", "apiVersion: "+Version))
	}
	if root.Get("name") == nil {
		lines = append(lines, fmt.Sprintf("%q", "name: "+tree.Label(folder, "demo")))
	}
	if len(lines) == 0 {
		return ""
	}
	return "write at its beginning: " + strings.Join(lines, ", and below that ")
}

// Wrong returns an error about a value that turned out to be wrong after the configuration was
// loaded: a local port that another process has. It has the position of the value at path
// ("forwards[0].local"), or of what encloses it if the value was left out. The hint may be "".
func (c *Config) Wrong(path, message, hint string) *tree.Error {
	r := &tree.Report{Hint: hint}
	if c.root == nil { // not made by Load
		r.Add(&tree.Origin{Name: FileName}, tree.Problem{Message: path + ": " + message})
		return r.AsError(c.files)
	}
	at, rest := c.root, path
	for rest != "" {
		value, below := child(at, rest)
		if value == nil {
			break
		}
		at, rest = value, below
	}
	value := *at
	if value.Path != "" { // its own file may call it something else
		value.Path += rest
	} else {
		value.Path = path
	}
	r.Wrong(&value, "%s", message)
	return r.AsError(c.files)
}

// CheckDeploys returns an error if nothing would be deployed. Forwards alone, to what others have
// deployed, are something to do; a file of another format was made to deploy.
func (c *Config) CheckDeploys() error {
	forwardsAlone := len(c.Forwards) > 0 && len(c.Images) == 0 && c.Format == ""
	if len(c.Releases) > 0 || forwardsAlone {
		return nil
	}
	hint := "add a release, with a chart, manifests or a kustomization; devloop build builds the images alone"
	if c.Format != "" {
		hint = "what devloop leaves out of the file is named above; a devloop.yaml can have other releases"
	}
	return c.Wrong("releases", "there are none, so nothing would be deployed", hint)
}

// WhereToSet says where a user sets a key: in the file that was read, by its name. A file of
// another format does not have it.
func (c *Config) WhereToSet(key string) string {
	if c.Format != "" {
		return key + ", by --set"
	}
	return key + " in " + filepath.Base(c.Path)
}

// WrongValue is Wrong for a value of a release. in is set, setString or inlineValues, and key the
// value's key in it, for inlineValues its path "a.b.c".
func (c *Config) WrongValue(release, in, key, message, hint string) *tree.Error {
	i := slices.IndexFunc(c.Releases, func(r Release) bool { return r.Name == release })
	return c.Wrong(strings.TrimSuffix(fmt.Sprintf("releases[%d].%s.%s", i, in, key), "."), message, hint)
}

// child returns the child that a path begins with, and the rest of the path; nil if there is none.
func child(n *tree.Node, path string) (value *tree.Node, rest string) {
	for i, item := range n.Items {
		if rest, ok := strings.CutPrefix(path, fmt.Sprintf("[%d]", i)); ok {
			return item, rest
		}
	}
	path = strings.TrimPrefix(path, ".")
	for _, e := range n.Entries { // keys may have dots: the longest one is meant
		below, ok := strings.CutPrefix(path, e.Key.Value)
		if ok && (below == "" || below[0] == '.' || below[0] == '[') && (value == nil || len(below) < len(rest)) {
			value, rest = e.Value, below
		}
	}
	return value, rest
}
