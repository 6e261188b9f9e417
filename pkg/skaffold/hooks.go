package skaffold

import (
	"runtime"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// hooks reads the commands around a deployer.
func (s *translator) hooks(n *tree.Node) {
	read := func(when string) func(*tree.Node) {
		return func(n *tree.Node) {
			for _, item := range s.items(n) {
				s.section(item, keys{
					"host": func(n *tree.Node) {
						if hook := s.hook(n); hook != nil {
							if s.around == nil {
								s.around = hook.As(yaml.MappingNode, hook.Path)
							}
							add(s.around, when, hook)
						}
					},
					"container": s.lost("this command is not run: devloop runs commands on this machine alone"),
				})
			}
		}
	}
	s.section(n, keys{"before": read("before"), "after": read("after")})
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
			scalar(n, escapeBraces(s.path(s.text(dir))))}, command.Items...)
	}
	hook := n.As(yaml.MappingNode, n.Path)
	put(hook, "command", command)
	put(hook, "timeout", scalar(n, "1h")) // skaffold has no limit
	return hook
}

// finishHooks puts the commands around all releases into made.
func (s *translator) finishHooks(made *tree.Node) {
	if s.around == nil {
		return
	}
	put(made, "hooks", s.around)
	variables := "none of skaffold's"
	if len(s.variables) > 0 {
		variables += " or of skaffold.env"
	}
	s.note(s.around, "the commands run around all releases, and only if any of these differs; "+
		"they have the variable KUBECONFIG, and %s", variables)
}
