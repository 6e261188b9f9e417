package config

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

// releases checks the releases, which stand at items.
func (v validator) releases(items []*tree.Node) {
	var names []string
	first := map[string]*tree.Node{} // that has a name
	for i, release := range v.c.Releases {
		n := items[i].Get("name")
		switch other, taken := first[release.Name]; {
		case taken && release.Name != "":
			v.Taken(n, release.Name, other)
		default:
			first[release.Name] = n
		}
		names = append(names, release.Name)
		v.release(release, items[i])
	}
	dependsOn := make([][]string, len(names))
	for i := range v.c.Releases {
		v.dependencies(i, names, items)
		dependsOn[i] = v.c.Releases[i].DependsOn
	}
	cycles(names, dependsOn, func(i, j int, cycle string) {
		if dependsOn[i][j] != names[i] { // which is reported
			v.Wrong(items[i].Get("dependsOn").Items[j], "these releases wait for each other: %s", cycle)
		}
	})
}

func (v validator) release(release Release, n *tree.Node) {
	v.chart(release, n)
	v.manifests(release, n)
	for i, path := range release.Values {
		v.wrongIf(n.Get("values").Items[i], v.CheckFile(v.c.Dir, path))
	}
	for _, key := range n.Get("setString").Keys() {
		_, isText := release.SetString[key]
		if _, isSet := release.Set[key]; isSet && isText {
			v.Wrong(n.Get("setString").Get(key), "is in set, too")
		}
	}
	for _, key := range []string{"inlineValues", "set", "setString", "hooks"} {
		v.templates(n.Get(key))
	}
}

// chart checks where a release's chart comes from.
func (v validator) chart(release Release, n *tree.Node) {
	chart, repo := release.Chart, n.Get("repo")
	inRepo := repo != nil && !repo.IsNull() // though it may be wrong
	switch {
	case chart == "":
		return
	case inRepo && strings.Contains(chart, "/"):
		v.Wrong(n.Get("chart"), "%q must be the name of a chart in the repo, not a path or a URL", chart)
	case inRepo || isURL(chart):
	case !isFile(v.c.Abs(chart)): // it must be a folder
		if message := v.CheckFolder(v.c.Dir, chart); message != "" {
			v.Wrong(n.Get("chart"),
				"%s (a chart that is not on this machine starts with https:// or oci://, or has a repo)", message)
			break
		}
		v.wrongIf(n.Get("chart"), v.CheckFile(v.c.Dir, filepath.Join(chart, "Chart.yaml")))
		if release.SHA256 != "" {
			v.Wrong(n.Get("sha256"), "a checksum is for a chart's archive, but %s is a folder", chart)
		}
	}
	switch {
	case release.Version == "" || inRepo:
	case !isOCI(chart):
		v.Wrong(n.Get("version"), "a version is only for a chart from a repo or oci://")
	case tagColon(chart) < len(chart):
		v.Wrong(n.Get("version"), "the chart has a tag already, which is its version")
	}
}

// onlyForCharts are the keys of a release that say something about a chart.
var onlyForCharts = []string{"repo", "version", "sha256", "values", "inlineValues", "set", "setString", "secretValues"}

// manifests checks where the manifests come from of a release that has no chart.
func (v validator) manifests(release Release, n *tree.Node) {
	if key := n.Get("remoteBases"); key != nil && !key.IsNull() && release.Kustomize == "" {
		v.Wrong(key, `is for releases with "kustomize"`)
	}
	source := ""
	switch {
	case release.Chart != "": // that there are manifests, too, is reported
	case release.Kustomize != "":
		source = "a kustomization"
	case len(release.Manifests) > 0:
		source = "manifests"
	}
	for _, key := range onlyForCharts {
		if value := n.Get(key); source != "" && value != nil && !value.IsNull() {
			v.Wrong(value, "is for releases with a chart, but this one is made of %s", source)
		}
	}
	for i, pattern := range release.Manifests {
		if pattern != "" {
			v.wrongIf(n.Get("manifests").Items[i], v.pattern(pattern))
		}
	}
	if release.Kustomize != "" {
		v.wrongIf(n.Get("kustomize"), v.kustomization(release.Kustomize))
	}
}

// pattern returns what is wrong with a pattern of manifests. That one matches nothing is an error
// of a run, as other mistakes in manifests are.
func (v validator) pattern(pattern string) string {
	switch folder, glob := files.SplitGlob(v.c.Abs(pattern)); {
	case isURL(pattern):
		return fmt.Sprintf("%q is not on this machine; download it, or use a kustomization with remoteBases: true", pattern)
	case glob != "":
		for _, part := range strings.Split(glob, "/") {
			if _, err := path.Match(part, ""); err != nil {
				return fmt.Sprintf("%q is not a pattern: %v", part, err)
			}
		}
		if name, err := filepath.Rel(v.c.Dir, folder); err == nil {
			folder = name
		}
		return v.CheckFolder(v.c.Dir, folder)
	case isFolder(v.c.Abs(pattern)):
		return ""
	case strings.HasSuffix(pattern, "/"):
		return v.CheckFolder(v.c.Dir, pattern)
	}
	return v.CheckFile(v.c.Dir, pattern)
}

// kustomization returns what is wrong with the folder of a kustomization.
func (v validator) kustomization(folder string) string {
	if isURL(folder) {
		return fmt.Sprintf("%q is not on this machine; write a kustomization with it in its resources, and remoteBases: true",
			folder)
	}
	if message := v.CheckFolder(v.c.Dir, folder); message != "" {
		return message
	}
	for _, name := range []string{"kustomization.yml", "Kustomization"} {
		if isFile(v.c.Abs(filepath.Join(folder, name))) {
			return ""
		}
	}
	return v.CheckFile(v.c.Dir, filepath.Join(folder, "kustomization.yaml"))
}

// dependencies checks what a release depends on.
func (v validator) dependencies(i int, names []string, items []*tree.Node) {
	dependsOn := v.c.Releases[i].DependsOn
	for j, name := range dependsOn {
		n := items[i].Get("dependsOn").Items[j]
		switch {
		case name == "":
		case slices.Contains(dependsOn[:j], name):
			v.Wrong(n, "%q is here twice", name)
		case name == names[i]:
			v.Wrong(n, "a release cannot depend on itself")
		case !slices.Contains(names, name):
			v.Wrong(n, "no release is called %q%s", name, tree.DidYouMean(name, names))
		}
	}
}

// cycles finds names that depend on themselves. It calls report with the indexes of a name and of
// the dependency that closes a cycle.
func cycles(names []string, dependencies [][]string, report func(i, j int, cycle string)) {
	var path []int // of dependencies, from a name on
	done := make([]bool, len(names))
	var follow func(i int)
	follow = func(i int) {
		path = append(path, i)
		for j, name := range dependencies[i] {
			next := slices.Index(names, name)
			start := slices.Index(path, next)
			switch {
			case name == "" || next < 0:
			case start >= 0:
				var cycle strings.Builder
				for _, passed := range path[start:] {
					cycle.WriteString(names[passed] + " → ")
				}
				report(i, j, cycle.String()+name)
			case !done[next]:
				follow(next)
			}
		}
		path = path[:len(path)-1]
		done[i] = true
	}
	for i := range names {
		if !done[i] {
			follow(i)
		}
	}
}
