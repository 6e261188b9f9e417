package skaffold

// The profiles of a skaffold.yaml: sections that take the place of others, and patches.

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// profileName is a name that devloop.yaml takes.
var profileName = regexp.MustCompile(`^[A-Za-z0-9][-_.A-Za-z0-9]*$`)

// profileNames puts the names of the profiles into made: Load then knows which there are. What they say is laid over the
// file before it is converted.
func (s *translator) profileNames(made, profiles *tree.Node, selected []string) {
	if profiles == nil {
		return
	}
	names := profiles.As(yaml.MappingNode, profiles.Path)
	for _, p := range s.items(profiles) {
		name := p.Get("name")
		switch {
		case !s.isMapping(p):
			continue
		case name == nil || name.Value == "":
			s.Wrong(p, `"name" is missing`)
			continue
		case !profileName.MatchString(name.Value):
			s.note(name, "the profile cannot be selected: %q must be a name of A-Z, a-z, 0-9, -, _ and . that starts with a letter or digit", name.Value)
			continue
		}
		put(names, name.Value, p.As(yaml.MappingNode, p.Path))
		if activation := p.Get("activation"); activation != nil && len(activation.Items) > 0 && !slices.Contains(selected, name.Value) {
			s.note(activation, "the profile is not activated by itself: devloop -p %s", name.Value)
		}
	}
	put(made, "profiles", names)
}

// profiled lays the selected profiles over root.
func (s *translator) profiled(root *tree.Node, selected []string) *tree.Node {
	for _, name := range selected {
		var profile *tree.Node // of several with that name, the last one
		for _, p := range root.Get("profiles").List() {
			if n := p.Get("name"); n != nil && n.Value == name {
				profile = p
			}
		}
		if profile == nil {
			continue // which Load tells
		}
		var patches []*tree.Node
		section := func(key string) func(*tree.Node) {
			return func(n *tree.Node) {
				root = root.Clone()
				k := scalar(n, key)
				k.Path = ""
				if over := overlaid(root.Get(key), n, key); over != nil {
					root.Put(k, over)
				}
			}
		}
		read := map[string]func(*tree.Node){
			"name": func(*tree.Node) {}, "activation": func(*tree.Node) {}, "requiresAllActivations": func(*tree.Node) {},
			"patches": func(n *tree.Node) { patches = s.items(n) },
		}
		for _, key := range []string{"build", "test", "manifests", "deploy", "portForward", "resourceSelector", "verify", "customActions"} {
			read[key] = section(key)
		}
		s.section(profile, read, nil)
		for _, patch := range patches {
			root = s.patched(root, patch)
		}
	}
	return root
}

// merged are the sections whose keys a profile gives one by one. All else that it gives takes the place of what was there.
var merged = []string{"build", "build.hooks", "manifests", "manifests.hooks", "deploy", "deploy.logs", "deploy.logs.jsonParse", "resourceSelector"}

// builders are the keys of build of which a file has one.
var builders = []string{"local", "googleCloudBuild", "cluster"}

// overlaid returns what a profile's section makes of the one of the file, which may be nil. Empty ones change nothing.
func overlaid(base, upper *tree.Node, path string) *tree.Node {
	switch {
	case upper.IsNull(), upper.IsList() && len(upper.Items) == 0, upper.IsScalar() && (upper.Value == "" || upper.Value == "0"):
		return base
	case base == nil || !base.IsMapping() || !upper.IsMapping() || !slices.Contains(merged, path):
		return upper
	}
	made := base.Clone()
	for _, e := range upper.Entries {
		if path == "build" && slices.Contains(builders, e.Key.Value) && !e.Value.IsNull() {
			for _, other := range builders {
				made.Put(tree.NewKey(other), nil)
			}
		}
		made.Put(e.Key, overlaid(base.Get(e.Key.Value), e.Value, path+"."+e.Key.Value))
	}
	return made
}

// patched returns what one patch, in the notation of JSON patch, makes of root.
func (s *translator) patched(root, n *tree.Node) *tree.Node {
	var path, from, value *tree.Node
	op := "replace"
	s.section(n, map[string]func(*tree.Node){
		"op":    func(n *tree.Node) { op = s.text(n) },
		"path":  func(n *tree.Node) { path = n },
		"from":  func(n *tree.Node) { from = n },
		"value": func(n *tree.Node) { value = n },
	}, nil)
	if value == nil {
		value = n.Get("value") // null is a value, too
	}
	switch {
	case op == "":
		return root
	case path == nil:
		if n.IsMapping() {
			s.Wrong(n, `"path" is missing`)
		}
		return root
	case value == nil && slices.Contains([]string{"add", "replace", "test"}, op):
		s.Wrong(n, `"value" is missing`)
		return root
	case from == nil && slices.Contains([]string{"move", "copy"}, op):
		s.Wrong(n, `"from" is missing`)
		return root
	}
	made, message := root, ""
	switch op {
	case "add", "replace":
		made, message = edited(root, path, value, op)
	case "remove":
		made, message = edited(root, path, nil, op)
	case "test":
		if there := pointed(root, path); there == nil || !same(there, value) {
			message = fmt.Sprintf("the patch does not fit: %s is not what it tests for", path.Value)
		}
	case "move", "copy":
		if value = pointed(root, from); value == nil {
			s.Wrong(from, "there is nothing at %s", from.Value)
			return root
		}
		if op == "move" {
			made, message = edited(root, from, nil, "remove")
		}
		if message == "" {
			made, message = edited(made, path, value, "add")
		}
	default:
		message = fmt.Sprintf("there is no operation %q; there are add, replace, remove, test, move and copy", op)
	}
	if message != "" {
		s.Wrong(path, "%s", message)
		return root
	}
	return made
}

// pointer takes a path like /build/artifacts/0/image apart; it is empty for what is none.
func pointer(path *tree.Node) []string {
	rest, ok := strings.CutPrefix(path.Value, "/")
	if !ok || rest == "" {
		return nil
	}
	list := strings.Split(rest, "/")
	for i, step := range list {
		list[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
	}
	return list
}

// pointed returns what a path points to, nil if that is nothing.
func pointed(n, path *tree.Node) *tree.Node {
	way := pointer(path)
	if len(way) == 0 {
		return nil
	}
	for _, step := range way {
		if i, ok := item(n, step); ok {
			n = n.Items[i]
			continue
		}
		if n = n.Get(step); n == nil {
			return nil
		}
	}
	return n
}

// item returns which item of a list a step means: its number, or, written name=web, what one of its keys holds.
func item(n *tree.Node, step string) (index int, ok bool) {
	if n == nil || !n.IsList() {
		return 0, false
	}
	if key, value, found := strings.Cut(step, "="); found {
		index = slices.IndexFunc(n.Items, func(item *tree.Node) bool { v := item.Get(key); return v != nil && v.Value == value })
		return index, index >= 0
	}
	index, err := strconv.Atoi(step)
	return index, err == nil && index >= 0 && index < len(n.Items)
}

// edited returns a tree in which the value at a path is another one, or gone if value is nil; or why that cannot be.
func edited(root, path, value *tree.Node, op string) (made *tree.Node, message string) {
	way := pointer(path)
	if len(way) == 0 {
		return root, fmt.Sprintf("%q is no path like /build/artifacts/0/image", path.Value)
	}
	nothing := fmt.Sprintf("the patch does not fit: there is nothing at %s", path.Value)
	var edit func(n *tree.Node, way []string) (*tree.Node, bool)
	edit = func(n *tree.Node, way []string) (*tree.Node, bool) {
		step := way[0]
		i, isItem := item(n, step)
		last := len(way) == 1
		switch {
		case n.IsMapping():
			there := n.Get(step)
			changed := n.Clone()
			if !last {
				if there == nil {
					return nil, false
				}
				below, ok := edit(there, way[1:])
				changed.Put(tree.NewKey(step), below)
				return changed, ok
			}
			if there == nil && op != "add" {
				return nil, false
			}
			k := tree.NewKey(step)
			if value != nil {
				k.Origin, k.Path = value.Origin, n.Path
				k.Line, k.Column = value.Line, value.Column
			}
			changed.Put(k, value)
			return changed, true
		case n.IsList() && last && op == "add":
			if step == "-" || step == strconv.Itoa(len(n.Items)) {
				i, isItem = len(n.Items), true
			}
			if !isItem {
				return nil, false
			}
			changed := n.Clone()
			changed.Items = slices.Insert(changed.Items, i, value)
			return changed, true
		case !isItem:
			return nil, false
		}
		changed := n.Clone()
		switch {
		case !last:
			below, ok := edit(n.Items[i], way[1:])
			changed.Items[i] = below
			return changed, ok
		case value == nil:
			changed.Items = slices.Delete(changed.Items, i, i+1)
		default:
			changed.Items[i] = value
		}
		return changed, true
	}
	made, ok := edit(root, way)
	if !ok {
		return root, nothing
	}
	return made, ""
}

// same tells whether two values are.
func same(a, b *tree.Node) bool {
	if a.Kind != b.Kind || len(a.Entries) != len(b.Entries) || len(a.Items) != len(b.Items) {
		return false
	}
	for _, e := range a.Entries {
		if other := b.Get(e.Key.Value); other == nil || !same(e.Value, other) {
			return false
		}
	}
	for i, item := range a.Items {
		if !same(item, b.Items[i]) {
			return false
		}
	}
	return !a.IsScalar() || a.Value == b.Value
}
