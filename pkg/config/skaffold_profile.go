package config

// The profiles of a skaffold.yaml: sections that take the place of others, and patches.

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// profileName is a name that devloop.yaml takes.
var profileName = regexp.MustCompile(`^[A-Za-z0-9][-_.A-Za-z0-9]*$`)

// profileNames puts the names of the profiles into made: Load then knows which there are. What they say is laid over the
// file before it is converted.
func (s *translator) profileNames(made, profiles *node, selected []string) {
	if profiles == nil {
		return
	}
	names := profiles.as(yaml.MappingNode, profiles.path)
	for _, p := range s.items(profiles) {
		name := p.get("name")
		switch {
		case !s.isMapping(p):
			continue
		case name == nil || name.Value == "":
			s.wrong(p, `"name" is missing`)
			continue
		case !profileName.MatchString(name.Value):
			s.note(name, "the profile cannot be selected: %q must be a name of A-Z, a-z, 0-9, -, _ and . that starts with a letter or digit", name.Value)
			continue
		}
		put(names, name.Value, p.as(yaml.MappingNode, p.path))
		if activation := p.get("activation"); activation != nil && len(activation.items) > 0 && !slices.Contains(selected, name.Value) {
			s.note(activation, "the profile is not activated by itself: devloop -p %s", name.Value)
		}
	}
	put(made, "profiles", names)
}

// profiled lays the selected profiles over root.
func (s *translator) profiled(root *node, selected []string) *node {
	for _, name := range selected {
		var profile *node // of several with that name, the last one
		for _, p := range root.get("profiles").list() {
			if n := p.get("name"); n != nil && n.Value == name {
				profile = p
			}
		}
		if profile == nil {
			continue // which Load tells
		}
		var patches []*node
		section := func(key string) func(*node) {
			return func(n *node) {
				root = root.clone()
				k := scalar(n, key)
				k.path = ""
				if over := overlaid(root.get(key), n, key); over != nil {
					root.put(k, over)
				}
			}
		}
		read := map[string]func(*node){
			"name": func(*node) {}, "activation": func(*node) {}, "requiresAllActivations": func(*node) {},
			"patches": func(n *node) { patches = s.items(n) },
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
func overlaid(base, upper *node, path string) *node {
	switch {
	case upper.isNull(), upper.isList() && len(upper.items) == 0, upper.isScalar() && (upper.Value == "" || upper.Value == "0"):
		return base
	case base == nil || !base.isMapping() || !upper.isMapping() || !slices.Contains(merged, path):
		return upper
	}
	made := base.clone()
	for _, e := range upper.entries {
		if path == "build" && slices.Contains(builders, e.key.Value) && !e.value.isNull() {
			for _, other := range builders {
				made.put(newKey(other), nil)
			}
		}
		made.put(e.key, overlaid(base.get(e.key.Value), e.value, path+"."+e.key.Value))
	}
	return made
}

// patched returns what one patch, in the notation of JSON patch, makes of root.
func (s *translator) patched(root, n *node) *node {
	var path, from, value *node
	op := "replace"
	s.section(n, map[string]func(*node){
		"op":    func(n *node) { op = s.text(n) },
		"path":  func(n *node) { path = n },
		"from":  func(n *node) { from = n },
		"value": func(n *node) { value = n },
	}, nil)
	if value == nil {
		value = n.get("value") // null is a value, too
	}
	switch {
	case op == "":
		return root
	case path == nil:
		if n.isMapping() {
			s.wrong(n, `"path" is missing`)
		}
		return root
	case value == nil && slices.Contains([]string{"add", "replace", "test"}, op):
		s.wrong(n, `"value" is missing`)
		return root
	case from == nil && slices.Contains([]string{"move", "copy"}, op):
		s.wrong(n, `"from" is missing`)
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
			s.wrong(from, "there is nothing at %s", from.Value)
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
		s.wrong(path, "%s", message)
		return root
	}
	return made
}

// pointer takes a path like /build/artifacts/0/image apart; it is empty for what is none.
func pointer(path *node) []string {
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
func pointed(n, path *node) *node {
	way := pointer(path)
	if len(way) == 0 {
		return nil
	}
	for _, step := range way {
		if i, ok := item(n, step); ok {
			n = n.items[i]
			continue
		}
		if n = n.get(step); n == nil {
			return nil
		}
	}
	return n
}

// item returns which item of a list a step means: its number, or, written name=web, what one of its keys holds.
func item(n *node, step string) (index int, ok bool) {
	if n == nil || !n.isList() {
		return 0, false
	}
	if key, value, found := strings.Cut(step, "="); found {
		index = slices.IndexFunc(n.items, func(item *node) bool { v := item.get(key); return v != nil && v.Value == value })
		return index, index >= 0
	}
	index, err := strconv.Atoi(step)
	return index, err == nil && index >= 0 && index < len(n.items)
}

// edited returns a tree in which the value at a path is another one, or gone if value is nil; or why that cannot be.
func edited(root, path, value *node, op string) (made *node, message string) {
	way := pointer(path)
	if len(way) == 0 {
		return root, fmt.Sprintf("%q is no path like /build/artifacts/0/image", path.Value)
	}
	nothing := fmt.Sprintf("the patch does not fit: there is nothing at %s", path.Value)
	var edit func(n *node, way []string) (*node, bool)
	edit = func(n *node, way []string) (*node, bool) {
		step := way[0]
		i, isItem := item(n, step)
		last := len(way) == 1
		switch {
		case n.isMapping():
			there := n.get(step)
			changed := n.clone()
			if !last {
				if there == nil {
					return nil, false
				}
				below, ok := edit(there, way[1:])
				changed.put(newKey(step), below)
				return changed, ok
			}
			if there == nil && op != "add" {
				return nil, false
			}
			k := newKey(step)
			if value != nil {
				k.origin, k.path = value.origin, n.path
				k.Line, k.Column = value.Line, value.Column
			}
			changed.put(k, value)
			return changed, true
		case n.isList() && last && op == "add":
			if step == "-" || step == strconv.Itoa(len(n.items)) {
				i, isItem = len(n.items), true
			}
			if !isItem {
				return nil, false
			}
			changed := n.clone()
			changed.items = slices.Insert(changed.items, i, value)
			return changed, true
		case !isItem:
			return nil, false
		}
		changed := n.clone()
		switch {
		case !last:
			below, ok := edit(n.items[i], way[1:])
			changed.items[i] = below
			return changed, ok
		case value == nil:
			changed.items = slices.Delete(changed.items, i, i+1)
		default:
			changed.items[i] = value
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
func same(a, b *node) bool {
	if a.Kind != b.Kind || len(a.entries) != len(b.entries) || len(a.items) != len(b.items) {
		return false
	}
	for _, e := range a.entries {
		if other := b.get(e.key.Value); other == nil || !same(e.value, other) {
			return false
		}
	}
	for i, item := range a.items {
		if !same(item, b.items[i]) {
			return false
		}
	}
	return !a.isScalar() || a.Value == b.Value
}
