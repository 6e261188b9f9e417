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
	helmkube "helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
	begun   metav1.Time // by the API server's clock
}

// exists tells whether there is something that can be upgraded, or is in the way.
func (r revision) exists() bool { return r.version > 0 && r.status != release.StatusUninstalled }

// byUs tells whether devloop made this revision, and not somebody who used Helm on the release since.
func (r revision) byUs() bool { return r.labels[labelRevision] == strconv.Itoa(r.version) }

// good tells whether this revision's pods came up.
func (r revision) good() bool { return r.labels[labelGood] == strconv.Itoa(r.version) }

// labelled tells whether a devloop made a release for a project of this name, by the label that Helm's record has from the moment of its
// creation. The journal would not do: its entry may be of an install that never came to be, and the release one that somebody made since.
func (d *Deployer) labelled(last revision) bool { return last.labels[labelProject] == d.project }

// owns tells whether a release is ours: labelled, and in the journal, which is written before. One that the journal does not know was made
// by a devloop of another user or machine.
func (d *Deployer) owns(r Release, last revision) bool {
	return d.labelled(last) && d.journal.Has(kindRelease, r.ID())
}

// holds tells whether the revision is of the project, was made from what is wanted, and was applied to its end.
func (d *Deployer) holds(r revision, want desired) bool {
	return d.labelled(r) && r.byUs() && r.status == release.StatusDeployed && r.labels[labelInputs] == want.inputs
}

// revisions returns what Helm's records say of a release, the last one first.
func (d *Deployer) revisions(ctx context.Context, r Release) ([]revision, error) {
	list, err := d.cluster.Metadata.Resource(secrets).Namespace(r.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "owner=helm,name=" + r.Name})
	if err != nil {
		return nil, fmt.Errorf("release %s: read Helm's records: %w", r.ID(), err)
	}
	var all []revision
	for _, record := range list.Items {
		version, err := strconv.Atoi(record.Labels["version"])
		if err != nil {
			continue // none of Helm's
		}
		all = append(all, revision{version, release.Status(record.Labels["status"]), record.Labels, record.CreationTimestamp})
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

// lastGood is the number of the last revision whose pods came up, 0 if there is none; and the last revision.
func (d *Deployer) lastGood(ctx context.Context, r Release) (good int, last revision, err error) {
	all, err := d.revisions(ctx, r)
	if err != nil || len(all) == 0 {
		return 0, last, err
	}
	for _, known := range all {
		if known.good() {
			return known.version, all[0], nil
		}
	}
	return 0, all[0], nil
}

// settled is the release's last revision once nobody is writing it; last is what it was a moment ago. What a devloop that was killed has
// left half-way counts as settled.
func (d *Deployer) settled(ctx context.Context, say event.Stage, r Release, last revision) (revision, error) {
	held, cancel := context.WithTimeoutCause(ctx, heldTimeout, errHeld)
	defer cancel()
	for told := false; last.status.IsPending() && !d.abandoned(r, last); told = true {
		if !told {
			say.Warn("another process is changing the release, it is waited for", nil, "release", event.Name(r.Name),
				"status", last.status.String(), "revision", last.version)
		}
		if err := sleep(held, heldInterval); err != nil {
			if errors.Is(err, errHeld) {
				repair := "rollback"
				if last.status == release.StatusPendingInstall {
					repair = "uninstall"
				}
				err = event.WithHint(fmt.Errorf("release %s: revision %d is %s since more than %s, by another process than devloop", r.ID(), last.version, last.status, heldTimeout),
					fmt.Sprintf("if none is at work any more: helm %s %s -n %s", repair, r.Name, r.Namespace))
			}
			return last, err
		}
		var err error
		if last, err = d.last(ctx, r); err != nil {
			return last, err
		}
	}
	return last, nil
}

var errHeld = errors.New("held by another process")

// abandoned tells whether a revision that is being written is what a devloop which was killed left: the lock of the journal keeps
// a second one out, so nobody is at work on it any more.
func (d *Deployer) abandoned(r Release, last revision) bool {
	return d.owns(r, last) && (last.byUs() || d.journal.Has(kindRevision, revisionID(r, last.version)))
}

func revisionID(r Release, version int) string { return r.ID() + "@" + strconv.Itoa(version) }

// label sets a label of a revision's record, or takes it away (nil).
func (d *Deployer) label(ctx context.Context, r Release, version int, label string, value any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{label: value}}})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("sh.helm.release.v1.%s.v%d", r.Name, version) // storage.makeKey
	_, err = d.cluster.Metadata.Resource(secrets).Namespace(r.Namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("release %s: mark revision %d: %w", r.ID(), version, err)
	}
	return nil
}

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
func (d *Deployer) helmWrite(say event.Stage, want desired) (*release.Release, error) {
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
	guardDeletions(say, helm, want.Release, history)
	if d.neverInstalled(history) {
		say.Note("release never came to its end, it is removed and installed anew", "release", event.Name(want.Name),
			"status", history[0].Info.Status.String())
		if err := d.helmUninstall(ctx, say, helm, want.Release, history); err != nil {
			return nil, err
		}
		if err := d.awaitEndingOf(ctx, want.Release, history); err != nil {
			return nil, err
		}
		history = nil
	}
	version := 1
	if len(history) > 0 {
		version = history[0].Version + 1
	}
	if err := d.journal.Record(kindRevision, revisionID(want.Release, version)); err != nil {
		return nil, err
	}
	done, err := d.helmRun(ctx, helm, want, history, version)
	d.cluster.Wrote()
	if err != nil {
		return nil, errors.Join(plain(err), d.forgetUnwritten(ctx, want.Release, version))
	}
	made := d.keep(want.Release, done)
	if err := d.sweep(ctx, want.Release, unfinished(history), made); err != nil {
		return nil, err
	}
	return done, d.journal.Forget(kindRevision, revisionID(want.Release, version))
}

// neverInstalled tells whether a release of ours never came to the end of its installation, or of its removal: it is begun anew, since an
// upgrade would leave out its install hooks.
func (d *Deployer) neverInstalled(history []*release.Release) bool {
	if len(history) == 0 || history[0].Labels[labelProject] != d.project {
		return false
	}
	return history[0].Info.Status == release.StatusUninstalling || !slices.ContainsFunc(history, func(r *release.Release) bool {
		return r.Info.Status == release.StatusDeployed || r.Info.Status == release.StatusSuperseded || r.Info.Status == release.StatusUninstalled
	})
}

// helmRun installs or upgrades, whichever it takes after history, which begins with the last
// revision. Templates are rendered as late as Helm would do it: they see the kinds of the chart's
// own CRDs, and whether the release is there.
func (d *Deployer) helmRun(ctx context.Context, helm *action.Configuration, want desired, history []*release.Release, version int) (done *release.Release, err error) {
	last := revision{}
	if len(history) > 0 {
		last = revision{version: history[0].Version, status: history[0].Info.Status}
	}
	made, err := d.renderAfter(ctx, &want, last)
	if err != nil {
		return nil, err
	}
	output, err := newLiteral(made.chart, made.files)
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
		install.DisableOpenAPIValidation = true // tryOut has asked the API server itself, which knows more and takes less time
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

func markFailed(helm *action.Configuration, r *release.Release) error {
	r.SetStatus(release.StatusFailed, "this write was not ended")
	if err := helm.Releases.Update(r); err != nil {
		return fmt.Errorf("repair the interrupted revision %d: %w", r.Version, err)
	}
	return nil
}

// forgetUnwritten takes back what the journal says of a revision that came not to be: the next one of that number may be somebody else's.
func (d *Deployer) forgetUnwritten(ctx context.Context, r Release, version int) error {
	if last, err := d.last(ctx, r); err != nil || last.version == version {
		return nil //nolint:nilerr // the entry stays, for who repairs it
	}
	return d.journal.Forget(kindRevision, revisionID(r, version))
}

// helmRollback makes a revision, of that number, which is the same as an earlier good one, and as good.
func (d *Deployer) helmRollback(ctx context.Context, say event.Stage, r Release, to, version int) error {
	helm, err := d.helm(ctx, r.Namespace)
	if err != nil {
		return err
	}
	history, err := helm.Releases.History(r.Name)
	if err != nil {
		return fmt.Errorf("read Helm's records: %w", err)
	}
	guardDeletions(say, helm, r, history)
	if err := d.journal.Record(kindRevision, revisionID(r, version)); err != nil {
		return err
	}
	err = d.watchHooks(ctx, r, version, rollbackHooks, func() error {
		rollback := action.NewRollback(helm)
		rollback.Version, rollback.Timeout, rollback.MaxHistory = to, hookTimeout, maxHistory
		return rollback.Run(r.Name)
	})
	if err != nil {
		// Helm does not mark it failed when a hook does.
		if last, lastErr := helm.Releases.Last(r.Name); lastErr == nil && last.Version == version && last.Info.Status.IsPending() {
			err = errors.Join(err, markFailed(helm, last))
		}
		return errors.Join(err, d.forgetUnwritten(ctx, r, version))
	}
	return errors.Join(d.label(ctx, r, version, labelGood, strconv.Itoa(version)), d.journal.Forget(kindRevision, revisionID(r, version)))
}

// helmUninstall removes a release with what Helm would leave: objects that its hooks made, and those that only an unfinished revision
// names. Hooks that fail do not keep it.
func (d *Deployer) helmUninstall(ctx context.Context, say event.Stage, helm *action.Configuration, r Release, history []*release.Release) error {
	guardDeletions(say, helm, r, history)
	if err := d.recordClaims(ctx, say, r, history); err != nil { // the records know which are the release's
		return err
	}
	run := func(hooks bool) error {
		uninstall := action.NewUninstall(helm)
		uninstall.Timeout, uninstall.DisableHooks = hookTimeout, !hooks
		_, err := uninstall.Run(r.Name)
		return err
	}
	last := 0
	for _, made := range history {
		last = max(last, made.Version)
	}
	// What hooks made goes first, too: who is ended after Helm has dropped its records could not find it any more.
	err := d.removeHooks(ctx, r, history, func(h *release.Hook) bool { return !h.LastRun.StartedAt.IsZero() })
	if err != nil {
		return err
	}
	if err := d.watchHooks(ctx, r, last, uninstallHooks, func() error { return run(true) }); err != nil {
		say.Warn("release is uninstalled without its hooks, since that failed with them", err,
			"release", event.Name(r.Name))
		if err := run(false); err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
			return fmt.Errorf("uninstall: %w", err)
		}
	}
	d.cluster.Wrote()
	err = d.removeHooks(ctx, r, history, func(h *release.Hook) bool {
		return slices.ContainsFunc(h.Events, func(e release.HookEvent) bool { return slices.Contains(uninstallHooks, e) })
	})
	if err != nil {
		return err
	}
	return d.sweep(ctx, r, history, nil)
}

// removeHooks deletes the objects of those hooks of a release that have run: others may name what is somebody else's.
func (d *Deployer) removeHooks(ctx context.Context, r Release, history []*release.Release, ran func(*release.Hook) bool) error {
	for _, made := range history {
		for _, hook := range made.Hooks {
			if !ran(hook) {
				continue
			}
			named, _ := parse(hook.Manifest, r.Namespace) // Helm has read it
			for _, o := range named {
				ran := !hook.LastRun.StartedAt.IsZero()
				made := func(u *unstructured.Unstructured) bool { return madeByHook(u, r, ran) }
				if err := d.remove(ctx, o, made); err != nil {
					return fmt.Errorf("remove what a hook made: %s: %w", o, err)
				}
			}
		}
	}
	return nil
}

// awaitEnding waits until none of the objects that a release is to have is being deleted: Helm takes one that is for its own, and it is gone a
// moment later.
func (d *Deployer) awaitEnding(ctx context.Context, say event.Stage, r Release, made rendered) error {
	var manifest strings.Builder
	for _, m := range made.manifests {
		manifest.WriteString("\n---\n" + m.Content)
	}
	objects, err := parse(manifest.String(), r.Namespace)
	if err != nil {
		return nil //nolint:nilerr // Helm reads it its own way
	}
	ending, err := d.ending(ctx, objects)
	if err != nil || ending == "" {
		return err
	}
	say.Note("objects of the same names are being deleted, they are waited for", "release", event.Name(r.Name),
		"object", ending)
	return d.untilEnded(ctx, r, objects)
}

// awaitEndingOf is awaitEnding for what revisions named.
func (d *Deployer) awaitEndingOf(ctx context.Context, r Release, history []*release.Release) error {
	var objects []object
	for _, made := range history {
		named, _ := parse(made.Manifest, r.Namespace) // Helm has read it
		objects = append(objects, named...)
	}
	return d.untilEnded(ctx, r, objects)
}

func (d *Deployer) untilEnded(ctx context.Context, r Release, objects []object) error {
	ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still being deleted after %s", goneTimeout))
	defer cancel()
	if err := d.until(ctx, func() (string, error) { return d.ending(ctx, objects) }); err != nil {
		return event.WithHint(fmt.Errorf("release %s: %w", r.ID(), err), "it may have a finalizer that nobody takes away, or a pod that does not end: kubectl describe")
	}
	return nil
}

// unfinished returns the revisions, of a history that begins with the last one, which were written after one came to its end. What
// they made and the next one does not name is known to nobody else: Helm compares with the last good revision only.
func unfinished(history []*release.Release) []*release.Release {
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

// Deployed returns every text in the values that the last revisions of the releases were made with: what the cluster was told, whatever the files hold
// by now.
func (d *Deployer) Deployed(ctx context.Context, releases []Release) (texts []string, err error) {
	for _, r := range releases {
		last, err := d.last(ctx, r)
		if err != nil {
			return nil, err
		}
		if !last.exists() {
			continue
		}
		helm, err := d.helm(ctx, r.Namespace)
		if err != nil {
			return nil, err
		}
		made, err := helm.Releases.Get(r.Name, last.version)
		if err != nil {
			return nil, fmt.Errorf("release %s: read Helm's record of revision %d: %w", r.ID(), last.version, err)
		}
		texts = appendTexts(texts, made.Config)
	}
	return texts, nil
}

func appendTexts(texts []string, value any) []string {
	switch v := value.(type) {
	case string:
		return append(texts, v)
	case []any:
		for _, item := range v {
			texts = appendTexts(texts, item)
		}
	case map[string]any:
		for _, item := range v {
			texts = appendTexts(texts, item)
		}
	}
	return texts
}
