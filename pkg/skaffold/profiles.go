package skaffold

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// profileName is a name that devloop.yaml allows.
var profileName = regexp.MustCompile(`^[A-Za-z0-9][-_.A-Za-z0-9]*$`)

// profileNames puts the names of the profiles into names, so that it is known which there are. What
// they say is merged before the file is translated.
func (s *translation) profileNames(names, profiles *tree.Node) {
	if profiles == nil {
		return
	}
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
	}
}

// profileOf returns the last profile with a name, nil if there is none.
func profileOf(root *tree.Node, name string) *tree.Node {
	for _, p := range slices.Backward(root.Get("profiles").List()) {
		if n := p.Get("name"); n != nil && n.Value == name && name != "" {
			return p
		}
	}
	return nil
}

// active returns the names of the profiles that apply to a configuration, in their order: those
// that activate themselves, and then those that are selected. "-name" switches one off. byContext
// is the last one that applies because of the kube context.
func (s *translation) active(root *tree.Node, selected []string) (names []string, byContext *tree.Node) {
	for _, p := range root.Get("profiles").List() {
		name := p.Get("name")
		if name == nil || profileOf(root, name.Value) != p {
			continue
		}
		if isActive, hasContext := s.activates(p); isActive {
			names = append(names, name.Value)
			if !slices.Contains(selected, name.Value) && !slices.Contains(selected, "-"+name.Value) {
				s.inform(p.Get("activation"), "the profile applies by itself: -p -%s switches it off", name.Value)
			}
			if hasContext {
				byContext = name
			}
		}
	}
	for _, name := range selected {
		name, isOff := strings.CutPrefix(name, "-")
		names = slices.DeleteFunc(names, func(other string) bool { return isOff && other == name })
		if !isOff && profileOf(root, name) != nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, byContext
}

// activates tells whether a profile applies by itself, and whether the kube context decides.
func (s *translation) activates(profile *tree.Node) (isActive, byContext bool) {
	needsAll := profile.Get("requiresAllActivations")
	all := needsAll != nil && s.truth(needsAll)
	list := profile.Get("activation").List()
	if s.getenv("SKAFFOLD_PROFILE_AUTO_ACTIVATION") == "false" {
		list = nil
	}
	for _, condition := range list {
		isMet, hasContext := true, false
		s.section(condition, keys{
			"command": func(n *tree.Node) { isMet = isMet && matches(s.text(n), cmp.Or(s.options.Command, "dev")) },
			"kubeContext": func(n *tree.Node) {
				isMet, hasContext = isMet && matches(s.text(n), cmp.Or(s.chosenContext(), s.options.CurrentContext)), true
			},
			"env": func(n *tree.Node) {
				name, pattern, found := strings.Cut(s.text(n), "=")
				if !found {
					s.Wrong(n, "must be NAME=pattern, but is %s", n.Describe())
				}
				value := s.getenv(name)
				if value != "" {
					s.environment = append(s.environment, name)
				}
				isMet = isMet && (pattern == "" && value == "" || pattern != "" && matches(pattern, value))
			},
		})
		byContext = byContext || isMet && hasContext
		if isMet != all { // one is enough, or one is missing
			return isMet, isMet && byContext
		}
	}
	return all && len(list) > 0, byContext
}

// matches compares a value with a pattern of an activation: text, a regular expression that is
// found in the value, or ! and one that is not.
func matches(pattern, value string) bool {
	pattern, isNot := strings.CutPrefix(pattern, "!")
	expression, err := regexp.Compile(pattern)
	return (pattern == value || err == nil && expression.MatchString(value)) != isNot
}

// withProfiles merges the selected profiles over root. Load reports unknown ones.
func (s *translation) withProfiles(root *tree.Node, selected []string) *tree.Node {
	for _, name := range selected {
		profile := profileOf(root, name)
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

// patch applies one patch of a profile to root.
func (s *translation) patch(root, n *tree.Node) *tree.Node {
	p := tree.Patch{At: n, Operation: "replace"}
	s.section(n, keys{
		"op":    func(n *tree.Node) { p.Operation = s.text(n) },
		"path":  into(&p.Path),
		"from":  into(&p.From),
		"value": into(&p.Value),
	})
	if p.Value == nil {
		p.Value = n.Get("value") // null is a value, too
	}
	if p.Operation == "" || !n.IsMapping() {
		return root
	}
	return p.Apply(s.Report, root)
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
