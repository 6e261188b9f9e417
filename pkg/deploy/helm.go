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
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// hookTimeout is Helm's own, for each hook of a chart.
	hookTimeout = 5 * time.Minute
	maxHistory  = 10 // Helm's default
)

// helm returns Helm's machinery for one namespace.
func (d *Deployer) helm(ctx context.Context, namespace string) (*action.Configuration, error) {
	config := new(action.Configuration)
	restClientGetter := d.cluster.RESTClientGetter(namespace)
	if err := config.Init(restClientGetter, namespace, "secret", func(string, ...any) {}); err != nil {
		return nil, fmt.Errorf("helm: %w", err)
	}
	if client, ok := config.KubeClient.(*helmkube.Client); ok {
		client.Namespace = namespace
	}
	var err error
	config.Capabilities, err = d.cluster.Capabilities(ctx) // otherwise Helm drops the discovery cache at each write
	return config, err
}

// helmFor returns Helm's machinery to change one release, with its history, the last revision
// first. What it changes is recorded in w. The records are read, unless they are still those that
// are known.
func (d *Deployer) helmFor(
	ctx context.Context, stage event.Stage, r Release, known knownRecords, w *writeLog,
) (*action.Configuration, []*release.Release, error) {
	if err := kube.MayWrite(ctx); err != nil { // Helm's own requests do not have this context
		return nil, nil, err
	}
	helm, err := d.helm(ctx, r.Namespace)
	if err != nil {
		return nil, nil, err
	}
	records := &cachedRecords{Driver: helm.Releases.Driver, name: r.Name}
	if now, err := d.revisions(ctx, r); err == nil && known.areOf(now) {
		records.known = known.records
	}
	helm.Releases.Driver = records
	history, err := helm.Releases.History(r.Name)
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil, fmt.Errorf("read Helm's records: %w", err)
	}
	slices.SortFunc(history, func(a, b *release.Release) int { return b.Version - a.Version })
	d.guardDeletions(stage, helm, r, history, w)
	return helm, history, nil
}

// helmWrite installs or upgrades a release; made is what its chart was rendered to. Helm's own
// contexts are not used: one that is done marks the release failed while Helm's worker goes on.
func (d *Deployer) helmWrite(
	ctx context.Context, stage event.Stage, want desired, made rendered, w *writeLog,
) (*release.Release, error) {
	ctx = context.WithoutCancel(ctx)
	helm, history, err := d.helmFor(ctx, stage, want.Release, want.records, w)
	if err != nil {
		return nil, err
	}
	if known := revisionsOf(history); d.neverInstalled(known) {
		if d.keepsObjects(known) {
			stage.Note("release was never fully installed, it is installed again", "release", event.Name(want.Name),
				"status", history[0].Info.Status.String())
			err = d.forgetInstallation(ctx, helm, want.Release, history, made)
		} else {
			stage.Note("release was never fully installed, it is removed and installed again", "release", event.Name(want.Name),
				"status", history[0].Info.Status.String())
			err = d.helmUninstall(ctx, stage, helm, want.Release, history)
		}
		if err != nil {
			return nil, err
		}
		manifests := make([]string, len(history))
		for i, record := range history {
			manifests[i] = record.Manifest
		}
		if err := d.awaitTerminating(ctx, stage, want.Release, manifests); err != nil {
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
	done, err := d.installOrUpgrade(ctx, helm, want, made, history, version, w)
	d.cluster.InvalidateCapabilities()
	if err != nil {
		return nil, errors.Join(withoutListFrame(err), d.forgetUnwritten(ctx, want.Release, version))
	}
	written := d.remember(want.Release, done)
	if err := d.sweep(ctx, want.Release, unfinishedRevisions(history), written.objects); err != nil {
		return nil, err
	}
	return done, d.journal.Forget(journal.Revision, revisionID(want.Release, version))
}

// revisionsOf returns what records say of themselves.
func revisionsOf(history []*release.Release) (all []revision) {
	for _, record := range history {
		all = append(all, revision{version: record.Version, status: record.Info.Status, labels: record.Labels})
	}
	return all
}

// installOrUpgrade writes a revision after history, which begins with the last one. The chart is
// rendered again unless made is for this very revision, and was rendered for what the cluster holds
// now: a CRD or a namespace that was written, or objects that were awaited, may change what its
// templates see.
func (d *Deployer) installOrUpgrade(
	ctx context.Context, helm *action.Configuration, want desired, made rendered, history []*release.Release, version int,
	w *writeLog,
) (*release.Release, error) {
	last := revision{}
	if len(history) > 0 {
		last = revision{version: history[0].Version, status: history[0].Info.Status}
	}
	if made.revision != version || !last.exists() || w.count(appliedCRD) > 0 || made.hasNamespaces() ||
		!sameSet(made.kinds, helm.Capabilities.APIVersions) {
		var err error
		if made, err = d.renderChart(ctx, &want, last); err != nil {
			return nil, err
		}
	}
	output, err := newPrerendered(made.recorded(want.Release), made.files)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{
		labelProject: d.project, labelInputs: want.inputsWith(made.images), labelRevision: strconv.Itoa(version),
	}
	if len(want.After) > 0 {
		labels[labelAfter] = labelDue
	}
	if want.around != nil && len(want.around.After) > 0 {
		labels[labelAfterAll] = labelDue
	}
	if want.takesOver {
		labels[labelTookOver] = strconv.Itoa(version)
	}
	if last.exists() {
		return d.upgrade(ctx, helm, want, history[0], output, made, labels)
	}
	return d.install(ctx, helm, want, version, output, made, labels)
}

// sameSet compares lists whose order does not count.
func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// forgetUnwritten removes the journal's entry of a revision that was not written: the next one of
// that number may be someone else's.
func (d *Deployer) forgetUnwritten(ctx context.Context, r Release, version int) error {
	if last, err := d.last(ctx, r); err != nil || last.version == version {
		return nil //nolint:nilerr // the entry stays, for whoever repairs the revision
	}
	return d.journal.Forget(journal.Revision, revisionID(r, version))
}

// withoutListFrame removes what Helm's list of errors adds around a single one, and long values
// that the API server prints.
func withoutListFrame(err error) error {
	text := listFrame.ReplaceAllString(err.Error(), "")
	if text = withoutStructs(strings.TrimSpace(text)); text == err.Error() {
		return err
	}
	return shortError{err, text}
}

var listFrame = regexp.MustCompile(`1 error occurred:\s*\n\s*\* `)
