package skaffold

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/helmpath"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

// helm reads deploy.helm, or manifests.helm. skaffold calls helm with these commands for it.
func (s *translator) helm(n *tree.Node, commands ...string) {
	if !s.isMapping(n) {
		return
	}
	s.helmFlags = helmFlags{}
	if flags := n.Get("flags"); flags != nil {
		s.helmFlagsOf(flags, commands)
	}
	s.section(n, keys{
		"releases": func(n *tree.Node) {
			for _, item := range s.items(n) {
				s.release(item)
			}
		},
		"flags":       ignore,
		"hooks":       s.hooks,
		"concurrency": s.harmless("releases are applied side by side"),
	})
}

// gateway is a release of Dask Gateway.
type gateway struct {
	release, namespace string
	prefix             string // of the paths of its API
	isUnknown          bool   // what the prefix is
}

var daskGateway = regexp.MustCompile(`(^|/)dask-gateway(-v?[0-9][^/]*|\.tgz)?(:[^/]*)?/?$`)

// chartSource is what a release says about where its chart is.
type chartSource struct{ remoteChart, chartPath, repo, version *tree.Node }

// release reads one of releases.
func (s *translator) release(n *tree.Node) {
	if !s.isMapping(n) {
		return
	}
	release := n.As(yaml.MappingNode, n.Path)
	var name, namespace, waits, remote *tree.Node
	var source chartSource
	var v values
	s.section(n, keys{
		"name": into(&name), "namespace": into(&namespace),
		"remoteChart": into(&source.remoteChart), "chartPath": into(&source.chartPath), "remote": into(&remote),
		"repo": into(&source.repo), "version": into(&source.version),
		"valuesFiles": into(&v.files), "useHelmSecrets": into(&v.secrets), "overrides": into(&v.overrides),
		"setValues": into(&v.set), "setValueTemplates": into(&v.setTemplates), "setFiles": into(&v.setFiles),
		"artifactOverrides": into(&v.artifacts), "values": into(&v.oldArtifacts), "imageStrategy": into(&v.strategy),
		"createNamespace": func(n *tree.Node) {
			put(release, "createNamespace", typed(n, "!!bool", strconv.FormatBool(s.truth(n))))
		},
		"dependsOn": func(n *tree.Node) {
			for _, item := range s.items(n) {
				if name := s.filled(item); name != nil {
					add(release, "dependsOn", name)
				}
			}
		},
		"wait": func(n *tree.Node) {
			if s.truth(n) {
				waits = n
			}
		},
		"upgradeOnChange": s.noteIf(false, "the release is upgraded whenever its chart, values or images differ"),
		"skipBuildDependencies": s.noteIf(true,
			"what the chart depends on, and is not in its folder, is brought all the same"),
		"skipTests":    s.harmless("a chart's tests are never run"),
		"recreatePods": s.lost("pods are replaced where what they are made from changes, as Kubernetes does"),
		"packaged":     s.lost("the chart is deployed as it is, with its own version and appVersion"),
	})
	if name == nil {
		s.Wrong(n, `"name" is missing`)
		return
	}
	title := s.filled(name)
	if title == nil {
		return
	}
	put(release, "name", title)
	if remote != nil && s.truth(remote) && source.remoteChart == nil {
		source.remoteChart, source.chartPath = source.chartPath, nil
	}
	if !s.chart(n, release, source) {
		return
	}
	space := cmp.Or(s.namespaceFlag(n), s.helmFlags.namespace)
	switch {
	case space != nil: // over what the release says
		if namespace != nil && namespace.Value != space.Value {
			s.inform(namespace, "%s counts, by a flag of skaffold or helm", space.Value)
		}
	case namespace != nil:
		if space = s.filled(namespace); space == nil {
			return
		}
	default:
		space = scalar(n, "default")
		s.inform(n, "has no namespace: default is taken, whatever the kube context says")
	}
	put(release, "namespace", space)
	if s.helmFlags.createNamespace && release.Get("createNamespace") == nil {
		put(release, "createNamespace", typed(release, "!!bool", "true"))
	}
	if s.helmFlags.rollback {
		put(release, "onFailure", scalar(n, "rollback"))
	}
	s.values(release, v)
	if daskGateway.MatchString(release.Get("chart").Value) {
		g := gateway{release: title.Value, namespace: space.Value}
		g.prefix, g.isUnknown = s.gatewayPrefix(release)
		s.gateways = append(s.gateways, g)
		s.inform(n, "is Dask Gateway: it counts as up when its deployments are (health), and before it is removed, "+
			"the Dask clusters that users made are (cleanup.before)")
	}
	s.addRelease(release, waits)
}

// addRelease adds a release; waits is its wait: true, nil if it has none.
func (s *translator) addRelease(release, waits *tree.Node) {
	s.releases, s.waits = append(s.releases, release), append(s.waits, waits)
	s.names = append(s.names, release.Get("name").Value)
}

// gatewayPrefix returns what stands before the paths of a Dask Gateway's API, in the values of its
// release, or that it is not known.
func (s *translator) gatewayPrefix(release *tree.Node) (prefix string, isUnknown bool) {
	const path = "gateway.prefix"
	n := cmp.Or(release.Get("setString").Get(path), release.Get("set").Get(path),
		release.Get("inlineValues").Get("gateway").Get("prefix"))
	for _, file := range slices.Backward(release.Get("values").List()) {
		text, err := files.Read(tree.Abs(s.project, file.Value), maxValue)
		if n == nil && err == nil { // else the deployment says why it cannot be read
			root := (&tree.Report{}).Parse(&tree.Origin{Name: file.Value}, text)
			if n = root.Get("gateway").Get("prefix"); n != nil {
				n = escapeTree(n)
			}
		}
	}
	if n == nil || n.IsNull() {
		return "", false
	}
	const braces = `{{ "{{" }}` // mean themselves, all others a template
	if prefix = strings.Trim(strings.ReplaceAll(n.Value, braces, "{{"), "/"); prefix != "" {
		prefix = "/" + prefix
	}
	isTemplate := strings.Contains(strings.ReplaceAll(n.Value, braces, ""), "{{")
	return prefix, !n.IsScalar() || isTemplate || strings.ContainsFunc(prefix, unicode.IsSpace)
}

// chart finds out where the release's chart is. It returns false if that was reported.
func (s *translator) chart(n, release *tree.Node, source chartSource) bool {
	at := cmp.Or(source.remoteChart, source.chartPath)
	switch {
	case at == nil:
		s.Wrong(n, `needs "chartPath" or "remoteChart"`)
		return false
	case source.remoteChart != nil && source.chartPath != nil:
		s.Wrong(source.chartPath, `has "chartPath" beside "remoteChart"`)
		return false
	}
	chart := s.filled(at)
	if chart == nil {
		return false
	}
	isLocal := exists(tree.Abs(s.dir, expandHome(chart.Value)))
	hasVersions := false
	switch {
	case source.repo != nil && !(isLocal && source.chartPath != nil):
		repo := s.filled(source.repo)
		if repo == nil {
			return false
		}
		put(release, "repo", repo)
		hasVersions = true
	case isURL(chart.Value):
		hasVersions = strings.HasPrefix(chart.Value, "oci://")
	case source.remoteChart == nil || isLocal:
		chart.Value = s.path(expandHome(chart.Value))
		if source.repo != nil {
			s.note(source.repo, "the chart is in a folder of this machine: no repository is asked")
		}
	default:
		alias, name, _ := strings.Cut(chart.Value, "/")
		repo, message := s.repository(alias)
		if name == "" || strings.Contains(name, "/") {
			message = fmt.Sprintf("%q is neither a URL nor a chart in a repository: say which one by repo", chart.Value)
		}
		if message != "" {
			s.Wrong(at, "%s", message)
			return false
		}
		chart.Value = name
		put(release, "repo", scalar(at, repo))
		hasVersions = true
	}
	put(release, "chart", chart)
	version := s.helmFlags.version
	if source.version != nil {
		if version = s.filled(source.version); version == nil {
			return false
		}
	}
	switch {
	case version == nil:
	case hasVersions:
		put(release, "version", version)
	default:
		s.note(cmp.Or(source.version, version),
			"the chart has the version that it has: a version only chooses one of a repository's")
	}
	return true
}

func isURL(chart string) bool { return strings.Contains(chart, "://") }

// path returns a path of this file as devloop.yaml has it, relative to the project's folder.
func (s *translator) path(text string) string {
	if s.dir == s.project || text == "" || filepath.IsAbs(text) || expandHome(text) != text {
		return text
	}
	full := filepath.Join(s.dir, text)
	if relative, err := filepath.Rel(s.project, full); err == nil {
		return relative
	}
	return full
}

// expandHome replaces a leading ~ by the user's home.
func expandHome(path string) string {
	rest, isHome := strings.CutPrefix(path, "~")
	home, err := os.UserHomeDir()
	if !isHome || err != nil || rest != "" && rest[0] != '/' {
		return path
	}
	return filepath.Join(home, rest)
}

// repository returns the URL of a chart repository that helm repo add made known, or why there is
// none.
func (s *translator) repository(alias string) (url, message string) {
	path := cmp.Or(os.Getenv("HELM_REPOSITORY_CONFIG"), helmpath.ConfigPath("repositories.yaml"))
	var list struct {
		Repositories []struct{ Name, URL, Username string }
	}
	text, err := files.Read(path, maxConfig)
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
			return "", fmt.Sprintf("helm has a user name for the repository %q, which devloop cannot use: "+
				"download the chart, and name the archive by chartPath", alias)
		default:
			return repo.URL, ""
		}
	}
	return "", fmt.Sprintf("helm knows no chart repository %q (looked in %s)%s: call helm repo add, "+
		"or say where it is by repo", alias, path, tree.DidYouMean(alias, known))
}

// finishReleases puts the releases into made, with what depends on all of them.
func (s *translator) finishReleases(made *tree.Node) {
	hasOrder := func() bool {
		return slices.ContainsFunc(s.releases, func(r *tree.Node) bool { return r.Get("dependsOn") != nil })
	}
	ordered := hasOrder() // else wait: true makes an order
	for i, release := range s.releases {
		for before, waits := range slices.Backward(s.waits[:i]) {
			if waits != nil && !ordered { // that one waits for those before it
				add(release, "dependsOn", scalar(waits, s.releases[before].Get("name").Value))
				break
			}
		}
		add(made, "releases", release)
	}
	if len(s.releases) > 1 && !hasOrder() {
		s.inform(s.releases[1], "releases are applied side by side, not one after the other: "+
			"dependsOn, or wait: true of the one before, keeps an order")
	}
	s.finishHooks(made)
	if timeout := s.helmFlags.timeout; timeout != nil && made.Get("timeouts") == nil {
		put(child(made, "timeouts", timeout), "rollout", timeout)
	}
	for i, g := range s.gateways {
		isIt := func(r *tree.Node) bool { return r.Get("name").Value == g.release }
		release := s.releases[slices.IndexFunc(s.releases, isIt)]
		health := release.As(yaml.MappingNode, release.Path)
		put(health, "deployment", scalar(release, "app.kubernetes.io/name=dask-gateway"))
		put(health, "namespace", scalar(release, g.namespace))
		add(made, "health", health)
		if i == 0 {
			add(child(made, "cleanup", release), "before", scalar(release, "daskclusters.gateway.dask.org"))
		}
	}
}
