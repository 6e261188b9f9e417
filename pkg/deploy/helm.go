// Helm itself: what its records say, and the writes.
package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
)

// Labels on Helm's own records. Helm gives those of a revision to the next one that anybody makes, so the labels of a revision are worth
// something only where labelRevision names it.
const (
	labelProject  = "devloop.project"  // that owns the release
	labelInputs   = "devloop.inputs"   // hash of what the revision was made from
	labelRevision = "devloop.revision" // that devloop made
	labelGood     = "devloop.good"     // revision whose pods came up
	labelAfter    = "devloop.after"    // labelDue while commands are to be run after the release
	labelDue      = "due"
	labelNone     = "null" // is how Helm is told to drop a label
)

const (
	// hookTimeout is Helm's own, for each hook of a chart.
	hookTimeout = 5 * time.Minute
	maxHistory  = 10
	// heldTimeout is how long another process that writes a release is waited for: Helm's own waits take as long by default.
	heldTimeout  = 5 * time.Minute
	heldInterval = 500 * time.Millisecond
)

var secrets = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}

// revision is what Helm's record of a release's last revision says on its outside: to read what is in it takes long.
type revision struct {
	version int // 0 if there is none
	status  release.Status
	labels  map[string]string
}

// exists tells whether there is something that can be upgraded, or is in the way.
func (r revision) exists() bool { return r.version > 0 && r.status != release.StatusUninstalled }

// byUs tells whether devloop made this revision, and not somebody who used Helm on the release since.
func (r revision) byUs() bool { return r.labels[labelRevision] == strconv.Itoa(r.version) }

// owns tells whether a release is ours, by the label that Helm's record has from the moment of its creation. The journal would not
// do: its entry may be of an install that never came to be, and the release one that somebody made since.
func (d *Deployer) owns(r revision) bool { return r.labels[labelProject] == d.project }

// holds tells whether the revision is ours, was made from what is wanted, and was applied to its end.
func (d *Deployer) holds(r revision, want desired) bool {
	return d.owns(r) && r.byUs() && r.status == release.StatusDeployed && r.labels[labelInputs] == want.inputs
}

// revisions returns what Helm's records say of a release, the last one first.
func (d *Deployer) revisions(ctx context.Context, r Release) ([]revision, error) {
	list, err := d.cluster.metadata.Resource(secrets).Namespace(r.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "owner=helm,name=" + r.Name})
	if err != nil {
		return nil, fmt.Errorf("release %s: read Helm's records: %w", r.ID(), err)
	}
	var all []revision
	for _, record := range list.Items {
		version, err := strconv.Atoi(record.Labels["version"])
		if err != nil {
			continue // none of Helm's
		}
		all = append(all, revision{version, release.Status(record.Labels["status"]), record.Labels})
	}
	slices.SortFunc(all, func(a, b revision) int { return b.version - a.version })
	return all, nil
}

// last is the release's last revision.
func (d *Deployer) last(ctx context.Context, r Release) (revision, error) {
	all, err := d.revisions(ctx, r)
	if err != nil || len(all) == 0 {
		return revision{}, err
	}
	return all[0], nil
}

// lastGood is the number of the last revision whose pods came up, but for the one that is there now; 0 if there is none.
func (d *Deployer) lastGood(ctx context.Context, r Release) (int, error) {
	all, err := d.revisions(ctx, r)
	for i, known := range all {
		if i > 0 && known.labels[labelGood] == strconv.Itoa(known.version) {
			return known.version, err
		}
	}
	return 0, err
}

// settled is last, once nobody is writing the release. What a devloop that was killed has left half-way counts as settled.
func (d *Deployer) settled(ctx context.Context, say event.Stage, r Release) (revision, error) {
	held, cancel := context.WithTimeoutCause(ctx, heldTimeout, errHeld)
	defer cancel()
	for told := false; ; told = true {
		last, err := d.last(ctx, r)
		if err != nil || !last.status.IsPending() || d.abandoned(r, last) {
			return last, err
		}
		if !told {
			say.Warn("another process is changing the release, it is waited for", nil, "release", r.Name, "status", last.status.String(), "revision", last.version)
		}
		if err := sleep(held, heldInterval); err != nil {
			if errors.Is(err, errHeld) {
				err = event.WithHint(fmt.Errorf("release %s: revision %d is %s since more than %s, by another process than devloop", r.ID(), last.version, last.status, heldTimeout),
					fmt.Sprintf("if none is at work any more: helm rollback %s -n %s", r.Name, r.Namespace))
			}
			return last, err
		}
	}
}

var errHeld = errors.New("held by another process")

// abandoned tells whether a revision that is being written is what a devloop which was killed left: the lock of the journal keeps
// a second one out, so nobody is at work on it any more.
func (d *Deployer) abandoned(r Release, last revision) bool {
	return d.owns(last) && (last.byUs() || d.journal.Has(kindRevision, revisionID(r, last.version)))
}

func revisionID(r Release, version int) string { return r.ID() + "@" + strconv.Itoa(version) }

// label sets a label of a revision's record, or takes it away (nil).
func (d *Deployer) label(ctx context.Context, r Release, version int, label string, value any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{label: value}}})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("sh.helm.release.v1.%s.v%d", r.Name, version) // storage.makeKey
	_, err = d.cluster.metadata.Resource(secrets).Namespace(r.Namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("release %s: mark revision %d: %w", r.ID(), version, err)
	}
	return nil
}

// helm returns Helm's machinery for one namespace.
func (d *Deployer) helm(ctx context.Context, namespace string) (*action.Configuration, error) {
	config := new(action.Configuration)
	getter := namespaced{d.cluster, namespace}
	if err := config.Init(getter, namespace, "secret", func(string, ...any) {}); err != nil {
		return nil, fmt.Errorf("helm: %w", err)
	}
	if client, ok := config.KubeClient.(*kube.Client); ok {
		client.Namespace = namespace
	}
	var err error
	config.Capabilities, err = d.cluster.capabilities(ctx) // else Helm throws the discovery cache away at each write
	return config, err
}

// helmWrite runs the one Helm action that leads to want. Helm's contexts are not used: a done context marks the release failed while
// Helm's worker goes on (install.go, upgrade.go).
func (d *Deployer) helmWrite(want desired, loaded *chart.Chart) (*release.Release, error) {
	ctx := context.Background()
	helm, err := d.helm(ctx, want.Namespace)
	if err != nil {
		return nil, err
	}
	values, err := merge(want.Release)
	if err != nil {
		return nil, err
	}
	history, err := helm.Releases.History(want.Name)
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, fmt.Errorf("read Helm's records: %w", err)
	}
	var last *release.Release
	settled := false // some revision came to its end
	for _, known := range history {
		if last == nil || known.Version > last.Version {
			last = known
		}
		settled = settled || known.Info.Status == release.StatusDeployed || known.Info.Status == release.StatusSuperseded || known.Info.Status == release.StatusUninstalled
	}
	// An interrupted clean-up is finished first; and a first install that never came to its end is begun anew, since an upgrade
	// would leave out its install hooks.
	if last != nil && (last.Info.Status == release.StatusUninstalling || !settled) {
		uninstall := action.NewUninstall(helm)
		uninstall.Timeout = hookTimeout
		if _, err := uninstall.Run(want.Name); err != nil {
			return nil, err
		}
		last = nil
	}
	version := 1
	if last != nil {
		version = last.Version + 1
	}
	labels := map[string]string{labelProject: d.project, labelInputs: want.inputs, labelRevision: strconv.Itoa(version)}
	if len(want.After) > 0 {
		labels[labelAfter] = labelDue
	}
	if err := d.journal.Record(kindRevision, revisionID(want.Release, version)); err != nil {
		return nil, err
	}
	var done *release.Release
	err = d.watchHooks(want.Release, version, func() (err error) {
		if last == nil || last.Info.Status == release.StatusUninstalled {
			install := action.NewInstall(helm)
			install.ReleaseName, install.Namespace, install.Labels = want.Name, want.Namespace, labels
			install.Timeout, install.Replace, install.SkipCRDs = hookTimeout, last != nil, true
			done, err = install.RunWithContext(ctx, loaded, values)
			return err
		}
		if last.Info.Status.IsPending() { // of an upgrade or a rollback
			last.SetStatus(release.StatusFailed, "devloop was ended during this write")
			if err := helm.Releases.Update(last); err != nil {
				return fmt.Errorf("repair the interrupted revision %d: %w", last.Version, err)
			}
		}
		for _, label := range []string{labelAfter, labelGood} {
			if _, set := labels[label]; !set && last.Labels[label] != "" {
				labels[label] = labelNone
			}
		}
		upgrade := action.NewUpgrade(helm)
		upgrade.Namespace, upgrade.Labels = want.Namespace, labels
		upgrade.Timeout, upgrade.MaxHistory, upgrade.SkipCRDs = hookTimeout, maxHistory, true
		upgrade.ResetValues = true // the values are those of devloop.yaml, none from earlier revisions
		done, err = upgrade.RunWithContext(ctx, want.Name, loaded, values)
		return err
	})
	d.cluster.wrote()
	if err != nil {
		return nil, plain(err)
	}
	made := d.keep(want.Release, done)
	if err := d.sweep(ctx, want.Release, unfinished(history), made); err != nil {
		return nil, err
	}
	return done, d.journal.Forget(kindRevision, revisionID(want.Release, version))
}

// helmRollback makes a revision that is the same as an earlier one.
func (d *Deployer) helmRollback(ctx context.Context, r Release, to int) error {
	helm, err := d.helm(ctx, r.Namespace)
	if err != nil {
		return err
	}
	last, err := d.last(ctx, r)
	if err != nil {
		return err
	}
	version := last.version + 1
	if err := d.journal.Record(kindRevision, revisionID(r, version)); err != nil {
		return err
	}
	return d.watchHooks(r, version, func() error { //nolint:contextcheck // a Helm write is never interrupted
		rollback := action.NewRollback(helm)
		rollback.Version, rollback.Timeout, rollback.MaxHistory = to, hookTimeout, maxHistory
		if err := rollback.Run(r.Name); err != nil {
			return err
		}
		return d.journal.Forget(kindRevision, revisionID(r, version))
	})
}

// unfinished returns the revisions that were written after the last one that came to its end. What they made and the next one does not
// name is known to nobody else: Helm compares with the last good revision only.
func unfinished(history []*release.Release) []*release.Release {
	slices.SortFunc(history, func(a, b *release.Release) int { return b.Version - a.Version })
	end := slices.IndexFunc(history, func(r *release.Release) bool {
		return r.Info.Status == release.StatusDeployed || r.Info.Status == release.StatusSuperseded
	})
	if end < 0 {
		return history
	}
	return history[:end]
}

// plain takes the frame away that Helm's list of errors puts around a single one.
func plain(err error) error {
	text := oneError.ReplaceAllString(err.Error(), "")
	if text = strings.TrimSpace(text); text == err.Error() {
		return err
	}
	return plainError{err, text}
}

var oneError = regexp.MustCompile(`1 error occurred:\s*\n\s*\* `)

type plainError struct {
	error
	text string
}

func (p plainError) Error() string { return p.text }
func (p plainError) Unwrap() error { return p.error }
