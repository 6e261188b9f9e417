package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
)

// Labels on Helm's records. Helm copies the labels of a revision to the next one, whoever makes
// that, so they count only where labelRevision is the record's own version.
const (
	labelProject  = "devloop.project"   // which owns the release
	labelInputs   = "devloop.inputs"    // hash of the revision's inputs
	labelRevision = "devloop.revision"  // version that devloop made
	labelGood     = "devloop.good"      // version whose pods came up
	labelAfter    = "devloop.after"     // labelDue until the commands after the release have run
	labelAfterAll = "devloop.after-all" // the same for the commands after all releases
	labelTookOver = "devloop.took-over" // version that took objects over
	labelDue      = "due"
	labelNone     = "null" // makes Helm drop a label
)

// otherWriterTimeout is how long another process may take to write a release: as long as Helm
// itself waits by default.
const otherWriterTimeout = 5 * time.Minute

const otherWriterInterval = 500 * time.Millisecond

var secrets = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}

// revision is the metadata of Helm's record of a revision. Its content is large and slow to read.
type revision struct {
	version int // 0 if there is none
	status  release.Status
	labels  map[string]string
	created metav1.Time // by the API server's clock
	settled metav1.Time // when its record last changed: its hooks and commands had run by then
	record  string      // the version of its record, as versionOf returns it
}

// exists tells whether there is a release to upgrade, or in the way.
func (r revision) exists() bool { return r.version > 0 && r.status != release.StatusUninstalled }

// byDevloop tells whether devloop made this revision, rather than someone who used Helm since.
func (r revision) byDevloop() bool { return r.labels[labelRevision] == strconv.Itoa(r.version) }

// good tells whether the revision's pods came up.
func (r revision) good() bool { return r.labels[labelGood] == strconv.Itoa(r.version) }

// tookOver tells whether the revision took over objects that were there before it.
func (r revision) tookOver() bool { return r.labels[labelTookOver] == strconv.Itoa(r.version) }

// labelled tells whether a devloop made a release for a project of this name. The journal cannot
// tell: its entry may be of an install that failed, and the release someone else's.
func (d *Deployer) labelled(last revision) bool { return last.labels[labelProject] == d.project }

// owns tells whether a release is ours: labelled, and in the journal, which is written first. A
// labelled release that the journal does not know belongs to another user's or machine's devloop.
func (d *Deployer) owns(r Release, last revision) bool {
	return d.labelled(last) && d.journal.Has(journal.Release, r.ID())
}

// wasApplied tells whether a revision is the project's, and was applied completely.
func (d *Deployer) wasApplied(r revision) bool {
	return d.labelled(r) && r.byDevloop() && r.status == release.StatusDeployed
}

// upToDate tells whether a revision was applied, and from the same inputs. Which images count is
// read from its own objects.
func (d *Deployer) upToDate(ctx context.Context, r revision, want desired) (bool, error) {
	if !d.wasApplied(r) {
		return false, nil
	}
	if len(want.Images.refs) == 0 {
		return r.labels[labelInputs] == want.inputs, nil
	}
	known, err := d.contentsOf(ctx, want.Release, r.version)
	if err != nil {
		return false, err
	}
	d.setImages(want.Release, known.images)
	return r.labels[labelInputs] == want.inputsWith(known.images), nil
}

// revisions returns the records of a release, the last one first.
func (d *Deployer) revisions(ctx context.Context, r Release) ([]revision, error) {
	list, err := d.cluster.Metadata.Resource(secrets).Namespace(r.Namespace).List(ctx,
		metav1.ListOptions{LabelSelector: "owner=helm,name=" + r.Name})
	if err != nil {
		return nil, fmt.Errorf("release %s: read Helm's records: %w", r.ID(), err)
	}
	var all []revision
	for _, record := range list.Items {
		version, err := strconv.Atoi(record.Labels["version"])
		if err != nil {
			continue // not Helm's
		}
		settled := record.CreationTimestamp
		for _, entry := range record.ManagedFields {
			if entry.Time != nil && settled.Before(entry.Time) {
				settled = *entry.Time
			}
		}
		all = append(all, revision{version, release.Status(record.Labels["status"]), record.Labels, record.CreationTimestamp,
			settled, versionOf(&record)})
	}
	slices.SortFunc(all, func(a, b revision) int { return b.version - a.version })
	return all, nil
}

// last returns the release's last revision, the zero value if there is none.
func (d *Deployer) last(ctx context.Context, r Release) (revision, error) {
	all, err := d.revisions(ctx, r)
	if err != nil || len(all) == 0 {
		return revision{}, err
	}
	return all[0], nil
}

// lastGood returns the version of the last revision whose pods came up, 0 if there is none, and the
// last revision.
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

// awaitOtherWriter waits while another process writes the release, and returns its last revision.
// What a devloop that was killed left pending counts as written.
func (d *Deployer) awaitOtherWriter(ctx context.Context, stage event.Stage, r Release, last revision) (revision,
	error) {
	waitCtx, cancel := context.WithTimeoutCause(ctx, otherWriterTimeout, errOtherWriter)
	defer cancel()
	for reported := false; last.status.IsPending() && !d.abandoned(r, last); reported = true {
		if !reported {
			stage.Warn("waiting for another process that is writing the release", nil, "release", event.Name(r.Name),
				"status", last.status.String(), "revision", last.version)
		}
		if err := sleep(waitCtx, otherWriterInterval); err != nil {
			if errors.Is(err, errOtherWriter) {
				repair := "rollback"
				if last.status == release.StatusPendingInstall {
					repair = "uninstall"
				}
				err = fmt.Errorf("release %s: revision %d is %s: another process has been writing it for more than %s",
					r.ID(), last.version, last.status, otherWriterTimeout)
				err = event.WithHint(err, fmt.Sprintf("if none is at work any more: helm %s %s -n %s", repair, r.Name, r.Namespace))
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

var errOtherWriter = errors.New("another process is writing the release")

// abandoned tells whether a pending revision was left by a devloop that was killed: the journal's
// lock keeps a second one out, so no process is writing it.
func (d *Deployer) abandoned(r Release, last revision) bool {
	return d.owns(r, last) && (last.byDevloop() || d.journal.Has(journal.Revision, revisionID(r, last.version)))
}

func revisionID(r Release, version int) string { return r.ID() + "@" + strconv.Itoa(version) }

// setLabel sets a label of a revision's record, or removes it (nil).
func (d *Deployer) setLabel(ctx context.Context, r Release, version int, label string, value any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{label: value}}})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("sh.helm.release.v1.%s.v%d", r.Name, version) // storage.makeKey
	_, err = d.cluster.Metadata.Resource(secrets).Namespace(r.Namespace).Patch(ctx, name, types.MergePatchType, patch,
		metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("release %s: mark revision %d: %w", r.ID(), version, err)
	}
	return nil
}

// DeployedValues returns the scalar values, as text, that the last revisions of the releases were
// made with, whatever the files hold by now.
func (d *Deployer) DeployedValues(ctx context.Context, releases []Release) (texts []string, err error) {
	for _, r := range releases {
		last, err := d.last(ctx, r)
		if err != nil {
			return nil, err
		}
		if !last.exists() {
			continue
		}
		record, err := d.record(ctx, r, last.version)
		if err != nil {
			return nil, err
		}
		texts = append(texts, leaves(record.Config)...)
	}
	return texts, nil
}

// record reads a revision in full, the chart included: prefer revisions where that is enough.
func (d *Deployer) record(ctx context.Context, r Release, version int) (*release.Release, error) {
	helm, err := d.helm(ctx, r.Namespace)
	if err != nil {
		return nil, err
	}
	record, err := helm.Releases.Get(r.Name, version)
	if err != nil {
		return nil, fmt.Errorf("release %s: read Helm's record of revision %d: %w", r.ID(), version, err)
	}
	return record, nil
}

// knownRecords are all records of a release. To unpack them takes long, as each holds the whole
// chart.
type knownRecords struct {
	records []*release.Release
	of      []revision // what they are the records of
}

// readRecords reads all records of a release.
func (d *Deployer) readRecords(ctx context.Context, r Release) (all knownRecords, err error) {
	if all.of, err = d.revisions(ctx, r); err != nil || len(all.of) == 0 {
		return knownRecords{}, err
	}
	helm, err := d.helm(ctx, r.Namespace)
	if err != nil {
		return knownRecords{}, err
	}
	all.records, err = helm.Releases.History(r.Name)
	switch {
	case errors.Is(err, driver.ErrReleaseNotFound): // deleted meanwhile
		return knownRecords{}, nil
	case err != nil:
		return knownRecords{}, fmt.Errorf("release %s: read Helm's records: %w", r.ID(), err)
	}
	return all, nil
}

// areOf tells whether they are the records of a release whose revisions these are now.
func (k knownRecords) areOf(now []revision) bool {
	return len(k.records) > 0 &&
		slices.EqualFunc(k.of, now, func(a, b revision) bool { return a.record == b.record })
}

// permissions is the part of pkg/journal that permits deletion.
type permissions interface {
	Record(kind journal.Kind, name string) error
	Forget(kind journal.Kind, name string) error
	Has(kind journal.Kind, name string) bool
	Names(kind journal.Kind) []string // oldest first
}

// recordRelease permits the deletion of a release, from this folder.
func (d *Deployer) recordRelease(r Release) error {
	// first: after a crash, a release without a folder would be any folder's
	if err := d.recordFolder(journal.Release, r.ID()); err != nil {
		return err
	}
	return d.journal.Record(journal.Release, r.ID())
}

// forgetRelease removes the journal's entries of a release and its revisions.
func (d *Deployer) forgetRelease(r Release) error {
	errs := []error{d.forgetEntry(journal.Release, r.ID())}
	for _, id := range d.journal.Names(journal.Revision) {
		if strings.HasPrefix(id, r.ID()+"@") {
			errs = append(errs, d.journal.Forget(journal.Revision, id))
		}
	}
	return errors.Join(errs...)
}

// recordUID records which object of a name devloop made: the name alone would permit the deletion
// of someone else's successor.
func (d *Deployer) recordUID(kind journal.Kind, name string, uid types.UID) error {
	return d.recordFact(journal.UID, kind, name, string(uid))
}

// matchesUID tells whether a live object can be the one that devloop made. Earlier devloops did not
// record UIDs.
func (d *Deployer) matchesUID(kind journal.Kind, name string, uid types.UID) bool {
	recorded := d.facts(journal.UID, kind, name)
	return len(recorded) == 0 || slices.Contains(recorded, string(uid))
}

// recordFolder records from which folder's devloop.yaml a thing was made: another folder may have a
// project of the same name, and so the same journal.
func (d *Deployer) recordFolder(kind journal.Kind, name string) error {
	if d.folder == "" {
		return nil
	}
	return d.recordFact(journal.Folder, kind, name, d.folder)
}

// otherFolder returns the folder that a thing was made from, if that is known and not this one.
func (d *Deployer) otherFolder(kind journal.Kind, name string) (folder string, elsewhere bool) {
	recorded := d.facts(journal.Folder, kind, name)
	if len(recorded) == 0 || slices.Contains(recorded, d.folder) {
		return "", false
	}
	return recorded[len(recorded)-1], true
}

// forgetEntry removes an entry, with its facts.
func (d *Deployer) forgetEntry(kind journal.Kind, name string) error {
	errs := []error{d.journal.Forget(kind, name)}
	for _, about := range []journal.Kind{journal.UID, journal.Folder} {
		for _, value := range d.facts(about, kind, name) {
			errs = append(errs, d.journal.Forget(about, factPrefix(kind, name)+value))
		}
	}
	return errors.Join(errs...)
}

// recordFact records a fact about an entry, about being journal.UID or journal.Folder. It replaces
// an earlier value.
func (d *Deployer) recordFact(about, kind journal.Kind, name, value string) error {
	before := d.facts(about, kind, name)
	if slices.Equal(before, []string{value}) {
		return nil
	}
	errs := []error{d.journal.Record(about, factPrefix(kind, name)+value)}
	for _, old := range before {
		if old != value {
			errs = append(errs, d.journal.Forget(about, factPrefix(kind, name)+old))
		}
	}
	return errors.Join(errs...)
}

// facts returns the values of a fact, the newest last: one, unless a crash left two.
func (d *Deployer) facts(about, kind journal.Kind, name string) (values []string) {
	for _, entry := range d.journal.Names(about) {
		if value, found := strings.CutPrefix(entry, factPrefix(kind, name)); found {
			values = append(values, value)
		}
	}
	return values
}

func factPrefix(kind journal.Kind, name string) string { return string(kind) + " " + name + "@" }
