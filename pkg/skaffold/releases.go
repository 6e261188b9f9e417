package skaffold

// The Helm releases of a skaffold.yaml: where the chart is, which values it gets, what runs around it.

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/helmpath"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

// helm reads deploy.helm, or manifests.helm.
func (s *translator) helm(n *tree.Node) {
	flags := func(n *tree.Node) {
		others := slices.DeleteFunc(s.items(n), func(flag *tree.Node) bool { return flag.Value == "--create-namespace" })
		if len(others) < len(s.items(n)) {
			s.createNamespace = true
		}
		if len(others) > 0 {
			s.note(n, "helm is not called: without these flags")
		}
	}
	s.section(n, map[string]func(*tree.Node){
		"releases": func(n *tree.Node) {
			for _, item := range s.items(n) {
				s.release(item)
			}
		},
		"flags": func(n *tree.Node) {
			s.section(n, map[string]func(*tree.Node){"install": flags, "upgrade": flags}, map[string]string{"global": "helm is not called: without these flags"})
		},
		"hooks": func(n *tree.Node) {
			s.section(n, map[string]func(*tree.Node){
				"before": func(n *tree.Node) { s.before = append(s.before, s.hooks(n)...) },
				"after":  func(n *tree.Node) { s.after = append(s.after, s.hooks(n)...) },
			}, nil)
		},
	}, nil)
}

// hooks reads commands that run around all releases.
func (s *translator) hooks(n *tree.Node) (list []*tree.Node) {
	for _, item := range s.items(n) {
		s.section(item, map[string]func(*tree.Node){
			"host": func(n *tree.Node) {
				if hook := s.hook(n); hook != nil {
					list = append(list, hook)
				}
			},
		}, map[string]string{"container": "this command is not run: devloop runs commands on this machine alone"})
	}
	return list
}

// hook reads a command for this machine, nil if it is for another one.
func (s *translator) hook(n *tree.Node) *tree.Node {
	if !s.isMapping(n) {
		return nil
	}
	command := n.As(yaml.SequenceNode, n.Path)
	isMeant, dir := true, ""
	s.section(n, map[string]func(*tree.Node){
		"command": func(n *tree.Node) {
			command.Path = n.Path
			for _, item := range s.items(n) {
				if !item.IsScalar() {
					s.text(item) // which says what is wrong
					continue
				}
				command.Items = append(command.Items, scalar(item, escapedBraces(item.Value)))
			}
		},
		"os": func(n *tree.Node) {
			isMeant = slices.ContainsFunc(s.items(n), func(item *tree.Node) bool { return item.Value == runtime.GOOS }) || len(s.items(n)) == 0
		},
		"dir": func(n *tree.Node) { dir = s.text(n) },
	}, nil)
	if len(command.Items) == 0 {
		s.Wrong(n, `"command" is missing`)
		return nil
	}
	if !isMeant {
		s.inform(n, "the command is not for this system, %s: left out", runtime.GOOS)
		return nil
	}
	if dir != "" {
		in := []*tree.Node{scalar(n, "sh"), scalar(n, "-c"), scalar(n, `cd "$0" && exec "$@"`), scalar(n, escapedBraces(dir))}
		command.Items = append(in, command.Items...)
	}
	hook := n.As(yaml.MappingNode, n.Path)
	put(hook, "command", command)
	put(hook, "timeout", scalar(n, "1h")) // skaffold waits without an end
	return hook
}

// gateway is a release of Dask Gateway.
type gateway struct {
	release, namespace string
	prefix             string // before the paths of its API
	isUnknown          bool   // what that is
}

var daskGateway = regexp.MustCompile(`(^|/)dask-gateway(-v?[0-9][^/]*|\.tgz)?(:[^/]*)?/?$`)

// source is where a release's chart is said to be.
type source struct{ remoteChart, chartPath, repo, version *tree.Node }

// release reads one of releases.
func (s *translator) release(n *tree.Node) {
	if !s.isMapping(n) {
		return
	}
	release := n.As(yaml.MappingNode, n.Path)
	var name, namespace, overrides, strategy, waits, secrets, isRemote *tree.Node
	var from source
	var values []*tree.Node
	given := map[string]*tree.Node{}
	keep := func(key string) func(*tree.Node) { return func(n *tree.Node) { given[key] = n } }
	take := func(into **tree.Node) func(*tree.Node) { return func(n *tree.Node) { *into = n } }
	s.section(n, map[string]func(*tree.Node){
		"name": take(&name), "namespace": take(&namespace),
		"remoteChart": take(&from.remoteChart), "chartPath": take(&from.chartPath), "repo": take(&from.repo), "version": take(&from.version),
		"remote":      take(&isRemote),
		"valuesFiles": func(n *tree.Node) { values = s.items(n) },
		"overrides":   take(&overrides),
		"setValues":   keep("setValues"), "setValueTemplates": keep("setValueTemplates"), "setFiles": keep("setFiles"),
		"artifactOverrides": keep("artifactOverrides"), "values": keep("values"),
		"imageStrategy": take(&strategy),
		"createNamespace": func(n *tree.Node) {
			put(release, "createNamespace", typed(n, "!!bool", strconv.FormatBool(s.truth(n))))
		},
		"dependsOn": func(n *tree.Node) {
			for _, item := range s.items(n) {
				if text, ok := s.plain(item, s.text(item)); ok && text != "" {
					add(release, "dependsOn", scalar(item, text))
				}
			}
		},
		"wait": func(n *tree.Node) {
			if s.truth(n) {
				waits = n
			}
		},
		"upgradeOnChange": func(n *tree.Node) {
			if !s.truth(n) {
				s.note(n, "the release is upgraded whenever its chart, values or images differ")
			}
		},
		"skipBuildDependencies": func(n *tree.Node) {
			if s.truth(n) {
				s.note(n, "what the chart depends on, and is not in its folder, is brought all the same")
			}
		},
		"useHelmSecrets": take(&secrets),
		"skipTests":      s.harmless("a chart's tests are never run"),
	}, map[string]string{
		"recreatePods": "pods are replaced where what they are made from changes, as Kubernetes does",
		"packaged":     "the chart is deployed as it is, with its own version and appVersion",
	})
	title := s.named(n, "name", name)
	if title == nil {
		return
	}
	put(release, "name", title)
	if isRemote != nil && s.truth(isRemote) && from.remoteChart == nil {
		from.remoteChart, from.chartPath = from.chartPath, nil
	}
	if !s.chartOf(n, release, from) {
		return
	}
	space := scalar(n, "default")
	if namespace == nil {
		s.inform(n, "has no namespace: default is taken, whatever the kube context says")
	} else if space = s.named(n, "namespace", namespace); space == nil {
		return
	}
	put(release, "namespace", space)
	s.valuesFiles(release, values, secrets != nil && s.truth(secrets), secrets)
	s.names = map[string]bool{}
	s.values(release, overrides, given, strategy)
	all := s.literals(n, release)
	s.inTemplates(cmp.Or(from.chartPath, from.remoteChart), release)
	s.namedIn[release] = s.names
	if daskGateway.MatchString(release.Get("chart").Value) {
		g := gateway{release: title.Value, namespace: space.Value}
		g.prefix, g.isUnknown = prefixOf(all)
		s.gateways = append(s.gateways, g)
		s.inform(n, "is Dask Gateway: it counts as up when its deployments are (health), and before it is removed, the Dask clusters that users made are (cleanup.before)")
	}
	s.releases = append(s.releases, release)
	s.waiting = append(s.waiting, waits)
}

// named reads a name that may be a template; nil if it was reported.
func (s *translator) named(n *tree.Node, key string, value *tree.Node) *tree.Node {
	if value == nil {
		s.Wrong(n, "%q is missing", key)
		return nil
	}
	text := s.text(value)
	if text == "" {
		return nil
	}
	filled, ok := s.plain(value, text)
	if ok && filled == "" {
		s.Wrong(value, "must not be empty")
	}
	if !ok || filled == "" {
		return nil
	}
	return scalar(value, filled)
}

// chartOf says where the release's chart is. It tells whether that is known.
func (s *translator) chartOf(n, release *tree.Node, from source) bool {
	at := cmp.Or(from.remoteChart, from.chartPath)
	switch {
	case at == nil:
		s.Wrong(n, `needs "chartPath" or "remoteChart"`)
		return false
	case from.remoteChart != nil && from.chartPath != nil:
		s.Wrong(from.chartPath, `has "chartPath" beside "remoteChart"`)
		return false
	}
	chart := s.named(n, "chart", at)
	if chart == nil {
		return false
	}
	isHere := isThere(tree.Abs(s.dir, inHome(chart.Value)))
	versioned := false
	switch {
	case from.repo != nil && !(isHere && from.chartPath != nil):
		repo := s.named(n, "repo", from.repo)
		if repo == nil {
			return false
		}
		put(release, "repo", repo)
		versioned = true
	case strings.Contains(chart.Value, "://"):
		versioned = strings.HasPrefix(chart.Value, "oci://")
	case from.remoteChart == nil || isHere:
		chart.Value = inHome(chart.Value)
		if from.repo != nil {
			s.note(from.repo, "the chart is in a folder of this machine: no repository is asked")
		}
	default:
		alias, inRepo, _ := strings.Cut(chart.Value, "/")
		repo, message := s.repository(alias)
		if inRepo == "" || strings.Contains(inRepo, "/") {
			message = fmt.Sprintf("%q is neither a URL nor a chart in a repository: say which one by repo", chart.Value)
		}
		if message != "" {
			s.Wrong(at, "%s", message)
			return false
		}
		chart.Value = inRepo
		put(release, "repo", scalar(at, repo))
		versioned = true
	}
	put(release, "chart", chart)
	if from.version == nil {
		return true
	}
	version := s.named(n, "version", from.version)
	switch {
	case version == nil:
		return false
	case !versioned:
		s.note(from.version, "the chart has the version that it has: a version only chooses one of a repository's")
	default:
		put(release, "version", version)
	}
	return true
}

// inHome is a path whose ~ is the user's home.
func inHome(path string) string {
	rest, isHome := strings.CutPrefix(path, "~")
	home, err := os.UserHomeDir()
	if !isHome || err != nil || rest != "" && rest[0] != '/' {
		return path
	}
	return filepath.Join(home, rest)
}

// repository returns the URL of a chart repository that was made known by helm repo add, or why there is none.
func (s *translator) repository(alias string) (url, message string) {
	path := cmp.Or(os.Getenv("HELM_REPOSITORY_CONFIG"), helmpath.ConfigPath("repositories.yaml"))
	var list struct {
		Repositories []struct{ Name, URL, Username string }
	}
	text, err := files.Read(path, maxValue)
	if err == nil {
		s.files = append(s.files, path)
		err = yaml.Unmarshal(text, &list)
	}
	if err != nil && !os.IsNotExist(err) {
		return "", fmt.Sprintf("the chart repositories that helm knows cannot be read: %v", err)
	}
	var known []string
	for _, repo := range list.Repositories {
		known = append(known, repo.Name)
		switch {
		case repo.Name != alias:
		case repo.Username != "":
			return "", fmt.Sprintf("helm has a user name for the repository %q, which devloop cannot use: download the chart, and name the archive by chartPath", alias)
		default:
			return repo.URL, ""
		}
	}
	return "", fmt.Sprintf("helm knows no chart repository %q (looked in %s)%s: call helm repo add, or say where it is by repo", alias, path, tree.DidYouMean(alias, known))
}

// isEncrypted finds what sops leaves in a file.
var isEncrypted = regexp.MustCompile(`(?m)^\s*"?sops"?\s*:`)

// valuesFiles reads the paths of those. With helm-secrets, none of them may be encrypted: what it holds would be deployed as it is.
func (s *translator) valuesFiles(release *tree.Node, list []*tree.Node, hasSecrets bool, secrets *tree.Node) {
	found := false
	for _, item := range list {
		path, ok := s.plain(item, s.text(item))
		if !ok || path == "" {
			continue
		}
		if strings.Contains(path, "://") {
			s.Wrong(item, "%q is not on this machine: download it", path)
			found = found || strings.HasPrefix(path, "secrets")
			continue
		}
		path = inHome(path)
		if hasSecrets {
			text, err := files.Read(tree.Abs(s.dir, path), maxValue)
			if err == nil && isEncrypted.Match(text) {
				s.Wrong(item, "%q is encrypted, and devloop does not use helm-secrets: what it holds would be deployed as it is; decrypt it", path)
				found = true
			}
		}
		add(release, "values", scalar(item, path))
	}
	if hasSecrets && !found {
		s.inform(secrets, "helm-secrets is not used; none of the values files is encrypted")
	}
}

// values reads all values but those in files: overrides, and what helm --set would get.
func (s *translator) values(release, overrides *tree.Node, given map[string]*tree.Node, strategy *tree.Node) {
	inline := overrides
	switch {
	case overrides == nil:
	case s.isMapping(overrides) && len(overrides.Entries) > 0:
		inline = escapedNode(overrides)
	default:
		inline = nil
	}
	set := release.As(yaml.MappingNode, release.Path)
	assign := func(at *tree.Node, path string, value []piece) {
		all, err := helmSet(path, value)
		if err != nil {
			s.Wrong(at, "%v", err)
		}
		for _, a := range all {
			switch {
			case a.path == "":
				s.Wrong(at, "has no key")
			case !a.isList:
				s.replaced(set, a.path)
				put(set, a.path, helmTyped(at, a.value))
			default:
				s.replaced(set, a.path)
				if nested := s.nested(at, a); nested != nil {
					inline = tree.Merge(inline, nested, nil)
				}
			}
		}
	}
	for _, name := range []string{"setValues", "setValueTemplates"} {
		s.flat(given[name], func(path string, at *tree.Node) {
			filled, ok := s.plain(at, path)
			if !ok {
				return
			}
			if at.IsNull() {
				s.inform(at, "is empty: what the chart sets here is removed")
				s.replaced(set, filled)
				put(set, filled, typed(at, "!!null", "null"))
				return
			}
			if pieces, ok := s.expand(at, flatText(at)); ok {
				assign(at, filled, pieces)
			}
		})
	}
	s.overrideArtifacts(set, given, strategy)
	s.setFiles(release, set, given["setFiles"])
	if len(set.Entries) > 0 {
		put(release, "set", set)
	}
	if inline != nil {
		put(release, "inlineValues", inline)
	}
}

// replaced removes a value for which a later one comes.
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
		switch {
		case n.IsMapping():
			for _, e := range n.Entries {
				below(e.Value, path+dot+e.Key.Value, ".")
			}
		case n.IsList():
			for i, item := range n.Items {
				below(item, fmt.Sprintf("%s[%d]", path, i), ".")
			}
		default:
			each(path, n)
		}
	}
	below(n, "", "")
}

// flatText is a single value as skaffold hands it to helm --set: 0x10 is 16, and 1.50 is 1.5.
func flatText(n *tree.Node) string {
	var value any
	switch n.Tag {
	case "!!bool", "!!int", "!!float":
		if n.Decode(&value) == nil {
			return fmt.Sprint(value)
		}
	}
	return n.Value
}

// nested is a list at a path of helm --set, as inline values have it.
func (s *translator) nested(at *tree.Node, a assigned) *tree.Node {
	list := at.As(yaml.SequenceNode, at.Path)
	for _, item := range a.list {
		list.Items = append(list.Items, helmTyped(at, item))
	}
	if !setPath.MatchString(a.path) {
		s.Wrong(at, "a list at %s cannot be said in devloop.yaml: write it to overrides", a.path)
		return nil
	}
	made := list
	for _, step := range slices.Backward(steps(a.path)) {
		above := at.As(yaml.MappingNode, at.Path)
		put(above, step, made)
		made = above
	}
	return made
}

// escapedNode is a value in which {{ means itself, as it did in skaffold.yaml.
func escapedNode(n *tree.Node) *tree.Node {
	if n.IsScalar() && n.Tag == "!!str" && strings.Contains(n.Value, "{{") {
		return scalar(n, escapedBraces(n.Value))
	}
	made := n.Clone()
	for i, e := range made.Entries {
		made.Entries[i].Value = escapedNode(e.Value)
	}
	for i, item := range made.Items {
		made.Items[i] = escapedNode(item)
	}
	return made
}

// overrideArtifacts reads artifactOverrides, which were called values before: images by the path of their value.
func (s *translator) overrideArtifacts(set *tree.Node, given map[string]*tree.Node, strategy *tree.Node) {
	isHelm, withRegistry := false, false
	if strategy != nil {
		s.section(strategy, map[string]func(*tree.Node){
			"fqn": func(n *tree.Node) { s.section(n, map[string]func(*tree.Node){"property": s.ignored}, nil) },
			"helm": func(n *tree.Node) {
				isHelm = true
				s.section(n, map[string]func(*tree.Node){"explicitRegistry": func(n *tree.Node) { withRegistry = s.truth(n) }}, nil)
			},
		}, nil)
		isHelm = isHelm || strategy.Get("helm") != nil // helm: alone
		if given["artifactOverrides"] == nil && given["values"] == nil {
			s.inform(strategy, "there are no artifactOverrides that it would be for: ignored")
		}
	}
	for _, name := range []string{"values", "artifactOverrides"} {
		s.flat(given[name], func(path string, at *tree.Node) {
			i := slices.IndexFunc(s.artifacts, func(a artifact) bool { return a.name == at.Value })
			if i < 0 {
				var known []string
				for _, a := range s.artifacts {
					known = append(known, a.name)
				}
				s.Wrong(at, "no artifact is called %q%s", at.Value, tree.DidYouMean(at.Value, known))
				return
			}
			of := &s.artifacts[i]
			if of.image == "" {
				s.Wrong(at, "image %q is built by %s, which devloop does not do: what is deployed would lack it", of.name, of.builder)
				return
			}
			s.names[of.name] = true
			say := func(path, function string) {
				s.replaced(set, path)
				put(set, path, scalar(at, templated([]piece{{function: function, image: of.image}})))
			}
			switch {
			case withRegistry:
				say(path+".registry", "registry")
				say(path+".repository", "path")
				say(path+".tag", "tag")
			case isHelm:
				say(path+".repository", "repository")
				say(path+".tag", "tag")
			default:
				say(path, "image")
			}
		})
	}
}

// maxValue is how much a file may hold that becomes a value, in bytes: more than Kubernetes takes in one object.
const maxValue = 1 << 20

// setFiles reads files whose content is a value. For helm these come last.
func (s *translator) setFiles(release, set, n *tree.Node) {
	if n == nil || n.IsNull() || !s.isMapping(n) {
		return
	}
	content := n.As(yaml.MappingNode, n.Path)
	for _, e := range n.Entries {
		path := s.text(e.Value)
		if path == "" {
			continue
		}
		path = inHome(path)
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
		s.replaced(set, e.Key.Value)
		put(content, e.Key.Value, scalar(e.Value, escapedBraces(string(text))))
	}
	if len(content.Entries) > 0 {
		put(release, "setString", content)
	}
}

// finish puts the releases into made, with what concerns more than one of them.
func (s *translator) finish(made *tree.Node) {
	ordered := slices.ContainsFunc(s.releases, func(r *tree.Node) bool { return r.Get("dependsOn") != nil })
	for i, release := range s.releases {
		if s.createNamespace && release.Get("createNamespace") == nil {
			put(release, "createNamespace", typed(release, "!!bool", "true"))
		}
		for before, waits := range slices.Backward(s.waiting[:i]) {
			if waits != nil && !ordered { // that one waits for those before it itself
				add(release, "dependsOn", scalar(waits, s.releases[before].Get("name").Value))
				break
			}
		}
		add(made, "releases", release)
	}
	if len(s.releases) > 1 && !slices.ContainsFunc(s.releases, func(r *tree.Node) bool { return r.Get("dependsOn") != nil }) {
		s.inform(s.releases[1], "releases are applied side by side, not one after the other: dependsOn, or wait: true of the one before, keeps an order")
	}
	s.around("before", s.before)
	s.around("after", s.after)
	for i, g := range s.gateways {
		release := s.releases[slices.IndexFunc(s.releases, func(r *tree.Node) bool { return r.Get("name").Value == g.release })]
		health := release.As(yaml.MappingNode, release.Path)
		put(health, "deployment", scalar(release, "app.kubernetes.io/name=dask-gateway"))
		put(health, "namespace", scalar(release, g.namespace))
		add(made, "health", health)
		if i == 0 {
			cleanup := release.As(yaml.MappingNode, release.Path)
			add(cleanup, "before", scalar(release, "daskclusters.gateway.dask.org"))
			put(made, "cleanup", cleanup)
		}
	}
}

// around puts commands that skaffold runs around all releases to the first or the last one.
func (s *translator) around(when string, commands []*tree.Node) {
	switch {
	case len(commands) == 0:
		return
	case len(s.releases) == 0:
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
	without := "none of skaffold's"
	if len(s.variables) > 0 {
		without += " or of skaffold.env"
	}
	s.note(commands[0], "the command runs %s the release %s, and only if something of that one differs; it has the variables DEVLOOP_RELEASE, DEVLOOP_NAMESPACE and KUBECONFIG, and %s",
		when, release.Get("name").Value, without)
}

var (
	setPath     = regexp.MustCompile(`^(\\.|[^.\\[])+(\.(\\.|[^.\\[])+)*$`) // of a value that stands in no list
	step        = regexp.MustCompile(`(\\.|[^.[\]])+`)
	escapedSign = regexp.MustCompile(`\\(.)`)
)

// steps are the keys and indices that a path of set leads by: a dot within a key is written \.
func steps(path string) []string {
	list := step.FindAllString(path, -1)
	for i, s := range list {
		list[i] = escapedSign.ReplaceAllString(s, "$1")
	}
	return list
}
