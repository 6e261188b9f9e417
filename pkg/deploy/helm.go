// Helm itself: what its records say, and the writes.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	helmkube "helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
)

const (
	// hookTimeout is Helm's own, for each hook of a chart.
	hookTimeout = 5 * time.Minute
	maxHistory  = 10
)

// helm returns Helm's machinery for one namespace.
func (d *Deployer) helm(ctx context.Context, namespace string) (*action.Configuration, error) {
	config := new(action.Configuration)
	getter := d.cluster.RESTClientGetter(namespace)
	if err := config.Init(getter, namespace, "secret", func(string, ...any) {}); err != nil {
		return nil, fmt.Errorf("helm: %w", err)
	}
	if client, ok := config.KubeClient.(*helmkube.Client); ok {
		client.Namespace = namespace
	}
	var err error
	config.Capabilities, err = d.cluster.Capabilities(ctx) // else Helm throws the discovery cache away at each write
	return config, err
}

// helmWrite runs the one Helm action that leads to want. Helm's contexts are not used: a done context marks the release failed while
// Helm's worker goes on (install.go, upgrade.go).
func (d *Deployer) helmWrite(stage event.Stage, want desired) (*release.Release, error) {
	ctx := context.Background()
	helm, err := d.helm(ctx, want.Namespace)
	if err != nil {
		return nil, err
	}
	history, err := helm.Releases.History(want.Name)
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, fmt.Errorf("read Helm's records: %w", err)
	}
	slices.SortFunc(history, func(a, b *release.Release) int { return b.Version - a.Version })
	guardDeletions(stage, helm, want.Release, history)
	if d.neverInstalled(history) {
		stage.Note("release never came to its end, it is removed and installed anew", "release", event.Name(want.Name),
			"status", history[0].Info.Status.String())
		if err := d.helmUninstall(ctx, stage, helm, want.Release, history); err != nil {
			return nil, err
		}
		if err := d.awaitTerminatingOf(ctx, want.Release, history); err != nil {
			return nil, err
		}
		history = nil
	}
	version := 1
	if len(history) > 0 {
		version = history[0].Version + 1
	}
	if err := d.journal.Record(journal.Revision, revisionID(want.Release, version)); err != nil {
		return nil, err
	}
	done, err := d.installOrUpgrade(ctx, helm, want, history, version)
	d.cluster.Wrote()
	if err != nil {
		return nil, errors.Join(withoutListFrame(err), d.forgetUnwritten(ctx, want.Release, version))
	}
	made := d.rememberObjects(want.Release, done)
	if err := d.sweep(ctx, want.Release, unfinishedRevisions(history), made); err != nil {
		return nil, err
	}
	return done, d.journal.Forget(journal.Revision, revisionID(want.Release, version))
}

// installOrUpgrade installs or upgrades, whichever it takes after history, which begins with the last
// revision. Templates are rendered as late as Helm would do it: they see the kinds of the chart's
// own CRDs, and whether the release is there.
func (d *Deployer) installOrUpgrade(ctx context.Context, helm *action.Configuration, want desired, history []*release.Release, version int) (done *release.Release, err error) {
	last := revision{}
	if len(history) > 0 {
		last = revision{version: history[0].Version, status: history[0].Info.Status}
	}
	made, err := d.renderChart(ctx, &want, last)
	if err != nil {
		return nil, err
	}
	output, err := newPrerendered(made.chart, made.files)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{labelProject: d.project, labelInputs: want.inputs, labelRevision: strconv.Itoa(version)}
	if len(want.After) > 0 {
		labels[labelAfter] = labelDue
	}
	if !last.exists() {
		install := action.NewInstall(helm)
		install.ReleaseName, install.Namespace, install.Labels = want.Name, want.Namespace, labels
		install.Timeout, install.Replace, install.SkipCRDs = hookTimeout, len(history) > 0, true
		install.DisableOpenAPIValidation = true // dryRun has asked the API server itself, which knows more and takes less time
		install.PostRenderer = output
		err = d.watchHooks(ctx, want.Release, version, installHooks, func() (err error) {
			done, err = install.RunWithContext(ctx, output.chart, made.values)
			return err
		})
		return done, err
	}
	if last.status.IsPending() { // of an upgrade or a rollback
		if err := markFailed(helm, history[0]); err != nil {
			return nil, err
		}
	}
	for _, label := range []string{labelAfter, labelGood} {
		if _, set := labels[label]; !set && history[0].Labels[label] != "" {
			labels[label] = labelNone
		}
	}
	upgrade := action.NewUpgrade(helm)
	upgrade.Namespace, upgrade.Labels = want.Namespace, labels
	upgrade.Timeout, upgrade.MaxHistory, upgrade.SkipCRDs = hookTimeout, maxHistory, true
	upgrade.DisableOpenAPIValidation = true // as above
	upgrade.ResetValues = true              // the values are those of devloop.yaml, none from earlier revisions
	upgrade.PostRenderer = output
	err = d.watchHooks(ctx, want.Release, version, upgradeHooks, func() (err error) {
		done, err = upgrade.RunWithContext(ctx, want.Name, output.chart, made.values)
		return err
	})
	return done, err
}

// forgetUnwritten takes back what the journal says of a revision that came not to be: the next one of that number may be somebody else's.
func (d *Deployer) forgetUnwritten(ctx context.Context, r Release, version int) error {
	if last, err := d.last(ctx, r); err != nil || last.version == version {
		return nil //nolint:nilerr // the entry stays, for who repairs it
	}
	return d.journal.Forget(journal.Revision, revisionID(r, version))
}

// withoutListFrame takes the frame away that Helm's list of errors puts around a single one.
func withoutListFrame(err error) error {
	text := listFrame.ReplaceAllString(err.Error(), "")
	if text = strings.TrimSpace(text); text == err.Error() {
		return err
	}
	return unframedError{err, text}
}

var listFrame = regexp.MustCompile(`1 error occurred:\s*\n\s*\* `)

type unframedError struct {
	error
	text string
}

func (p unframedError) Error() string { return p.text }
func (p unframedError) Unwrap() error { return p.error }
