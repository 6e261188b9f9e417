package skaffold

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

const (
	maxFiles    = 200  // that a project's configurations are in
	maxRequires = 2000 // that are followed
)

// configuration is one document of a skaffold.yaml, with its profiles merged over it.
type configuration struct {
	root     *tree.Node
	dir      string       // that its paths are relative to, absolute
	document *tree.Node   // without its profiles
	requires []*tree.Node // such documents
}

// modules finds the configurations of a project: those of the main file, and what they require.
type modules struct {
	*translation
	main   *tree.Node // the first configuration of the main file
	name   *tree.Node // its metadata.name, with its profiles, nil if it has none
	folder string     // of that file

	list     []configuration // each after those that it requires
	profiles *tree.Node      // the names of all profiles, as devloop.yaml has them
	chosen   []string        // profiles, by the user
	selected []string        // the profiles of the main file that apply, and those that the user chose

	parsed   map[string][]*tree.Node // the documents by the path of the file, absolute
	named    map[string]*tree.Node   // metadata.name of all configurations
	visited  map[visit]string        // the profiles that apply, joined
	requires int                     // that were followed
	isPartly bool                    // something that is required is not on this machine
}

// visit is one way in which a configuration is come to: what is not wanted itself may require what
// is.
type visit struct {
	root     *tree.Node
	isWanted bool
}

// wanted are the configurations of a file that are to be taken.
type wanted struct {
	at       *tree.Node // what requires them, the main file's root for that
	path     string     // of the file, absolute
	name     string     // of the file, for messages
	dir      string     // that paths are relative to, absolute
	names    []*tree.Node
	profiles []string
	isWanted bool // by what requires them, whatever the user chose
}

// configurations returns those of the project, nil if some cannot be read.
func (s *translation) configurations(file tree.Original) *modules {
	main := file.Documents[0]
	m := &modules{translation: s, main: main, folder: filepath.Dir(file.Path),
		profiles: main.As(yaml.MappingNode, "profiles"), parsed: map[string][]*tree.Node{file.Path: file.Documents},
		named: map[string]*tree.Node{}, visited: map[visit]string{}}
	if m.chosen = file.Profiles; len(m.chosen) == 0 {
		m.chosen = split(s.getenv("SKAFFOLD_PROFILE"))
	}
	switch {
	case file.Whole:
		s.options.Modules = nil
	case len(s.options.Modules) == 0:
		s.options.Modules = split(s.getenv("SKAFFOLD_MODULE"))
	}
	before := len(s.Problems)
	m.take(wanted{at: main, path: file.Path, name: main.Origin.Name, dir: s.options.Dir, profiles: m.chosen,
		isWanted: len(s.options.Modules) == 0})
	m.selected = append(m.selected, m.chosen...)
	for _, name := range s.options.Modules {
		if m.named[name] == nil {
			s.Add(main.Origin, tree.Problem{Message: m.unknown(name)})
		}
	}
	if len(s.Problems) > before {
		return nil
	}
	return m
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// unknown says that there is no configuration with a name, and which there are.
func (m *modules) unknown(name string) string {
	message := fmt.Sprintf("there is no configuration %q", name)
	if known := slices.Sorted(maps.Keys(m.named)); len(known) > 0 {
		message += " (there are " + strings.Join(known, ", ") + ")" + tree.DidYouMean(name, known)
	}
	if m.isPartly {
		message += "; those that are in other repositories are not read"
	}
	return message
}

// take adds configurations of a file to the list, after those that they require, and returns them.
func (m *modules) take(w wanted) (taken []*tree.Node) {
	documents := m.documents(w)
	if len(documents) == 0 {
		return nil
	}
	for _, root := range documents { // before what they require: that may name them
		if !m.isConfiguration(root, w) {
			return nil
		}
	}
	names := make([]string, len(documents))
	for i, root := range documents {
		names[i] = nameOf(root)
	}
	for _, name := range w.names {
		if !slices.Contains(names, name.Value) {
			m.Wrong(name, "%s has no configuration %q%s", w.name, name.Value, tree.DidYouMean(name.Value, names))
		}
	}
	for i, root := range documents {
		if len(w.names) == 0 || slices.ContainsFunc(w.names, func(n *tree.Node) bool { return n.Value == names[i] }) {
			m.takeOne(root, w)
			taken = append(taken, root)
		}
	}
	return taken
}

// takeOne adds one configuration to the list.
func (m *modules) takeOne(root *tree.Node, w wanted) {
	w.isWanted = w.isWanted || nameOf(root) != "" && slices.Contains(m.options.Modules, nameOf(root))
	active, byContext := m.active(root, w.profiles)
	this, profiles := visit{root, w.isWanted}, strings.Join(slices.Sorted(slices.Values(active)), ", ")
	before, again := m.visited[this]
	switch {
	case again && before != profiles:
		m.Wrong(w.at, "requires %s with %s, and it is required with %s elsewhere: it is taken once",
			cmp.Or(nameOf(root), w.name), listed(profiles), listed(before))
		return
	case again:
		return
	}
	m.visited[this] = profiles
	m.profileNames(m.profiles, root.Get("profiles"))
	for _, name := range active {
		if root.Origin == m.main.Origin && m.profiles.Get(name) != nil {
			m.selected = append(m.selected, name)
		}
	}
	c := configuration{document: root, root: m.withProfiles(root, active), dir: w.dir}
	root = c.root
	if c.document == m.main {
		m.name = root.Get("metadata").Get("name")
	}
	if to := root.Get("deploy").Get("kubeContext"); byContext != nil && to != nil && m.chosenContext() == "" &&
		to.Value != "" && to.Value != m.options.CurrentContext {
		m.Wrong(byContext, "applies because of the kube context %q, but deploy.kubeContext is %q: "+
			"choose the context by --kube-context", m.options.CurrentContext, to.Value)
	}
	if list := root.Get("requires"); list != nil {
		for _, item := range m.items(list) {
			c.requires = append(c.requires, m.require(item, w, root, active)...)
		}
	}
	if w.isWanted {
		m.list = append(m.list, c)
	}
}

func listed(profiles string) string {
	if profiles == "" {
		return "no profile"
	}
	return "the profiles " + profiles
}

// require takes what an item of requires names, and returns it.
func (m *modules) require(n *tree.Node, by wanted, root *tree.Node, active []string) []*tree.Node {
	w := wanted{at: n, path: by.path, name: by.name, dir: by.dir, isWanted: by.isWanted}
	isElsewhere := false
	elsewhere := func(*tree.Node) { isElsewhere = true }
	var path *tree.Node
	var names []*tree.Node // of profiles
	m.section(n, keys{
		"path":    into(&path),
		"configs": func(n *tree.Node) { w.names = m.items(n) },
		"activeProfiles": func(n *tree.Node) {
			for _, item := range m.items(n) {
				if name, isActive := m.activeProfile(item, root, active); name != nil {
					names = append(names, name)
					if isActive {
						w.profiles = append(w.profiles, name.Value)
					}
				}
			}
		},
		"git": elsewhere, "googleCloudStorage": elsewhere, "googleCloudBuildRepoV2": elsewhere,
	})
	if isElsewhere || path != nil && isURL(path.Value) {
		m.isPartly = true
		if by.isWanted {
			m.note(n, "what is not on this machine is not read: what these configurations build and deploy is missing; "+
				"download them, and name their folder by path")
		}
		return nil
	}
	if path != nil {
		if w.path, w.name = m.fileAt(path, by); w.path == "" {
			return nil
		}
	}
	if m.requires++; m.requires == maxRequires+1 {
		m.Wrong(n, "more than %d configurations are required", maxRequires)
	}
	if m.requires > maxRequires {
		return nil
	}
	if w.path != by.path {
		w.dir = filepath.Dir(w.path)
	}
	if m.getenv("SKAFFOLD_PROPAGATE_PROFILES") != "false" {
		for _, name := range m.chosen {
			if !slices.Contains(w.profiles, name) {
				w.profiles = append(w.profiles, name)
			}
		}
	}
	taken := m.take(w)
	for _, name := range names {
		if !slices.ContainsFunc(taken, func(root *tree.Node) bool { return profileOf(root, name.Value) != nil }) {
			m.note(name, "nothing that is required here has this profile: ignored")
		}
	}
	return taken
}

// activeProfile returns the name of a profile of what is required, nil if there is none, and
// whether it is to apply.
func (m *modules) activeProfile(n, root *tree.Node, active []string) (name *tree.Node, isActive bool) {
	isActive = true
	m.section(n, keys{
		"name": into(&name),
		"activatedBy": func(n *tree.Node) {
			isActive = len(m.items(n)) == 0
			for _, item := range m.items(n) {
				isActive = isActive || slices.Contains(active, m.text(item))
				if profileOf(root, item.Value) == nil {
					m.note(item, "there is no such profile here: ignored")
				}
			}
		},
	})
	return name, isActive
}

// fileAt returns the file that a path means, "" if it reported that there is none.
func (m *modules) fileAt(n *tree.Node, by wanted) (full, name string) {
	path := m.text(n)
	if path == "" {
		return "", ""
	}
	full, name = tree.Abs(filepath.Dir(by.path), path), path
	if !filepath.IsAbs(path) {
		name = filepath.Join(filepath.Dir(by.name), path)
	}
	if info, err := os.Stat(full); err == nil && info.IsDir() {
		file := FileNames[0]
		if !exists(filepath.Join(full, file)) && exists(filepath.Join(full, FileNames[1])) {
			file = FileNames[1]
		}
		full, name, path = filepath.Join(full, file), filepath.Join(name, file), filepath.Join(path, file)
	}
	if message := m.CheckFile(filepath.Dir(by.path), path); message != "" {
		m.Wrong(n, "%s", message)
		return "", ""
	}
	return full, name
}

// documents returns the configurations in a file, none if something was reported.
func (m *modules) documents(w wanted) []*tree.Node {
	documents, known := m.parsed[w.path]
	if known {
		return documents
	}
	if len(m.parsed) == maxFiles {
		m.Wrong(w.at, "the project's configurations are in more than %d files", maxFiles)
		return nil
	}
	m.files = append(m.files, w.path)
	m.parsed[w.path] = m.ParseFile(&tree.Origin{Name: w.name, Order: m.main.Origin.Order}, w.path)
	return m.parsed[w.path]
}

// isConfiguration reports a document that is no configuration, or whose name another one has.
func (m *modules) isConfiguration(root *tree.Node, w wanted) bool {
	v := root.Get("apiVersion")
	switch {
	case !m.isMapping(root):
		return false
	case v == nil || !v.IsScalar():
		m.Wrong(root, "\"apiVersion\" is missing: a skaffold.yaml has one in each of its documents")
		return false
	case !knownVersion.MatchString(v.Value):
		m.Wrong(v, "this devloop reads %q, and %s, not %q; skaffold fix --overwrite -f %s writes a newer one",
			devloopVersion, knownVersions, v.Value, w.name)
		return false
	}
	if newerVersion.MatchString(v.Value) {
		m.inform(v, "is newer than the schemas that devloop knows, %s: keys that it adds are ignored, each with a WARN",
			knownVersions)
	}
	name := root.Get("metadata").Get("name")
	if nameOf(root) == "" {
		return true
	}
	if other := m.named[name.Value]; other != nil && other != name {
		m.Taken(name, "the name "+name.Value, other)
		return false
	}
	m.named[name.Value] = name
	return true
}

// nameOf returns the name of a configuration, "" if it has none.
func nameOf(root *tree.Node) string {
	if name := root.Get("metadata").Get("name"); name != nil && name.IsScalar() && !name.IsNull() {
		return name.Value
	}
	return ""
}

// merge returns what two configurations say at a path: lists are joined, and of two times to wait
// the longer one counts. lower may be nil.
func (s *translation) merge(path string, lower, upper *tree.Node) *tree.Node {
	switch {
	case lower == nil:
		return upper
	case lower.IsMapping() && upper.IsMapping():
		return tree.Merge(lower, upper, func(key string, lower, upper *tree.Node) *tree.Node {
			return s.merge(tree.JoinPath(path, key), lower, upper)
		})
	case lower.IsList() && upper.IsList():
		all := lower.Clone()
		for _, item := range upper.Items {
			if !item.IsScalar() || !slices.ContainsFunc(all.Items,
				func(other *tree.Node) bool { return tree.Equal(item, other) }) {
				all.Items = append(all.Items, item)
			}
		}
		return all
	case path == "timeouts.rollout":
		if duration(upper) < duration(lower) {
			return lower
		}
	case !tree.Equal(lower, upper):
		s.Wrong(upper, "%q here, and %q on line %d of %s: a project has one", upper.Value, lower.Value, lower.Line,
			lower.Origin.Name)
	}
	return upper
}

func duration(n *tree.Node) time.Duration {
	d, _ := time.ParseDuration(n.Value) // a wrong one is reported when devloop.yaml is checked
	return d
}
