package skaffold

import (
	"runtime"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// hooks reads commands around all releases.
func (s *translator) hooks(n *tree.Node) (list []*tree.Node) {
	for _, item := range s.items(n) {
		s.section(item, keys{
			"host": func(n *tree.Node) {
				if hook := s.hook(n); hook != nil {
					list = append(list, hook)
				}
			},
			"container": s.lost("this command is not run: devloop runs commands on this machine alone"),
		})
	}
	return list
}

// hook reads one command, nil if it is wrong or for another system.
func (s *translator) hook(n *tree.Node) *tree.Node {
	if !s.isMapping(n) {
		return nil
	}
	command := n.As(yaml.SequenceNode, n.Path)
	var dir, systems *tree.Node
	s.section(n, keys{
		"command": func(n *tree.Node) {
			command.Path = n.Path
			for _, item := range s.items(n) {
				if !item.IsScalar() {
					s.text(item) // reports it
					continue
				}
				command.Items = append(command.Items, scalar(item, escapeBraces(item.Value)))
			}
		},
		"os":  into(&systems),
		"dir": into(&dir),
	})
	if len(command.Items) == 0 {
		s.Wrong(n, `"command" is missing`)
		return nil
	}
	if systems != nil {
		list := s.items(systems)
		isThis := func(item *tree.Node) bool { return item.Value == runtime.GOOS }
		if len(list) > 0 && !slices.ContainsFunc(list, isThis) {
			s.inform(n, "the command is not for this system, %s: left out", runtime.GOOS)
			return nil
		}
	}
	if dir != nil {
		command.Items = append([]*tree.Node{scalar(n, "sh"), scalar(n, "-c"), scalar(n, `cd "$0" && exec "$@"`),
			scalar(n, escapeBraces(s.text(dir)))}, command.Items...)
	}
	hook := n.As(yaml.MappingNode, n.Path)
	put(hook, "command", command)
	put(hook, "timeout", scalar(n, "1h")) // skaffold has no limit
	return hook
}

// around gives the commands around all releases to the first or the last one.
func (s *translator) around(when string, commands []*tree.Node) {
	if len(commands) == 0 {
		return
	}
	if len(s.releases) == 0 {
		s.note(commands[0], "there is no release: the command is not run")
		return
	}
	release := s.releases[0]
	if when == "after" {
		release = s.releases[len(s.releases)-1]
	}
	hooks := release.Get("hooks")
	if hooks == nil {
		hooks = release.As(yaml.MappingNode, commands[0].Path)
		put(release, "hooks", hooks)
	}
	list := commands[0].As(yaml.SequenceNode, commands[0].Path)
	list.Items = commands
	put(hooks, when, list)
	variables := "none of skaffold's"
	if len(s.variables) > 0 {
		variables += " or of skaffold.env"
	}
	s.note(commands[0], "the command runs %s the release %s, and only if something of that one differs; "+
		"it has the variables DEVLOOP_RELEASE, DEVLOOP_NAMESPACE and KUBECONFIG, and %s",
		when, release.Get("name").Value, variables)
}
