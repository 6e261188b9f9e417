package skaffold

import (
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// profileName is a name that devloop.yaml allows.
var profileName = regexp.MustCompile(`^[A-Za-z0-9][-_.A-Za-z0-9]*$`)

// profileNames puts the names of the profiles into made, so that it is known which there are. What
// they say is merged before the file is translated.
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
			s.note(name, "the profile cannot be selected: %q must be a name of A-Z, a-z, 0-9, -, _ and . "+
				"that starts with a letter or digit", name.Value)
			continue
		}
		put(names, name.Value, p.As(yaml.MappingNode, p.Path))
		if activation := p.Get("activation"); len(activation.List()) > 0 && !slices.Contains(selected, name.Value) {
			s.note(activation, "the profile is not activated by itself: devloop -p %s", name.Value)
		}
	}
	put(made, "profiles", names)
}

// withProfiles merges the selected profiles over root. Load reports unknown ones.
func (s *translator) withProfiles(root *tree.Node, selected []string) *tree.Node {
	for _, name := range selected {
		var profile *tree.Node // the last one with that name
		for _, p := range root.Get("profiles").List() {
			if n := p.Get("name"); n != nil && n.Value == name {
				profile = p
			}
		}
		if profile == nil {
			continue
		}
		var patches []*tree.Node
		known := keys{
			"name": ignore, "activation": ignore, "requiresAllActivations": ignore,
			"patches": func(n *tree.Node) { patches = s.items(n) },
		}
		for _, name := range []string{
			"build", "test", "manifests", "deploy", "portForward", "resourceSelector", "verify", "customActions",
		} {
			known[name] = func(n *tree.Node) {
				if merged := mergeSection(root.Get(name), n, name); merged != nil {
					key := scalar(n, name)
					key.Path = ""
					root = root.Clone()
					root.Put(key, merged)
				}
			}
		}
		s.section(profile, known)
		for _, patch := range patches {
			root = s.patch(root, patch)
		}
	}
	return root
}

// merged are the sections that a profile merges key by key. It replaces all others.
var merged = []string{
	"build", "build.hooks", "manifests", "manifests.hooks", "deploy", "deploy.logs", "deploy.logs.jsonParse",
	"resourceSelector",
}

// builders are keys of build that exclude each other.
var builders = []string{"local", "googleCloudBuild", "cluster"}

// mergeSection merges a profile's section over that of the file, which may be nil. Empty ones
// change nothing.
func mergeSection(base, upper *tree.Node, path string) *tree.Node {
	switch {
	case upper.IsNull(), upper.IsList() && len(upper.Items) == 0,
		upper.IsScalar() && (upper.Value == "" || upper.Value == "0"):
		return base
	case base == nil || !base.IsMapping() || !upper.IsMapping() || !slices.Contains(merged, path):
		return upper
	}
	made := base.Clone()
	for _, e := range upper.Entries {
		key := e.Key.Value
		if path == "build" && slices.Contains(builders, key) && !e.Value.IsNull() {
			for _, other := range builders {
				made.Put(tree.NewKey(other), nil)
			}
		}
		made.Put(e.Key, mergeSection(base.Get(key), e.Value, path+"."+key))
	}
	return made
}
