package skaffold

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/strvals"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

const (
	maxValue  = 1 << 20 // bytes of a file that becomes a value: more than Kubernetes takes in one object
	maxConfig = 4 << 20 // bytes of a file that configures something
)

// values are what a release says about its values.
type values struct {
	files, secrets          *tree.Node
	overrides               *tree.Node
	set, setTemplates       *tree.Node
	setFiles                *tree.Node
	artifacts, oldArtifacts *tree.Node // artifactOverrides, which were called values before
	strategy                *tree.Node
}

// values puts the values into the release. For the same path, what comes later here counts.
func (s *translator) values(release *tree.Node, v values) {
	s.valuesFiles(release, v)
	h := helmSet{translator: s, set: release.As(yaml.MappingNode, release.Path)}
	if v.overrides != nil && s.isMapping(v.overrides) && len(v.overrides.Entries) > 0 {
		h.inline = escapeTree(v.overrides)
	}
	for _, f := range s.helmFlags.set {
		h.assign(f.at, f.value, strvals.Parse)
	}
	for _, values := range []*tree.Node{v.set, v.setTemplates} {
		s.flat(values, func(path string, at *tree.Node) {
			text, ok := setText(at), true
			if values == v.setTemplates {
				if path, ok = s.plain(at, path); ok {
					text, ok = s.expand(at, text)
				}
			}
			switch {
			case !ok:
				return
			case strings.ContainsFunc(path+at.Value, isPlaceholder):
				s.Wrong(at, "has a character that text cannot have")
				return
			case at.IsNull():
				s.inform(at, "is empty: what the chart sets here is removed")
				text = "null"
			case setText(at) != at.Value:
				s.inform(at, "skaffold makes %s of %s, and so helm --set gets that: quotes keep what is written",
					setText(at), at.Value)
			}
			h.assign(at, path+"="+text, strvals.Parse)
		})
	}
	s.overrideArtifacts(h.set, v)
	asText := helmSet{translator: s, set: release.As(yaml.MappingNode, release.Path)}
	for _, f := range s.helmFlags.setString {
		asText.assign(f.at, f.value, strvals.ParseString)
	}
	if asText.inline != nil {
		s.Wrong(asText.inline, "devloop.yaml cannot say a list of text by --set-string: write it to overrides")
	}
	s.setFiles(asText.set, v.setFiles)
	for _, path := range asText.set.Keys() {
		s.replaced(h.set, path)
	}
	if len(h.set.Entries) > 0 {
		put(release, "set", h.set)
	}
	if len(asText.set.Entries) > 0 {
		put(release, "setString", asText.set)
	}
	if h.inline != nil {
		put(release, "inlineValues", h.inline)
	}
}

// isEncrypted finds what sops leaves in a file.
var isEncrypted = regexp.MustCompile(`(?m)^\s*"?sops"?\s*:`)

// valuesFiles reads the paths of values files. With helm-secrets, none may be encrypted: it would
// be deployed as it is.
func (s *translator) valuesFiles(release *tree.Node, v values) {
	hasSecrets, found := v.secrets != nil && s.truth(v.secrets), false
	var list []*tree.Node
	for _, f := range s.helmFlags.values {
		list = append(list, scalar(f.at, f.value))
	}
	if v.files != nil {
		list = append(list, s.items(v.files)...)
	}
	for _, item := range list {
		filled := s.filled(item)
		if filled == nil {
			continue
		}
		path := expandHome(filled.Value)
		if isURL(path) {
			s.Wrong(item, "%q is not on this machine: download it", path)
			found = found || strings.HasPrefix(path, "secrets")
			continue
		}
		if hasSecrets {
			text, err := files.Read(tree.Abs(s.dir, path), maxConfig)
			if err == nil && isEncrypted.Match(text) {
				s.Wrong(item, "%q is encrypted, and devloop does not use helm-secrets: "+
					"what it holds would be deployed as it is; decrypt it", path)
				found = true
			}
		}
		add(release, "values", scalar(item, s.path(path)))
	}
	if hasSecrets && !found {
		s.inform(v.secrets, "helm-secrets is not used; none of the values files is encrypted")
	}
}

// replaced removes a value that a later one replaces.
func (s *translator) replaced(set *tree.Node, path string) {
	if before := set.Get(path); before != nil {
		s.inform(before, "is set again, and that counts")
		set.Put(tree.NewKey(path), nil)
	}
}

// flat calls each for the single values below n, with their paths as helm --set writes them.
func (s *translator) flat(n *tree.Node, each func(path string, at *tree.Node)) {
	if n == nil || n.IsNull() || !s.isMapping(n) {
		return
	}
	var below func(n *tree.Node, path, dot string)
	below = func(n *tree.Node, path, dot string) {
		for _, e := range n.Entries {
			below(e.Value, path+dot+e.Key.Value, ".")
		}
		for i, item := range n.Items {
			below(item, fmt.Sprintf("%s[%d]", path, i), ".")
		}
		if n.IsScalar() {
			each(path, n)
		}
	}
	below(n, "", "")
}

// setText returns a single value as skaffold hands it to helm --set: 0x10 is 16, and 1.50 is 1.5.
func setText(n *tree.Node) string {
	var value any
	switch n.Tag {
	case "!!bool", "!!int", "!!float":
		if n.Decode(&value) == nil {
			return fmt.Sprint(value)
		}
	}
	return n.Value
}

// escapeTree returns n with every {{ meaning itself, and no, yes, on and the like being text, as in
// skaffold.yaml.
func escapeTree(n *tree.Node) *tree.Node {
	if n.IsScalar() && n.Tag == "!!str" {
		return scalar(n, escapeBraces(n.Value))
	}
	made := n.Clone()
	for i, e := range made.Entries {
		made.Entries[i] = tree.Entry{Key: scalar(e.Key, e.Key.Value), Value: escapeTree(e.Value)}
	}
	for i, item := range made.Items {
		made.Items[i] = escapeTree(item)
	}
	return made
}

// overrideArtifacts reads images by the path of their value.
func (s *translator) overrideArtifacts(set *tree.Node, v values) {
	isHelm, withRegistry := false, false
	if v.strategy != nil {
		s.section(v.strategy, keys{
			"fqn": func(n *tree.Node) { s.section(n, keys{"property": s.meaningless}) },
			"helm": func(n *tree.Node) {
				s.section(n, keys{"explicitRegistry": func(n *tree.Node) { withRegistry = s.truth(n) }})
			},
		})
		isHelm = v.strategy.Get("helm") != nil // even without a value
		if v.artifacts == nil && v.oldArtifacts == nil {
			s.inform(v.strategy, "there are no artifactOverrides that it would be for: ignored")
		}
	}
	for _, images := range []*tree.Node{v.oldArtifacts, v.artifacts} {
		s.flat(images, func(path string, at *tree.Node) {
			a := s.artifactOf(at)
			if a == nil {
				return
			}
			assign := func(path, function string) {
				s.replaced(set, path)
				put(set, path, scalar(at, s.templated(s.placeholder(function, a.image))))
			}
			switch {
			case withRegistry:
				assign(path+".registry", "registry")
				assign(path+".repository", "path")
				assign(path+".tag", "tag")
			case isHelm:
				assign(path+".repository", "repository")
				assign(path+".tag", "tag")
			default:
				assign(path, "image")
			}
		})
	}
}

// artifactOf returns the artifact that a value names, nil if it was reported.
func (s *translator) artifactOf(n *tree.Node) *artifact {
	var known []string
	for _, a := range s.artifacts {
		known = append(known, a.name)
	}
	i := slices.Index(known, n.Value)
	if i < 0 {
		s.Wrong(n, "no artifact is called %q%s", n.Value, tree.DidYouMean(n.Value, known))
		return nil
	}
	a := &s.artifacts[i]
	if a.image == "" {
		s.Wrong(n, "devloop does not build the image %q", a.name)
		return nil
	}
	return a
}

// setFiles reads files whose content is a value. For helm these come last.
func (s *translator) setFiles(setString, n *tree.Node) {
	if n == nil || n.IsNull() || !s.isMapping(n) {
		return
	}
	for _, e := range n.Entries {
		path := expandHome(s.text(e.Value))
		if path == "" {
			continue
		}
		if message := s.CheckFile(s.dir, path); message != "" {
			s.Wrong(e.Value, "%s", message)
			continue
		}
		full := tree.Abs(s.dir, path)
		text, err := files.Read(full, maxValue)
		switch {
		case errors.Is(err, files.ErrTooLarge):
			s.Wrong(e.Value, "%q has more than 1 MiB", path)
			continue
		case err != nil:
			s.Wrong(e.Value, "%q cannot be read: %v", path, err)
			continue
		case !utf8.Valid(text):
			s.Wrong(e.Value, "%q is no text", path)
			continue
		}
		s.files = append(s.files, full)
		put(setString, e.Key.Value, scalar(e.Value, escapeBraces(string(text))))
	}
}
