package skaffold

import (
	"maps"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/config/tree"
)

// flag is one flag of a program that skaffold calls and devloop does not.
type flag struct {
	at    *tree.Node // where its value stands, or else the flag
	name  string     // --set
	value string
}

// flags are what reads the flags of a program, by their names. A name that ends in = takes a value.
type flags map[string]func(f flag)

// read reads a list of flags. One that is not known, and has a value, is refused: nobody can tell
// what is lost with it.
func (s *translator) read(program string, n *tree.Node, known flags) {
	list := s.items(n)
	for i := 0; i < len(list); i++ {
		f := flag{at: list[i]}
		text := s.text(f.at)
		if text == "" {
			continue
		}
		if len(text) > 2 && text[0] == '-' && text[1] != '-' && text[2] != '=' { // -nweb
			text = text[:2] + "=" + text[2:]
		}
		var hasValue bool
		f.name, f.value, hasValue = strings.Cut(text, "=")
		read, takesValue := known[f.name+"="]
		if !takesValue {
			read = known[f.name]
		}
		if next := i + 1; !hasValue && next < len(list) &&
			(takesValue || read == nil && !strings.HasPrefix(list[next].Value, "-")) {
			f.at, hasValue = list[next], true
			f.value = f.at.Value
			i = next
		}
		switch {
		case takesValue && !hasValue:
			s.Wrong(f.at, "%s has no value", f.name)
		case read != nil:
			read(f)
		case hasValue:
			s.Wrong(f.at, "%s is not called, and devloop has nothing for its flag %s%s: what it says would be lost",
				program, f.name, tree.DidYouMean(f.name, slices.Sorted(maps.Keys(known))))
		default:
			s.note(f.at, "%s is not called: without %s", program, f.name)
		}
	}
}

// say notes what is lost without a flag.
func (s *translator) say(text string) func(flag) {
	return func(f flag) { s.note(f.at, "%s: %s", f.name, text) }
}

// needless is for flags without which nothing is lost.
func (s *translator) needless(f flag) { s.inform(f.at, "%s is not needed", f.name) }

// instead refuses a flag, and says where skaffold.yaml can say the same.
func (s *translator) instead(key string) func(flag) {
	return func(f flag) { s.Wrong(f.at, "devloop does not read %s: write it as %s", f.name, key) }
}

// with adds more flags.
func (known flags) with(read func(flag), names string) flags {
	for _, name := range strings.Fields(names) {
		known[name] = read
	}
	return known
}

// collect adds a flag to a list, but not again what both install and upgrade say.
func collect(list *[]flag) func(flag) {
	return func(f flag) {
		if !slices.ContainsFunc(*list, func(other flag) bool { return other.value == f.value }) {
			*list = append(*list, f)
		}
	}
}

// helmFlags are what flags of helm say for all releases.
type helmFlags struct {
	values, set, setString      []flag
	namespace, version, timeout *tree.Node
	createNamespace, rollback   bool
}

// helmFlagsOf reads the flags of a Helm section. Those of these commands are used.
func (s *translator) helmFlagsOf(n *tree.Node, commands []string) {
	into := func(value **tree.Node) func(flag) {
		return func(f flag) { *value = scalar(f.at, f.value) }
	}
	h := &s.helmFlags
	known := flags{
		"--create-namespace":           func(f flag) { h.createNamespace = f.value != "false" },
		"--atomic":                     func(flag) { h.rollback = true },
		"--rollback-on-failure":        func(flag) { h.rollback = true },
		"--skip-crds":                  s.say("CRDs of charts are applied all the same"),
		"--no-hooks":                   s.say("hooks of charts run all the same"),
		"--force":                      s.say("devloop itself finds out what has to be created again"),
		"--reuse-values":               s.say("values are those of this file and of the chart, whatever was deployed before"),
		"--disable-openapi-validation": s.say("the API server checks what is deployed all the same"),
		"--set-file=":                  s.instead("setFiles"),
		"--set-json=":                  s.instead("overrides"),
		"--set-literal=":               s.instead("overrides"),
		"--repo=":                      s.instead("repo of the release"),
		"--kube-context=":              s.instead("deploy.kubeContext"),
		"--kubeconfig=":                s.instead("the variable KUBECONFIG of the environment"),
		"--post-renderer=":             s.instead("a chart that needs no change"),
	}
	known.with(collect(&h.values), "--values= -f=").with(collect(&h.set), "--set=").
		with(collect(&h.setString), "--set-string=").
		with(into(&h.namespace), "--namespace= -n=").
		with(into(&h.version), "--version=").with(into(&h.timeout), "--timeout=").
		with(s.needless, "--debug --wait --wait-for-jobs --install -i --cleanup-on-fail --dependency-update --hide-notes "+
			"--render-subchart-notes --reset-values --history-max= --description= --output= -o= --burst-limit= --qps=")
	unused := func(n *tree.Node) {
		s.inform(n, "skaffold does not use these flags for what this section deploys, and neither does devloop")
	}
	all := keys{"install": unused, "upgrade": unused, "template": unused,
		"depBuild": s.lost("helm is not called: what charts depend on is brought without these flags"),
	}
	for _, command := range append(commands, "global") {
		all[command] = func(n *tree.Node) { s.read("helm", n, known) }
	}
	s.section(n, all)
	if upgrade := n.Get("upgrade"); slices.Contains(commands, "upgrade") {
		install := n.Get("install")
		if (upgrade != nil || install != nil) && (upgrade == nil || install == nil || !tree.Equal(upgrade, install)) {
			s.note(n, "flags of install and of upgrade count each time that a release is applied")
		}
	}
}

// kubectlFlags reads deploy.kubectl.flags.
func (s *translator) kubectlFlags(n *tree.Node) {
	known := flags{
		"--server-side":     s.needless,
		"--force-conflicts": s.say("fields that others own are not taken from them; devloop names those owners"),
		"--force":           s.say("devloop itself finds out what has to be created again"),
		"--prune":           s.needless,
		"--context=":        s.instead("deploy.kubeContext"),
		"--kubeconfig=":     s.instead("the variable KUBECONFIG of the environment"),
		"--selector=":       s.instead("files that hold only what is to be deployed"),
		"-l=":               s.instead("files that hold only what is to be deployed"),
		"--validate":        s.say("the API server checks what is deployed all the same"),
	}
	known.with(func(f flag) { s.kubectlNamespace = scalar(f.at, f.value) }, "--namespace= -n=").
		with(s.needless, "--field-manager= --request-timeout= --timeout= --v= -v= --wait --overwrite --record --output= -o=")
	read := func(n *tree.Node) { s.read("kubectl", n, known) }
	s.section(n, keys{"global": read, "apply": read,
		"delete":            s.lost("kubectl is not called: objects are deleted without these flags"),
		"disableValidation": s.noteIf(true, "the API server checks what is deployed all the same"),
	})
}

// kustomizeArgs reads the flags of kustomize build.
func (s *translator) kustomizeArgs(n *tree.Node) {
	s.read("kustomize", n, flags{
		"--load-restrictor=": func(f flag) {
			if !strings.HasSuffix(f.value, "RootOnly") {
				s.note(f.at, "files outside of a kustomization's folder are not read: one that names some is an error")
			}
		},
		"--enable-helm":          s.say("charts are not rendered: a kustomization that names some is an error"),
		"--enable-alpha-plugins": s.say("plugins are not run: a kustomization that names some is an error"),
		"--enable-exec":          s.say("functions are not run: a kustomization that names some is an error"),
		"--reorder=":             s.needless,
	})
}

// dockerFlags reads the flags of docker build. skaffold fills in templates here.
func (s *translator) dockerFlags(n, image *tree.Node) {
	filled := func(put func(value *tree.Node)) func(flag) {
		return func(f flag) {
			if text, ok := s.plain(f.at, f.value); ok {
				put(scalar(f.at, text))
			}
		}
	}
	known := flags{
		"--build-arg=": filled(func(value *tree.Node) {
			name, text, _ := strings.Cut(value.Value, "=")
			put(child(image, "args", n), name, scalar(value, escapeBraces(text)))
		}),
		"--target=":   filled(func(value *tree.Node) { put(image, "target", value) }),
		"--platform=": filled(func(value *tree.Node) { put(image, "platform", value) }),
		"--ssh=":      filled(func(value *tree.Node) { add(image, "ssh", value) }),
		"--secret=":   s.instead("docker.secrets"),
		"--no-cache":  s.say("the builder's cache is used: what has not changed is not built again"),
		"--pull":      s.say("a base image that Docker holds is taken as it is; the key r asks registries for the others"),
		"--label=":    s.say("the image does not get this label"),
		"--network=":  s.say("builds have the builder's own network"),
		"--add-host=": s.say("builds do not know this name"),
	}
	known.with(s.say("the builder's own cache is used"), "--cache-from= --cache-to=").
		with(s.needless, "--progress= --quiet -q --rm --force-rm --load")
	s.read("docker", n, known)
}
