package skaffold

import (
	"cmp"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

// targets are the kinds that devloop forwards to, by their names for kubectl.
var targets = map[string]string{
	"service": "service", "services": "service", "svc": "service",
	"deployment": "deployment", "deployments": "deployment", "deploy": "deployment",
	"statefulset": "statefulset", "statefulsets": "statefulset", "sts": "statefulset",
	"pod": "pod", "pods": "pod", "po": "pod",
}

// forward reads one of portForward.
func (s *translator) forward(n, made *tree.Node) {
	if !s.isMapping(n) {
		return
	}
	forward := n.As(yaml.MappingNode, n.Path)
	var kind, name, namespace, port *tree.Node
	s.section(n, keys{
		"resourceType": into(&kind),
		"resourceName": into(&name),
		"namespace":    into(&namespace),
		"port":         into(&port),
		"address":      func(n *tree.Node) { put(forward, "bind", scalar(n, s.text(n))) },
		"localPort": func(n *tree.Node) {
			if n.Value != "0" {
				put(forward, "local", n)
			}
		},
	})
	switch {
	case kind == nil:
		s.Wrong(n, `"resourceType" is missing`)
		return
	case name == nil:
		s.Wrong(n, `"resourceName" is missing`)
		return
	case port == nil:
		s.Wrong(n, `"port" is missing`)
		return
	}
	target := targets[strings.ToLower(s.text(kind))]
	if target == "" {
		s.note(n, "the port is not forwarded: devloop forwards to a service, a deployment, a stateful set or a pod, "+
			"not to %q", kind.Value)
		return
	}
	if name = s.filled(name); name == nil {
		return
	}
	put(forward, target, name)
	put(forward, "port", port)
	if namespace != nil {
		if namespace = s.filled(namespace); namespace == nil {
			return
		}
		put(forward, "namespace", namespace)
	} else {
		namespace := cmp.Or(s.namespaceOf(target, name.Value), s.onlyNamespace())
		if namespace == "" {
			s.note(n, "has no namespace, and the releases have several: the port is not forwarded, as for skaffold")
			return
		}
		s.inform(n, "has no namespace: %s is taken", namespace)
		put(forward, "namespace", scalar(n, namespace))
	}
	s.localPort(n, forward)
	s.gatewayHealth(n, forward)
	add(made, "forwards", forward)
}

// localPort gives a forward its local port: by default the port that it leads to, and a free one if
// another forward has that.
func (s *translator) localPort(n, forward *tree.Node) {
	local := forward.Get("local")
	if local == nil {
		port := forward.Get("port")
		local = typed(port, "!!int", port.Value)
		if number, err := strconv.Atoi(port.Value); err != nil || number == 0 {
			local.Value = "0"
			s.inform(n, "has no localPort: a free port is taken, which the log names")
		}
	}
	isTaken := func(other *tree.Node) bool { return other.Value == local.Value && local.Value != "0" }
	if i := slices.IndexFunc(s.locals, isTaken); i >= 0 {
		s.note(n, "the local port %s is that of the forward at %s:%d: a free port is taken, which the log names",
			local.Value, s.locals[i].Origin.Name, s.locals[i].Line)
		local = typed(local, "!!int", "0")
	}
	s.locals = append(s.locals, local)
	put(forward, "local", local)
}

// gatewayHealth lets a forward to a Dask Gateway wait until that is healthy.
func (s *translator) gatewayHealth(n, forward *tree.Node) {
	service := forward.Get("service")
	for _, g := range s.gateways {
		switch {
		case service == nil || service.Value != "traefik-"+g.release || forward.Get("namespace").Value != g.namespace:
		case g.isUnknown:
			s.note(n, "leads to Dask Gateway, whose gateway.prefix is not known yet: "+
				"a ready pod counts, and not whether its health answers")
		default:
			health := g.prefix + "/api/health"
			put(forward, "ready", scalar(n, health))
			s.inform(n, "leads to Dask Gateway: the platform counts as up when %s answers here", health)
		}
	}
}

// onlyNamespace returns the namespace of the releases, "" if they have several.
func (s *translator) onlyNamespace() string {
	namespace := ""
	for _, r := range s.releases {
		other := r.Get("namespace").Value
		if namespace != "" && namespace != other {
			return ""
		}
		namespace = other
	}
	return cmp.Or(namespace, "default")
}

// namespaceOf returns the namespace that manifests or a kustomization give to an object, "" if they
// give it none.
func (s *translator) namespaceOf(kind, name string) string {
	documents := func(path string) []*tree.Node { // what is wrong with them is said when they are deployed
		return (&tree.Report{}).ParseFile(&tree.Origin{Name: path}, path)
	}
	value := func(n *tree.Node) string {
		if n == nil || !n.IsScalar() {
			return ""
		}
		return n.Value
	}
	for _, release := range s.releases {
		if folder := value(release.Get("kustomize")); folder != "" {
			for _, file := range []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} {
				for _, n := range documents(filepath.Join(tree.Abs(s.project, folder), file)) {
					if namespace := value(n.Get("namespace")); namespace != "" {
						return namespace
					}
				}
			}
		}
		for _, pattern := range release.Get("manifests").List() {
			paths, _ := files.Glob(tree.Abs(s.project, pattern.Value)) // a wrong one is reported elsewhere
			for _, path := range paths {
				for _, n := range documents(path) {
					metadata := n.Get("metadata")
					if strings.EqualFold(value(n.Get("kind")), kind) && value(metadata.Get("name")) == name {
						return value(metadata.Get("namespace"))
					}
				}
			}
		}
	}
	return ""
}
