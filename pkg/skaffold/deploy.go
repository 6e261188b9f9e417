package skaffold

import (
	"cmp"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// deploy reads the section deploy.
func (s *translator) deploy(n, made *tree.Node) {
	const (
		notDeployed = "is not deployed: devloop deploys Helm releases; put these manifests into a chart"
		notRun      = "these commands are not run"
		noKubectl   = "kubectl is not called: without these flags"
		noKpt       = "kpt is not called: without these flags"
	)
	s.section(n, keys{
		"helm":        s.helm,
		"kubeContext": func(n *tree.Node) { put(made, "kubeContext", scalar(n, s.text(n))) },
		"kubectl": s.unsupported("kubectl is not used: devloop deploys Helm releases alone", map[string]string{
			"manifests": notDeployed, "remoteManifests": notDeployed, "flags": noKubectl, "hooks": notRun,
			"defaultNamespace": "is for what kubectl deploys: a release says its own namespace",
		}),
		"kustomize": s.unsupported(notDeployed, map[string]string{
			"flags": noKubectl, "buildArgs": "kustomize is not called: without these flags", "hooks": notRun,
			"defaultNamespace": "is for what kustomize makes: a release says its own namespace",
		}),
		"kpt":    s.unsupported(notDeployed, map[string]string{"flags": noKpt, "applyFlags": noKpt, "hooks": notRun}),
		"docker": s.unsupported("these containers are not started: devloop deploys Helm releases", nil),
		"cloudrun": s.unsupported("is not deployed: devloop deploys Helm releases to a cluster on this machine",
			map[string]string{"hooks": notRun}),
		"tofu":        s.unsupported("is not deployed: devloop deploys Helm releases", nil),
		"logs":        s.harmless("logs of pods are shown in devloop's own way: --logs, or the key l"),
		"statusCheck": s.noteIf(false, "devloop waits for the pods of every release all the same"),
		"statusCheckDeadlineSeconds": func(n *tree.Node) {
			seconds, err := strconv.Atoi(n.Value)
			if err != nil || seconds < 0 {
				s.Wrong(n, "must be a number of seconds, but is %s", n.Describe())
			} else if seconds > 0 {
				timeouts := n.As(yaml.MappingNode, n.Path)
				put(timeouts, "rollout", scalar(n, shortDuration(seconds)))
				put(made, "timeouts", timeouts)
			}
		},
		"tolerateFailuresUntilDeadline": s.lost("the wait ends as soon as a failure is certain"),
	})
}

// manifests reads what skaffold renders since v3: devloop deploys the Helm releases only.
func (s *translator) manifests(n *tree.Node) {
	const notDeployed = "these manifests are not deployed: devloop deploys Helm releases; put them into a chart"
	s.section(n, keys{
		"helm": s.helm,
		"kustomize": s.unsupported(notDeployed, map[string]string{
			"buildArgs": "kustomize is not called: without these flags",
		}),
		"kpt":             s.unsupported(notDeployed, nil),
		"rawYaml":         s.lost(notDeployed),
		"remoteManifests": s.lost(notDeployed),
		"generate":        s.lost(notDeployed),
		"hooks":           s.lost("these commands are not run when manifests are rendered"),
		"transform":       s.lost("manifests are deployed as the charts make them"),
		"validate":        s.lost("manifests are checked by the API server alone"),
		"output":          s.lost("manifests are not written to a folder; devloop render prints them"),
	})
}

// unsupported is for a deployer that devloop does not have. Each of its keys that holds anything
// gets a note: its own of texts, or else the one for all.
func (s *translator) unsupported(text string, texts map[string]string) func(*tree.Node) {
	return func(n *tree.Node) {
		if !n.IsMapping() {
			s.note(n, "%s", text)
			return
		}
		for _, e := range n.Entries {
			if s.keys[e.Value] = e.Key; holdsValue(e.Value) {
				s.note(e.Value, "%s", cmp.Or(texts[e.Key.Value], text))
			}
		}
		if !holdsValue(n) { // kubectl: {}
			s.inform(n, "%s", text)
		}
	}
}

// holdsValue tells whether there is any value in n, at any depth.
func holdsValue(n *tree.Node) bool {
	return n.IsScalar() && !n.IsNull() && n.Value != "" || slices.ContainsFunc(n.Items, holdsValue) ||
		slices.ContainsFunc(n.Entries, func(e tree.Entry) bool { return holdsValue(e.Value) })
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
