// Package skaffold translates a skaffold.yaml into the tree of a devloop.yaml, with a note for each
// thing that devloop does differently or not at all. Values keep their place in skaffold.yaml, so
// whatever turns out to be wrong with them later is reported there.
package skaffold

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/devloop/devloop/pkg/config/tree"
)

// FileNames are the names of a skaffold.yaml, the first one preferred.
var FileNames = []string{"skaffold.yaml", "skaffold.yml"}

const (
	devloopVersion = "devloop/v1" // apiVersion of the translation
	knownVersions  = "skaffold/v2alpha1 to skaffold/v4beta13"
)

var knownVersion = regexp.MustCompile(`^skaffold/v[234]((alpha|beta)[0-9]+)?$`)

// Translate returns the tree of a devloop.yaml that does what the skaffold.yaml with this root does
// with these profiles; nil if root is of no skaffold.yaml. dir is what paths are relative to.
func Translate(r *tree.Report, root *tree.Node, dir string, profiles []string) *tree.Translation {
	v := root.Get("apiVersion")
	if v == nil || !v.IsScalar() || !strings.HasPrefix(v.Value, "skaffold/") {
		return nil
	}
	if !knownVersion.MatchString(v.Value) {
		r.Wrong(v, "this devloop reads %q, and %s, not %q; skaffold fix --overwrite writes a newer one",
			devloopVersion, knownVersions, v.Value)
		return &tree.Translation{}
	}
	s := &translator{Report: r, project: dir, dir: dir, isBase: root.Origin.Order == 0,
		keys: map[*tree.Node]*tree.Node{}, noted: map[tree.Note]bool{}}
	root = s.document(root, profiles)
	return &tree.Translation{Root: root, Format: v.Value, Notes: s.notes, Files: s.files, Variables: s.environment}
}

// translator translates one file.
type translator struct {
	*tree.Report
	project string // the folder that devloop.yaml's paths are relative to, absolute
	dir     string // the folder that this file's paths are relative to, absolute
	isBase  bool   // the first of several files: the others need no name

	artifacts    []artifact
	placeholders []placeholder
	own          map[string]string // variables of the artifact whose build arguments are read

	deployment
	releases []*tree.Node // as devloop.yaml has them
	gateways []gateway    // those that are a Dask Gateway
	waits    []*tree.Node // the wait: true of each release, nil if it has none

	keys        map[*tree.Node]*tree.Node // of the values that were read
	notes       []tree.Note
	noted       map[tree.Note]bool
	variables   map[string]string // of skaffold.env
	environment []string          // names of variables that were filled in
	files       []string          // also read, absolute
}

// document translates the whole file.
func (s *translator) document(root *tree.Node, profiles []string) *tree.Node {
	s.readVariables(root)
	made := root.As(yaml.MappingNode, "")
	put(made, "apiVersion", scalar(root.Get("apiVersion"), devloopVersion))
	s.profileNames(made, root.Get("profiles"), profiles)
	root = s.withProfiles(root, profiles).Clone()

	name := root.Get("metadata").Get("name")
	if name == nil || name.IsNull() {
		name = root.As(yaml.ScalarNode, "metadata.name")
	}
	if s.isBase || !name.IsScalar() || name.Value != "" {
		put(made, "name", s.projectName(name))
	}
	// Images come before the releases that name them, and releases before the forwards.
	order := []string{"build", "manifests", "deploy"}
	slices.SortStableFunc(root.Entries, func(a, b tree.Entry) int {
		return cmp.Compare(slices.Index(order, a.Key.Value), slices.Index(order, b.Key.Value))
	})
	var forwards *tree.Node
	s.section(root, keys{
		"apiVersion": ignore,
		"kind": func(n *tree.Node) {
			if n.Value != "Config" {
				s.Wrong(n, "must be Config, but is %s", n.Describe())
			}
		},
		"metadata": func(n *tree.Node) {
			s.section(n, keys{"name": ignore, "labels": s.meaningless, "annotations": s.meaningless})
		},
		"build":       func(n *tree.Node) { s.build(n, made) },
		"deploy":      func(n *tree.Node) { s.deploy(n, made) },
		"manifests":   s.manifests,
		"portForward": into(&forwards),
		"profiles":    ignore,
		"requires": s.lost("the configurations that it names are not read: what they build and deploy is missing; " +
			"give each a devloop of its own"),
		"test":             s.lost("these tests of images are not run"),
		"verify":           s.lost("these tests are not run after a deployment"),
		"customActions":    s.lost("there is no skaffold exec: these actions are not run"),
		"resourceSelector": s.lost("manifests are not rewritten, so nothing is selected"),
	})
	s.releasesOf(root, made)
	s.finishReleases(made)
	if forwards != nil {
		for _, item := range s.items(forwards) {
			s.forward(item, made)
		}
	}
	return made
}

func (s *translator) projectName(n *tree.Node) *tree.Node {
	if n.IsScalar() && n.Value == "" {
		return scalar(n, tree.Label(filepath.Base(s.dir), "app"))
	}
	name := s.text(n)
	if name != "" && len(validation.IsDNS1123Label(name)) > 0 {
		name = tree.Label(name, "app")
		s.inform(n, "%q is no name for Kubernetes: the project is called %s", n.Value, name)
	}
	return scalar(n, name)
}

// keys are what reads the value of each key of a section.
type keys map[string]func(n *tree.Node)

// section reads a mapping. Null and empty text count as left out; unknown keys get a note.
func (s *translator) section(n *tree.Node, known keys) {
	if n.IsNull() || !s.isMapping(n) {
		return
	}
	for _, e := range n.Entries {
		name := e.Key.Value
		s.keys[e.Value] = e.Key
		switch {
		case n.Path == "" && strings.HasPrefix(name, "."): // skaffold lets people keep anchors there
		case known[name] == nil:
			s.note(e.Value, "skaffold has no such key, or devloop does not know it: ignored%s",
				tree.DidYouMean(name, slices.Sorted(maps.Keys(known))))
		case e.Value.IsNull(), e.Value.IsScalar() && e.Value.Value == "":
		default:
			known[name](e.Value)
		}
	}
}

// ignore is for keys that are read elsewhere.
func ignore(*tree.Node) {}

// into keeps a value for later.
func into(value **tree.Node) func(*tree.Node) { return func(n *tree.Node) { *value = n } }

// lost is for keys that devloop has nothing for; the text says what happens instead.
func (s *translator) lost(text string) func(*tree.Node) {
	return func(n *tree.Node) {
		if n.IsScalar() || len(n.Items)+len(n.Entries) > 0 {
			s.note(n, "%s", text)
		}
	}
}

// harmless is for keys without which nothing is lost.
func (s *translator) harmless(text string) func(*tree.Node) {
	return func(n *tree.Node) { s.inform(n, "%s", text) }
}

func (s *translator) meaningless(n *tree.Node) { s.inform(n, "has no meaning for devloop: ignored") }

// noteIf is for true or false: if it is value, devloop does what the text says.
func (s *translator) noteIf(value bool, text string) func(*tree.Node) {
	return func(n *tree.Node) {
		if s.truth(n) == value {
			s.note(n, "%s", text)
		}
	}
}

// note says what is lost, or differs from skaffold.
func (s *translator) note(n *tree.Node, format string, args ...any) {
	s.addNote(n, tree.Note{}, fmt.Sprintf(format, args...))
}

// inform says what devloop adds or assumes if nothing is lost.
func (s *translator) inform(n *tree.Node, format string, args ...any) {
	s.addNote(n, tree.Note{Harmless: true}, fmt.Sprintf(format, args...))
}

// addNote places a note at the key of a value: the value may begin a line further down.
func (s *translator) addNote(n *tree.Node, note tree.Note, message string) {
	if key := s.keys[n]; key != nil {
		n = &tree.Node{Node: key.Node, Origin: n.Origin, Path: n.Path}
	}
	note.Problem = tree.ProblemAt(n, message)
	if !s.noted[note] {
		s.noted[note] = true
		s.notes = append(s.notes, note)
	}
}

// isMapping reports n if it is none.
func (s *translator) isMapping(n *tree.Node) bool {
	if !n.IsMapping() {
		s.Wrong(n, "must be a mapping, but is %s", n.Describe())
	}
	return n.IsMapping()
}

// items returns the items of a list, without null.
func (s *translator) items(n *tree.Node) []*tree.Node {
	if !n.IsList() && !n.IsNull() {
		s.Wrong(n, "must be a list, but is %s", n.Describe())
	}
	return slices.DeleteFunc(slices.Clone(n.Items), (*tree.Node).IsNull)
}

// text returns a single value as skaffold takes it, numbers without quotes, too; "" if it was
// reported.
func (s *translator) text(n *tree.Node) string {
	switch {
	case !n.IsScalar():
		s.Wrong(n, "must be a single value, but is %s", n.Describe())
	case n.Value == "" || n.IsNull():
		s.Wrong(n, "must not be empty")
	case strings.ContainsRune(n.Value, 0) || strings.ContainsFunc(n.Value, isPlaceholder):
		s.Wrong(n, "has a character that text cannot have")
	default:
		return n.Value
	}
	return ""
}

// truth returns true or false, which older YAML calls yes or off, too.
func (s *translator) truth(n *tree.Node) bool {
	value := false
	if !n.IsScalar() || n.Decode(&value) != nil {
		s.Wrong(n, "must be true or false, but is %s", n.Describe())
	}
	return value
}

// scalar returns text with the place of n.
func scalar(n *tree.Node, text string) *tree.Node { return typed(n, "!!str", text) }

func typed(n *tree.Node, tag, text string) *tree.Node {
	made := n.As(yaml.ScalarNode, n.Path)
	made.Tag, made.Value = tag, text
	if tag == "!!str" {
		made.Style = yaml.DoubleQuotedStyle // text, whatever it looks like
	}
	return made
}

// put sets a key of a mapping. The key gets the place of the value.
func put(n *tree.Node, name string, value *tree.Node) {
	key := scalar(value, name)
	key.Path = n.Path
	n.Put(key, value)
}

// add appends an item to the list of a key.
func add(n *tree.Node, name string, item *tree.Node) {
	list := n.Get(name)
	if list == nil {
		list = item.As(yaml.SequenceNode, item.Path)
		put(n, name, list)
	}
	list.Items = append(list.Items, item)
}
