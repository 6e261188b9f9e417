package skaffold

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// sync reads which files of an artifact are written into containers that run.
func (s *translator) sync(n, image *tree.Node) {
	if !s.isMapping(n) {
		return
	}
	var rules []*tree.Node
	isNamed := false
	each := func(read func(item *tree.Node) []*tree.Node) func(*tree.Node) {
		return func(n *tree.Node) {
			for _, item := range s.items(n) {
				isNamed = true
				rules = append(rules, read(item)...)
			}
		}
	}
	var then *tree.Node
	s.section(n, keys{
		"manual": each(s.manualSync),
		"infer": each(func(item *tree.Node) (rules []*tree.Node) {
			for _, pattern := range s.patterns(item) {
				rules = append(rules, syncRule(item, pattern))
			}
			return rules
		}),
		"auto": func(n *tree.Node) {
			isNamed = true
			if s.truth(n) {
				s.inform(n, "all that the Dockerfile copies is synced")
				rules = append(rules, syncRule(n, scalar(n, ".")))
			}
		},
		"hooks": func(n *tree.Node) { then = s.afterSync(n) },
	})
	if !isNamed { // skaffold's default is **/*
		rules = append(rules, syncRule(n, scalar(n, ".")))
	}
	for _, rule := range rules {
		if then != nil {
			put(rule, "then", then)
		}
		add(image, "sync", rule)
	}
}

// syncRule makes a rule with the place of at.
func syncRule(at, from *tree.Node) *tree.Node {
	rule := at.As(yaml.MappingNode, at.Path)
	put(rule, "from", from)
	return rule
}

// manualSync reads a rule that says where files go: below dest, by their path in the context
// without the prefix strip.
func (s *translator) manualSync(n *tree.Node) (rules []*tree.Node) {
	if !s.isMapping(n) {
		return nil
	}
	var src, dest, strip *tree.Node
	s.section(n, keys{"src": into(&src), "dest": into(&dest), "strip": into(&strip)})
	if src == nil {
		s.Wrong(n, `"src" is missing`)
	}
	if dest == nil {
		s.Wrong(n, `"dest" is missing`)
	}
	if src == nil || dest == nil || s.text(dest) == "" {
		return nil
	}
	prefix := ""
	if strip != nil {
		if prefix = s.text(strip); !strings.HasPrefix(src.Value, prefix) {
			s.Wrong(strip, "%q does not begin with it", src.Value)
			return nil
		}
	}
	for _, from := range s.patterns(src) {
		to, why := destination(from.Value, dest.Value, prefix)
		if why != "" {
			s.note(n, "the image is built again instead: %s", why)
			continue
		}
		rule := syncRule(n, from)
		put(rule, "to", scalar(dest, to))
		rules = append(rules, rule)
	}
	return rules
}

// wildcard begins what a pattern leaves open.
const wildcard = `*?[\`

// destination returns where the folder of a pattern lies in the image, or why it has no such place.
func destination(pattern, dest, strip string) (to, why string) {
	parts := strings.Split(pattern, "/")
	open := slices.IndexFunc(parts, func(part string) bool { return strings.ContainsAny(part, wildcard) })
	if open < 0 {
		open = len(parts) - 1 // the file
	}
	folder := strings.Join(append(parts[:open:open], ""), "/")
	strip = strings.TrimPrefix(strip, "./")
	switch {
	case strings.ContainsAny(strip, wildcard+"{"): // no path begins so
		to = path.Join(dest, folder)
	case strings.HasPrefix(folder, strip):
		to = path.Join(dest, folder[len(strip):])
	case strip == pattern && path.Base(dest) == path.Base(pattern):
		to = path.Dir(dest)
	default:
		return "", fmt.Sprintf("without %q, the files have other names in the container", strip)
	}
	if to == ".." || strings.HasPrefix(to, "../") {
		return "", fmt.Sprintf("%q is not in the image's WORKDIR", dest)
	}
	return to, ""
}

// braces are alternatives without others in them.
var braces = regexp.MustCompile(`\{([^{}]*)\}`)

// patterns returns the patterns of devloop.yaml that a pattern of skaffold stands for.
func (s *translator) patterns(n *tree.Node) (list []*tree.Node) {
	const most, maxLength = 50, 4096
	text := s.text(n)
	switch {
	case text == "":
		return nil
	case len(text) > maxLength:
		s.note(n, "the image is built again instead: the pattern has more than %d bytes", maxLength)
		return nil
	}
	open := []string{text}
	for len(open) > 0 {
		pattern := open[0]
		open = open[1:]
		if at := braces.FindStringSubmatchIndex(pattern); at != nil {
			for alternative := range strings.SplitSeq(pattern[at[2]:at[3]], ",") {
				open = append(open, pattern[:at[0]]+alternative+pattern[at[1]:])
			}
			if len(open)+len(list) > most {
				s.note(n, "the image is built again instead: the pattern stands for more than %d others", most)
				return nil
			}
			continue
		}
		pattern = strings.ReplaceAll(path.Clean(pattern), "[!", "[^")
		_, err := path.Match(pattern, "")
		switch {
		case slices.ContainsFunc(list, func(other *tree.Node) bool { return other.Value == pattern }):
		case err != nil:
			s.note(n, "the image is built again instead: %q is no pattern", pattern)
		case path.IsAbs(pattern), strings.HasPrefix(pattern+"/", "../"), strings.HasPrefix(pattern, "!"):
			s.note(n, "the image is built again instead: %q matches nothing, since paths are relative to the context", pattern)
		default:
			list = append(list, scalar(n, pattern))
		}
	}
	return list
}

// afterSync reads the command that runs in containers that got files, nil if there is none.
func (s *translator) afterSync(n *tree.Node) (command *tree.Node) {
	s.section(n, keys{
		"before": s.lost("these commands are not run before files are synced"),
		"after": func(n *tree.Node) {
			for _, item := range s.items(n) {
				s.section(item, keys{
					"host": s.lost("this command is not run after files are synced"),
					"container": func(n *tree.Node) {
						if command != nil {
							s.note(n, "this command is not run: only one is run in a container; join them in one, by sh -c")
							return
						}
						command = s.containerCommand(n)
					},
				})
			}
		},
	})
	return command
}

// containerCommand reads a command to run in a container.
func (s *translator) containerCommand(n *tree.Node) *tree.Node {
	command := n.As(yaml.SequenceNode, n.Path)
	s.section(n, keys{"command": func(n *tree.Node) {
		command.Path = n.Path
		for _, item := range s.items(n) {
			command.Items = append(command.Items, scalar(item, s.text(item)))
		}
	}})
	if len(command.Items) == 0 {
		s.Wrong(n, `"command" is missing`)
		return nil
	}
	return command
}
