package deploy

import (
	"testing"

	"helm.sh/helm/v3/pkg/release"
)

func TestObjectsTakenOverStay(t *testing.T) {
	d := &Deployer{project: "demo"}
	for name, test := range map[string]struct {
		status   release.Status
		tookOver string
		want     bool
	}{
		"an installation that failed":             {release.StatusFailed, "1", true},
		"one that was killed":                     {release.StatusPendingInstall, "1", true},
		"one that took nothing over":              {release.StatusFailed, "", false},
		"one that copied the label":               {release.StatusFailed, "7", false},
		"a removal that was not completed":        {release.StatusUninstalling, "1", false},
		"an installation that is complete by now": {release.StatusDeployed, "1", false},
	} {
		history := []revision{{version: 1, status: test.status,
			labels: map[string]string{labelProject: "demo", labelTookOver: test.tookOver}}}
		if got := d.keepsObjects(history); got != test.want {
			t.Errorf("after %s, its objects stay: %v", name, got)
		}
	}
}

func TestNeverInstalled(t *testing.T) {
	d := &Deployer{project: "demo"}
	history := func(project string, states ...release.Status) (all []revision) {
		for i, state := range states {
			all = append(all, revision{version: len(states) - i, status: state,
				labels: map[string]string{labelProject: project}})
		}
		return all
	}
	for _, test := range []struct {
		history []revision
		want    bool
	}{
		{nil, false},
		{history("demo", release.StatusPendingInstall), true},
		{history("demo", release.StatusFailed), true},
		{history("demo", release.StatusFailed, release.StatusFailed), true},
		{history("demo", release.StatusUninstalling, release.StatusSuperseded), true},
		{history("demo", release.StatusDeployed), false},
		{history("demo", release.StatusFailed, release.StatusDeployed), false},
		{history("demo", release.StatusPendingUpgrade, release.StatusSuperseded), false},
		{history("demo", release.StatusUninstalled), false},
		{history("theirs", release.StatusPendingInstall), false},
		{history("", release.StatusFailed), false},
		{history("theirs", release.StatusUninstalling), false},
	} {
		if got := d.neverInstalled(test.history); got != test.want {
			t.Errorf("%d revisions, the last one %v of %v: removed and installed from scratch: %v", len(test.history),
				test.history[0].status, test.history[0].labels, got)
		}
	}
}
