package skaffold

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

// literals finds images that the values of a release name as plain text, image: worker. skaffold
// puts their tags into what the charts make; devloop sets the value to the image instead, and says
// so.
type literals struct {
	*translator
	at, release *tree.Node // in skaffold.yaml, and as devloop.yaml has it
	set         *tree.Node
	inline      *tree.Node
	doubtful    []doubtful
}

// doubtful is a text that is called as an image, and may mean something else.
type doubtful struct {
	of        artifact
	at        *tree.Node
	otherwise string
}

// literals sets values of a release, which stands at n, that name an image as plain text. It
// returns all values that are known: those of the chart, if that is a folder here, of the values
// files, and of skaffold.yaml.
func (s *translator) literals(n, release *tree.Node) *tree.Node {
	l := &literals{translator: s, at: n, release: release, set: release.Get("set"), inline: release.Get("inlineValues")}
	all := l.all()
	if l.set == nil {
		l.set = release.As(yaml.MappingNode, release.Path)
	}
	if all != nil {
		l.mapping(all, "", nil)
	}
	if len(l.set.Entries) > 0 {
		put(release, "set", l.set)
	}
	if l.inline != nil {
		put(release, "inlineValues", l.inline)
	}
	noted := map[string]bool{}
	for _, d := range l.doubtful {
		if d.of.image != "" && !s.names[d.of.name] { // else the image is set, and this means something else
			s.note(d.at, "%s", d.otherwise)
			noted[d.of.name] = true
		}
	}
	maps.Copy(s.names, noted)
	return all
}

// all merges the values.
func (l *literals) all() *tree.Node {
	var all *tree.Node
	var paths []string
	if folder := l.folder(); folder != "" {
		paths = append(paths, filepath.Join(folder, "values.yaml"))
	}
	for _, item := range l.release.Get("values").List() {
		paths = append(paths, item.Value)
	}
	for _, path := range paths {
		if root := l.valuesFile(path); root != nil {
			all = tree.Merge(all, root, nil)
		}
	}
	if l.inline != nil {
		all = tree.Merge(all, l.inline, nil)
	}
	for _, values := range []*tree.Node{l.set, l.release.Get("setString")} {
		if values == nil {
			continue
		}
		for _, e := range values.Entries {
			all = setAt(all, steps(e.Key.Value), e.Value)
		}
	}
	return all
}

// folder is the release's chart, if that is a folder on this machine.
func (l *literals) folder() string {
	chart := l.release.Get("chart").Value
	isFolder := exists(tree.Abs(l.dir, filepath.Join(chart, "Chart.yaml")))
	if l.release.Get("repo") == nil && !isURL(chart) && isFolder {
		return chart
	}
	return ""
}

// valuesFile is the tree of a values file, nil if it cannot be read: the deployment says why.
func (l *literals) valuesFile(path string) *tree.Node {
	full := tree.Abs(l.dir, path)
	text, err := files.Read(full, maxValue)
	if err != nil {
		return nil
	}
	l.files = append(l.files, full)
	root := (&tree.Report{}).Parse(&tree.Origin{Name: path, Order: l.at.Origin.Order}, text)
	if root == nil || !root.IsMapping() {
		return nil
	}
	return escapeTree(root)
}

// setAt returns n with a value at the end of a path.
func setAt(n *tree.Node, keys []string, value *tree.Node) *tree.Node {
	if len(keys) == 0 {
		return value
	}
	if n != nil && n.IsList() {
		made := n.Clone()
		i, err := strconv.Atoi(keys[0])
		switch {
		case err != nil || i < 0 || i > len(made.Items):
		case i == len(made.Items):
			made.Items = append(made.Items, setAt(nil, keys[1:], value))
		default:
			made.Items[i] = setAt(made.Items[i], keys[1:], value)
		}
		return made
	}
	made := value.As(yaml.MappingNode, value.Path)
	if n != nil && n.IsMapping() {
		made = n.Clone()
	}
	put(made, keys[0], setAt(made.Get(keys[0]), keys[1:], value))
	return made
}

// mapping goes through a mapping that stands in no list. keys are those that lead to it.
func (l *literals) mapping(n *tree.Node, path string, keys []string) {
	changed := l.entries(n, path, keys)
	for i, e := range n.Entries {
		below := append(slices.Clone(keys), e.Key.Value)
		if e.Value.IsMapping() {
			l.mapping(e.Value, dotted(path, e.Key.Value), below)
			continue
		}
		value := changed.Entries[i].Value
		if e.Value.IsList() {
			value = l.items(e.Value, dotted(path, e.Key.Value))
		}
		if value != e.Value { // what set cannot say, or can say of lists in values files only
			l.inline = tree.Merge(l.inline, wrap(value, below), nil)
		}
	}
}

// items returns a list with its images named, the same one if there are none.
func (l *literals) items(n *tree.Node, path string) *tree.Node {
	made, isSame := n.Clone(), true
	for i, item := range n.Items {
		made.Items[i] = l.inList(item, fmt.Sprintf("%s[%d]", path, i))
		isSame = isSame && made.Items[i] == item
	}
	if isSame {
		return n
	}
	return made
}

func (l *literals) inList(n *tree.Node, path string) *tree.Node {
	switch {
	case n.IsList():
		return l.items(n, path)
	case !n.IsMapping():
		return n
	}
	made := l.entries(n, path, nil)
	isSame := true
	for i, e := range n.Entries {
		if !e.Value.IsScalar() {
			made.Entries[i].Value = l.inList(e.Value, dotted(path, e.Key.Value))
		}
		isSame = isSame && made.Entries[i].Value == e.Value
	}
	if isSame {
		return n
	}
	return made
}

// isImageKey tells whether the value of a key is an image.
func isImageKey(key string) bool { return key == "image" || strings.HasSuffix(key, "Image") }

// tagBeside is the key of a mapping that has the tag of the image under another one, "" if there is
// none.
func tagBeside(n *tree.Node, key string) string {
	called := strings.TrimSuffix(strings.TrimSuffix(key, "Image"), "image")
	for _, tag := range []string{key + "Tag", called + "Tag", "tag"} {
		if v := n.Get(tag); v != nil && v.IsScalar() && (tag != "tag" || called == "" || !isImageKey(key)) {
			return tag
		}
	}
	return ""
}

// entries looks at the single values of a mapping. It returns the mapping with those that cannot be
// put into set.
func (l *literals) entries(n *tree.Node, path string, keys []string) *tree.Node {
	made := n.Clone()
	for i, e := range n.Entries {
		isName := func(a artifact) bool { return a.name == e.Value.Value }
		of, at := -1, dotted(path, e.Key.Value)
		if e.Value.IsScalar() && e.Value.Tag == "!!str" {
			of = slices.IndexFunc(l.artifacts, isName)
		}
		if of < 0 || l.release.Get("setString").Get(at) != nil {
			continue
		}
		a, key := l.artifacts[of], e.Key.Value
		isPart := key == "repository" || key == "name" && len(keys) > 0 && isImageKey(keys[len(keys)-1])
		tag := tagBeside(n, key)
		registry := n.Get("registry")
		switch {
		case (isPart || isImageKey(key)) && registry != nil && holdsValue(registry): // another image
		case isImageKey(key) && tag == "":
			made.Entries[i].Value = l.name(a, e.Value, at, "image")
		case tag != "" && (isPart || isImageKey(key)):
			made.Entries[i].Value = l.name(a, e.Value, at, "repository")
			j := slices.IndexFunc(n.Entries, func(e tree.Entry) bool { return e.Key.Value == tag })
			made.Entries[j].Value = l.put(e.Value, n.Entries[j].Value, dotted(path, tag), a, "tag")
		case e.Value.Origin == l.at.Origin:
			l.doubtful = append(l.doubtful, doubtful{a, e.Value, fmt.Sprintf("is deployed as it is; "+
				"if this is the image %s, it lacks the tag: write %s under setValueTemplates", a.name, fullReference(a))})
		case isPart:
			l.doubtful = append(l.doubtful, doubtful{a, l.at, fmt.Sprintf("%s: %s is deployed as it is; "+
				"if this is the image, it lacks the tag: write %s under setValueTemplates",
				l.where(at, e.Value), a.name, fullReference(a))})
		}
	}
	return made
}

// where is the place of a value in another file.
func (l *literals) where(path string, value *tree.Node) string {
	return fmt.Sprintf("%s:%d: %s", value.Origin.Name, value.Line, path)
}

// name puts an image where its name stands, and says so. It returns the value that is there now,
// unless that is in set.
func (l *literals) name(a artifact, value *tree.Node, path, function string) *tree.Node {
	at, prefix := value, ""
	if value.Origin != l.at.Origin {
		at, prefix = l.at, l.where(path, value)+": "
	}
	if a.image == "" {
		l.Wrong(at, "%simage %q is built by %s, which devloop does not do: what is deployed would lack it",
			prefix, a.name, a.builder)
		return value
	}
	l.names[a.name] = true
	l.inform(at, "%s%s is the image that is built: set to that, with its tag", prefix, a.name)
	return l.put(value, value, path, a, function)
}

// put gives a value what a function says of an image; from is where the image's name stands. It
// returns the value that is there now, unless that is in set.
func (l *literals) put(from, value *tree.Node, path string, a artifact, function string) *tree.Node {
	if a.image == "" {
		return value
	}
	at := from
	if from.Origin != l.at.Origin {
		at = l.at
	}
	made := scalar(at, l.templated(l.placeholder(function, a.image)))
	if l.set.Get(path) != nil || settable.MatchString(path) {
		put(l.set, path, made)
		return value
	}
	return made
}

// settable is a path of set that leads to a value, whatever else there is: to no list, and without
// a sign that means something there.
var settable = regexp.MustCompile(`^(\\\.|[-\w])+(\.(\\\.|[-\w])+)*$`)

// dotted is the path of a key below another one, as set has it.
func dotted(path, key string) string { return tree.JoinPath(path, strings.ReplaceAll(key, ".", `\.`)) }

// imageInTemplate is a line of a manifest.
var imageInTemplate = regexp.MustCompile(`^\s*(?:-\s+)?image:\s*["']?([^"'\s]+)["']?\s*$`)

// inTemplates reports images that stand in the templates of a release's chart, if that is a folder
// here: no value changes them.
func (s *translator) inTemplates(at, release *tree.Node) {
	folder := (&literals{translator: s, release: release}).folder()
	if folder == "" || len(s.artifacts) == 0 {
		return
	}
	templates := filepath.Join(folder, "templates")
	err := filepath.WalkDir(tree.Abs(s.dir, templates), func(path string, entry fs.DirEntry, err error) error {
		extension := filepath.Ext(path)
		if err != nil || !entry.Type().IsRegular() || extension != ".yaml" && extension != ".yml" {
			return err
		}
		text, err := files.Read(path, maxValue)
		if err != nil {
			return err
		}
		s.files = append(s.files, path)
		for i, line := range strings.Split(string(text), "\n") {
			image := imageInTemplate.FindStringSubmatch(line)
			if image == nil {
				continue
			}
			of := slices.IndexFunc(s.artifacts, func(a artifact) bool { return a.name == image[1] })
			if of < 0 {
				continue
			}
			rel, _ := filepath.Rel(s.dir, path) // both are absolute
			s.Wrong(at, "%s:%d has the image %s without its tag, and devloop rewrites no manifests: "+
				"write image: {{ .Values.image }} there, and %s under setValueTemplates here",
				rel, i+1, image[1], fullReference(s.artifacts[of]))
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.note(at, "%s cannot be read: %v", templates, err)
	}
}

// gatewayPrefix returns what stands before the paths of a Dask Gateway's API, in its values, or
// that it is not known.
func gatewayPrefix(values *tree.Node) (prefix string, isUnknown bool) {
	n := values.Get("gateway").Get("prefix")
	if n == nil || n.IsNull() {
		return "", false
	}
	const braces = `{{ "{{" }}` // mean themselves, all others a template
	if prefix = strings.Trim(strings.ReplaceAll(n.Value, braces, "{{"), "/"); prefix != "" {
		prefix = "/" + prefix
	}
	isTemplate := strings.Contains(strings.ReplaceAll(n.Value, braces, ""), "{{")
	return prefix, !n.IsScalar() || isTemplate || strings.ContainsFunc(prefix, unicode.IsSpace)
}
