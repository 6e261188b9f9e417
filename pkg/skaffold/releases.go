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

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/helmpath"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

// helm reads deploy.helm, or manifests.helm.
func (s *translator) helm(n *tree.Node) {
	const notCalled = "helm is not called: without these flags"
	flags := func(n *tree.Node) {
		hasOthers := false
		for _, flag := range s.items(n) {
			if flag.Value == "--create-namespace" {
				s.createNamespace = true
			} else {
				hasOthers = true
			}
		}
		if hasOthers {
			s.note(n, notCalled)
		}
	}
	s.section(n, keys{
		"releases": func(n *tree.Node) {
			for _, item := range s.items(n) {
				s.release(item)
			}
		},
		"flags": func(n *tree.Node) {
			s.section(n, keys{"install": flags, "upgrade": flags, "global": s.lost(notCalled)})
		},
		"hooks": func(n *tree.Node) {
			s.section(n, keys{
				"before": func(n *tree.Node) { s.before = append(s.before, s.hooks(n)...) },
				"after":  func(n *tree.Node) { s.after = append(s.after, s.hooks(n)...) },
			})
		},
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
		"upgradeOnChange": s.noteIf(false, "the release is upgraded whenever its chart, values or images differ"),
		"skipBuildDependencies": s.noteIf(true,
			"what the chart depends on, and is not in its folder, is brought all the same"),
		"skipTests":    s.harmless("a chart's tests are never run"),
		"recreatePods": s.lost("pods are replaced where what they are made from changes, as Kubernetes does"),
		"packaged":     s.lost("the chart is deployed as it is, with its own version and appVersion"),
	})
	title := s.required(n, "name", name)
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
	space := scalar(n, "default")
	if namespace == nil {
		s.inform(n, "has no namespace: default is taken, whatever the kube context says")
	} else if space = s.required(n, "namespace", namespace); space == nil {
		return
	}
	put(release, "namespace", space)
	s.names = map[string]bool{}
	s.values(release, v)
	all := s.literals(n, release)
	s.inTemplates(cmp.Or(source.chartPath, source.remoteChart), release)
	s.namedIn[release] = s.names
	if daskGateway.MatchString(release.Get("chart").Value) {
		g := gateway{release: title.Value, namespace: space.Value}
		g.prefix, g.isUnknown = gatewayPrefix(all)
		s.gateways = append(s.gateways, g)
		s.inform(n, "is Dask Gateway: it counts as up when its deployments are (health), and before it is removed, "+
			"the Dask clusters that users made are (cleanup.before)")
	}
	s.releases = append(s.releases, release)
	s.waits = append(s.waits, waits)
}

// required returns the value of a key, which may be a template; nil if it was reported.
func (s *translator) required(n *tree.Node, key string, value *tree.Node) *tree.Node {
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
	chart := s.required(n, "chart", at)
	if chart == nil {
		return false
	}
	isLocal := exists(tree.Abs(s.dir, expandHome(chart.Value)))
	hasVersions := false
	switch {
	case source.repo != nil && !(isLocal && source.chartPath != nil):
		repo := s.required(n, "repo", source.repo)
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
	if source.version == nil {
		return true
	}
	version := s.required(n, "version", source.version)
	switch {
	case version == nil:
		return false
	case !hasVersions:
		s.note(source.version, "the chart has the version that it has: a version only chooses one of a repository's")
	default:
		put(release, "version", version)
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
		if s.createNamespace && release.Get("createNamespace") == nil {
			put(release, "createNamespace", typed(release, "!!bool", "true"))
		}
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
	s.around("before", s.before)
	s.around("after", s.after)
	for i, g := range s.gateways {
		isIt := func(r *tree.Node) bool { return r.Get("name").Value == g.release }
		release := s.releases[slices.IndexFunc(s.releases, isIt)]
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
