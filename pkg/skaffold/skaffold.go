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

var (
	knownVersion = regexp.MustCompile(`^skaffold/v[234]((alpha|beta)[0-9]+)?$`)
	newerVersion = regexp.MustCompile(`^skaffold/v4beta(1[4-9]|[2-9][0-9])$`)
)

// Options are what a skaffold.yaml is read with. The zero value is that of skaffold dev.
type Options struct {
	Dir            string   // the current folder, absolute; "" for that of the file
	Command        string   // skaffold's, which may activate profiles; "" for dev
	KubeContext    string   // that the user chose, "" for none
	CurrentContext string   // of the kubeconfig
	Modules        []string // names of the configurations to take, with what they require; all if there are none
}

// Translate returns the tree of a devloop.yaml that does what a skaffold.yaml does, all of its
// configurations and those that they require; nil if the file is no skaffold.yaml.
func (o Options) Translate(r *tree.Report, file tree.Original) *tree.Translation {
	main := file.Documents[0]
	v := main.Get("apiVersion")
	if v == nil || !v.IsScalar() || !strings.HasPrefix(v.Value, "skaffold/") {
		if len(o.Modules) > 0 && main.Origin.Order == 0 {
			r.Add(main.Origin, tree.Problem{Message: "has no modules: -m is for a skaffold.yaml"})
		}
		return nil
	}
	o.Dir = cmp.Or(o.Dir, filepath.Dir(file.Path))
	p := &translation{Report: r, options: o, project: cmp.Or(file.Dir, o.Dir), isBase: main.Origin.Order == 0,
		keys: map[*tree.Node]*tree.Node{}, noted: map[tree.Note]bool{}}
	p.readVariables(main)
	t := &tree.Translation{Dir: p.project, Format: v.Value}
	found := p.configurations(file)
	if found != nil {
		t.Root, t.Profiles = p.merged(found), found.selected
		if o.Dir != found.folder && r.Hint == "" {
			r.Hint = fmt.Sprintf("paths in %s count from the current folder, as for skaffold: cd %s", main.Origin.Name,
				filepath.Dir(main.Origin.Name))
		}
	}
	t.Notes, t.Files, t.Variables = p.notes, p.files, p.environment
	t.IsPart = len(p.options.Modules) > 0
	return t
}

// translation is what the configurations of a project have in common.
type translation struct {
	*tree.Report
	options Options
	project string // the folder that devloop.yaml's paths are relative to, absolute
	isBase  bool   // the first of several files: the others need no name

	artifacts    []artifact
	placeholders []placeholder
	names        []string          // of the releases
	locals       []*tree.Node      // the local ports of the forwards
	own          map[string]string // variables of the artifact whose build arguments are read

	keys        map[*tree.Node]*tree.Node // of the values that were read
	notes       []tree.Note
	noted       map[tree.Note]bool
	variables   map[string]string // of skaffold.env
	environment []string          // names of variables that were filled in
	files       []string          // also read, absolute
}

// translator translates one configuration.
type translator struct {
	*translation
	configuration
	made *tree.Node // what devloop.yaml has of it

	sections  struct{ build, manifests, deploy, forwards *tree.Node }
	platforms *tree.Node // to build for
	deployment
	releases []*tree.Node // as devloop.yaml has them
	gateways []gateway    // those that are a Dask Gateway
	waits    []*tree.Node // the wait: true of each release, nil if it has none
}

// newTranslator reads the keys of a configuration.
func (s *translation) newTranslator(c configuration, isOneOfSeveral bool) *translator {
	t := &translator{translation: s, configuration: c, made: c.root.As(yaml.MappingNode, "")}
	t.isOneOfSeveral = isOneOfSeveral
	t.section(c.root, keys{
		"apiVersion": ignore,
		"kind": func(n *tree.Node) {
			if n.Value != "Config" {
				t.Wrong(n, "must be Config, but is %s", n.Describe())
			}
		},
		"metadata": func(n *tree.Node) {
			t.section(n, keys{"name": ignore, "labels": t.meaningless, "annotations": t.meaningless})
		},
		"build":            into(&t.sections.build),
		"manifests":        into(&t.sections.manifests),
		"deploy":           into(&t.sections.deploy),
		"portForward":      into(&t.sections.forwards),
		"profiles":         ignore,
		"requires":         ignore,
		"test":             t.lost("these tests of images are not run"),
		"verify":           t.lost("these tests are not run after a deployment"),
		"customActions":    t.lost("there is no skaffold exec: these actions are not run"),
		"resourceSelector": t.lost("manifests are not rewritten, so nothing is selected"),
	})
	return t
}

// merged translates the configurations, and merges them. Templates may name the images of all.
func (s *translation) merged(found *modules) *tree.Node {
	all := found.main.As(yaml.MappingNode, "")
	put(all, "apiVersion", scalar(found.main.Get("apiVersion"), devloopVersion))
	name := found.name
	if name == nil || name.IsNull() {
		name = found.main.As(yaml.ScalarNode, "metadata.name")
	}
	if s.isBase || !name.IsScalar() || name.Value != "" {
		put(all, "name", s.projectName(name, found.folder))
	}
	if len(found.profiles.Entries) > 0 {
		put(all, "profiles", found.profiles)
	}
	var list []*translator
	for _, c := range found.list {
		t := s.newTranslator(c, len(found.list) > 1)
		if t.sections.build != nil {
			t.build(t.sections.build)
		}
		list = append(list, t)
	}
	for _, a := range s.artifacts {
		a.by.artifact(a)
	}
	for _, t := range list {
		if t.sections.manifests != nil {
			t.manifests(t.sections.manifests)
		}
		if t.sections.deploy != nil {
			t.deploy(t.sections.deploy, t.made)
		}
		t.helmReleases()
	}
	for i, t := range list {
		t.appliedReleases()
		t.finishReleases(t.made)
		t.dependOn(list[:i])
		if t.sections.forwards != nil {
			for _, item := range t.items(t.sections.forwards) {
				t.forward(item, t.made)
			}
		}
		all = s.merge("", all, t.made)
	}
	if context := s.getenv("SKAFFOLD_KUBE_CONTEXT"); context != "" {
		put(all, "kubeContext", scalar(found.main, context))
	}
	return all
}

// dependOn lets the releases wait for those of the configurations before that this one requires:
// they may make what it needs, as namespaces and kinds.
func (s *translator) dependOn(before []*translator) {
	for _, other := range before {
		if !slices.Contains(s.requires, other.document) {
			continue
		}
		for _, release := range s.releases {
			for _, needed := range other.releases {
				name := needed.Get("name")
				isName := func(n *tree.Node) bool { return n.Value == name.Value }
				if !isName(release.Get("name")) && !slices.ContainsFunc(release.Get("dependsOn").List(), isName) {
					add(release, "dependsOn", scalar(release, name.Value))
				}
			}
		}
	}
}

func (s *translation) projectName(n *tree.Node, folder string) *tree.Node {
	if n.IsScalar() && n.Value == "" {
		return scalar(n, tree.Label(filepath.Base(folder), "app"))
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
func (s *translation) section(n *tree.Node, known keys) {
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
func (s *translation) lost(text string) func(*tree.Node) {
	return func(n *tree.Node) {
		if n.IsScalar() || len(n.Items)+len(n.Entries) > 0 {
			s.note(n, "%s", text)
		}
	}
}

// harmless is for keys without which nothing is lost.
func (s *translation) harmless(text string) func(*tree.Node) {
	return func(n *tree.Node) { s.inform(n, "%s", text) }
}

func (s *translation) meaningless(n *tree.Node) { s.inform(n, "has no meaning for devloop: ignored") }

// noteIf is for true or false: if it is value, devloop does what the text says.
func (s *translation) noteIf(value bool, text string) func(*tree.Node) {
	return func(n *tree.Node) {
		if s.truth(n) == value {
			s.note(n, "%s", text)
		}
	}
}

// note says what is lost, or differs from skaffold.
func (s *translation) note(n *tree.Node, format string, args ...any) {
	s.addNote(n, tree.Note{}, fmt.Sprintf(format, args...))
}

// inform says what devloop adds or assumes if nothing is lost.
func (s *translation) inform(n *tree.Node, format string, args ...any) {
	s.addNote(n, tree.Note{Harmless: true}, fmt.Sprintf(format, args...))
}

// addNote places a note at the key of a value: the value may begin a line further down.
func (s *translation) addNote(n *tree.Node, note tree.Note, message string) {
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
func (s *translation) isMapping(n *tree.Node) bool {
	if !n.IsMapping() {
		s.Wrong(n, "must be a mapping, but is %s", n.Describe())
	}
	return n.IsMapping()
}

// items returns the items of a list, without null.
func (s *translation) items(n *tree.Node) []*tree.Node {
	if !n.IsList() && !n.IsNull() {
		s.Wrong(n, "must be a list, but is %s", n.Describe())
	}
	return slices.DeleteFunc(slices.Clone(n.Items), (*tree.Node).IsNull)
}

// text returns a single value as skaffold takes it, numbers without quotes, too; "" if it was
// reported.
func (s *translation) text(n *tree.Node) string {
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
func (s *translation) truth(n *tree.Node) bool {
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

// child returns the mapping at a key, which gets the place of at if it is made.
func child(n *tree.Node, name string, at *tree.Node) *tree.Node {
	if n.Get(name) == nil {
		put(n, name, at.As(yaml.MappingNode, at.Path))
	}
	return n.Get(name)
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
