package skaffold

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

// deployment is what a configuration says about what is deployed, and by what.
type deployment struct {
	isOneOfSeveral bool // configurations: then nothing is deployed by default

	rendered, installed *tree.Node   // manifests.helm and deploy.helm
	rawYAML, kustomize  []*tree.Node // paths
	kubectl             *tree.Node   // deploy.kubectl, or deploy.kustomize, which calls kubectl
	others              []string     // deployers that devloop does not have
	hasManifests        bool         // names manifests, though they may be on other machines, or packages of kpt

	kubectlNamespace *tree.Node // that a flag or defaultNamespace says
	helmFlags        helmFlags
	around           *tree.Node // the commands around all releases
}

// deploy reads the section deploy.
func (s *translator) deploy(n, made *tree.Node) {
	other := func(deployer, text string) func(*tree.Node) {
		return func(n *tree.Node) {
			s.others = append(s.others, deployer)
			s.note(n, "%s", text)
		}
	}
	s.section(n, keys{
		"helm":        into(&s.installed),
		"kubeContext": func(n *tree.Node) { put(made, "kubeContext", scalar(n, s.text(n))) },
		"kubectl":     s.byKubectl,
		"kustomize":   s.byKubectl,
		"kpt":         other("kpt", "kpt is not called: what it would apply is not deployed"),
		"docker":      other("docker", "these containers are not started: devloop deploys to a cluster"),
		"cloudrun":    other("cloudrun", "is not deployed: devloop does not deploy to Cloud Run"),
		"tofu":        other("tofu", "is not deployed: devloop does not call OpenTofu"),
		"logs":        s.harmless("logs of pods are shown in devloop's own way: --logs, or the key l"),
		"statusCheck": s.noteIf(false, "devloop waits for the pods of every release all the same"),
		"statusCheckDeadlineSeconds": func(n *tree.Node) {
			seconds, err := strconv.Atoi(n.Value)
			if err != nil || seconds < 0 {
				s.Wrong(n, "must be a number of seconds, but is %s", n.Describe())
			} else if seconds > 0 {
				put(child(made, "timeouts", n), "rollout", scalar(n, shortDuration(seconds)))
			}
		},
		"tolerateFailuresUntilDeadline": s.lost("the wait ends as soon as a failure is certain"),
	})
}

// manifests reads what skaffold renders since v3.
func (s *translator) manifests(n *tree.Node) {
	s.section(n, keys{
		"helm":            into(&s.rendered),
		"rawYaml":         s.rawManifests,
		"kustomize":       func(n *tree.Node) { s.kustomization(n, keys{}) },
		"remoteManifests": s.lost("these objects of a cluster are not read, and so not deployed"),
		"kpt": func(n *tree.Node) {
			s.hasManifests = true
			s.note(n, "kpt is not called: what these packages hold is not deployed")
		},
		"hooks":     s.lost("these commands are not run when manifests are rendered"),
		"transform": s.lost("manifests are deployed as they are, without these changes"),
		"validate":  s.lost("manifests are checked by the API server alone"),
		"output":    s.harmless("manifests are not written to a folder; devloop render prints them"),
	})
}

// byKubectl reads deploy.kubectl or deploy.kustomize, which up to v2 say what is rendered, too.
func (s *translator) byKubectl(n *tree.Node) {
	s.kubectl = cmp.Or(s.kubectl, n)
	known := keys{
		"manifests":       s.rawManifests,
		"remoteManifests": s.lost("these objects of a cluster are not read, and so not deployed"),
		"flags":           s.kubectlFlags,
		"hooks":           s.hooks,
		"defaultNamespace": func(n *tree.Node) {
			s.kubectlNamespace = cmp.Or(s.kubectlNamespace, s.filled(n))
		},
	}
	if strings.HasSuffix(n.Path, "kustomize") {
		s.kustomization(n, known)
	} else {
		s.section(n, known)
	}
}

// rawManifests reads paths and patterns of manifests. For skaffold, ** is one folder, as * is.
func (s *translator) rawManifests(n *tree.Node) {
	for _, path := range s.localPaths(n) {
		path.Value = strings.ReplaceAll(path.Value, "**", "*")
		full := tree.Abs(s.project, path.Value)
		if info, err := os.Stat(full); err == nil && info.IsDir() {
			s.note(path, "is a folder, which skaffold leaves out: the manifests in it are deployed")
		}
		found, err := files.Glob(full)
		if err == nil && len(found) == 0 && strings.ContainsAny(path.Value, "*?[") {
			s.files = append(s.files, full) // once there is one, all is read again
			s.note(path, "matches no file, and so nothing of it is deployed, as for skaffold")
			continue
		}
		s.rawYAML = append(s.rawYAML, path)
	}
}

// kustomization reads the folders of kustomizations, by default the current one, and these other
// keys.
func (s *translator) kustomization(n *tree.Node, known keys) {
	paths := n.As(yaml.ScalarNode, n.Path)
	paths.Value = "."
	known["path"], known["paths"], known["buildArgs"] = into(&paths), into(&paths), s.kustomizeArgs
	s.section(n, known)
	s.kustomize = append(s.kustomize, s.localPaths(paths)...)
}

// localPaths reads a list of paths, or a single one. Those to other machines are reported.
func (s *translator) localPaths(n *tree.Node) (list []*tree.Node) {
	items := []*tree.Node{n}
	if !n.IsScalar() {
		items = s.items(n)
	}
	s.hasManifests = s.hasManifests || len(items) > 0
	for _, item := range items {
		path := s.filled(item)
		switch {
		case path == nil:
		case isURL(path.Value):
			s.note(item, "is not on this machine, and so not deployed: download it")
		default:
			list = append(list, scalar(item, s.path(path.Value)))
		}
	}
	return list
}

// isByKubectl tells whether skaffold applies by kubectl what it renders.
func (s *translator) isByKubectl() bool {
	hasDeployer := s.installed != nil || len(s.others) > 0
	return s.kubectl != nil || !s.isOneOfSeveral &&
		(!hasDeployer || len(s.rawYAML) > 0 && !slices.Contains(s.others, "cloudrun"))
}

// notApplied reports manifests that skaffold renders, but does not deploy.
func (s *translator) notApplied(n *tree.Node) {
	s.note(n, "is not deployed: skaffold applies manifests only where deploy has kubectl: add kubectl: {} to it")
}

// helmReleases makes the releases of the Helm sections. Of two, that of manifests counts.
func (s *translator) helmReleases() {
	switch {
	case s.installed != nil:
		s.helm(cmp.Or(s.rendered, s.installed), "install", "upgrade")
		if s.rendered != nil {
			s.replacedHelm(s.rendered, s.installed)
		}
	case s.rendered != nil && s.isByKubectl():
		s.note(s.rendered, "skaffold renders these charts and applies that by kubectl; devloop installs them: "+
			"their hooks run as hooks, and what names no namespace is in that of its release")
		s.helm(s.rendered, "template")
	case s.rendered != nil:
		s.notApplied(s.rendered)
	}
}

// appliedReleases makes the releases of manifests and kustomizations.
func (s *translator) appliedReleases() {
	if s.isBase && !s.isOneOfSeveral && !s.hasManifests && s.rendered == nil && s.installed == nil &&
		!slices.Contains(s.others, "docker") && !slices.Contains(s.others, "cloudrun") {
		s.rawYAML = s.byDefault(cmp.Or(s.kubectl, s.root))
	}
	if !s.isByKubectl() {
		for _, path := range slices.Concat(s.rawYAML, s.kustomize) {
			s.notApplied(path)
		}
		return
	}
	name := tree.Label(cmp.Or(nameOf(s.root), filepath.Base(s.dir)), "app")
	if len(s.rawYAML) > 0 {
		release := s.appliedRelease(s.rawYAML[0], name, name+"-manifests")
		for _, path := range s.rawYAML {
			add(release, "manifests", path)
		}
	}
	for _, path := range s.kustomize {
		title := name + "-" + tree.Label(path.Value, "kustomize")
		if len(s.kustomize) == 1 {
			title = name
		}
		release := s.appliedRelease(path, title, name+"-kustomize")
		put(release, "kustomize", path)
		put(release, "remoteBases", typed(path, "!!bool", "true"))
	}
}

// byDefault are the manifests that skaffold deploys where nothing else is named.
func (s *translator) byDefault(n *tree.Node) []*tree.Node {
	const pattern = "k8s/*.yaml"
	found, err := files.Glob(tree.Abs(s.dir, pattern))
	if err == nil && len(found) > 0 {
		s.inform(n, "names nothing to deploy: %s is deployed, as skaffold does", pattern)
		return []*tree.Node{scalar(n, s.path(pattern))}
	}
	s.files = append(s.files, tree.Abs(s.dir, filepath.Dir(pattern))) // once it is there, all is read again
	s.note(n, "names nothing to deploy, and there is no %s, which skaffold deploys then", pattern)
	return nil
}

// appliedRelease makes a release of what kubectl would apply. It gets the first name that is free.
func (s *translator) appliedRelease(n *tree.Node, names ...string) *tree.Node {
	const longest = 53 // that Helm takes
	for i := range s.names {
		names = append(names, fmt.Sprintf("%s-%d", names[0][:min(len(names[0]), longest-5)], i+2))
	}
	isFree := func(name string) bool { return len(name) <= longest && !slices.Contains(s.names, name) }
	release := n.As(yaml.MappingNode, n.Path)
	put(release, "name", scalar(n, names[slices.IndexFunc(names, isFree)]))
	namespace := cmp.Or(s.namespaceFlag(n), s.kubectlNamespace)
	if namespace == nil {
		namespace = scalar(n, "default")
		s.inform(n, "has no namespace: default is taken, whatever the kube context says")
	}
	put(release, "namespace", namespace)
	s.addRelease(release, nil)
	return release
}

// namespaceFlag returns the namespace that skaffold's flag -n has from the environment, nil if
// there is none.
func (s *translator) namespaceFlag(n *tree.Node) *tree.Node {
	if namespace := s.getenv("SKAFFOLD_NAMESPACE"); namespace != "" {
		return scalar(n, namespace)
	}
	return nil
}

// replacedHelm says that of both Helm sections, skaffold installs the releases of one.
func (s *translator) replacedHelm(rendered, installed *tree.Node) {
	known := keys{"hooks": s.hooks, "concurrency": ignore}
	for _, key := range []string{"releases", "flags"} {
		known[key] = func(n *tree.Node) {
			if other := rendered.Get(key); other != nil && tree.Equal(n, other) {
				s.inform(n, "is that of manifests.helm, too, which counts")
			} else {
				s.note(n, "differs from that of manifests.helm: that one counts, as for skaffold")
			}
		}
	}
	s.section(installed, known)
}

// shortDuration writes 600 seconds as 10m.
func shortDuration(seconds int) string {
	switch {
	case seconds%3600 == 0:
		return strconv.Itoa(seconds/3600) + "h"
	case seconds%60 == 0:
		return strconv.Itoa(seconds/60) + "m"
	}
	return strconv.Itoa(seconds) + "s"
}
