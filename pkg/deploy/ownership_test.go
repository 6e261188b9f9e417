package deploy

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/release"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metadatafake "k8s.io/client-go/metadata/fake"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
)

// writes returns the modifying requests to a cluster.
func writes(client *metadatafake.FakeMetadataClient) (all []string) {
	for _, a := range client.Actions() {
		if !slices.Contains([]string{"get", "list"}, a.GetVerb()) {
			all = append(all, a.GetVerb()+" "+a.GetNamespace()+"/"+a.GetResource().Resource)
		}
	}
	return all
}

// The release has our project's label but is not in this journal: it belongs to someone who works
// on the same project elsewhere.
func TestReleaseOfAnotherUser(t *testing.T) {
	r := demoRelease
	r.Chart = chartFolder(t, demo)
	known := func() permits { return permits{journal.Release: {r.ID()}} }
	for _, test := range []struct {
		name    string
		project string // that the release's label names
		journal permits
		adopt   bool
		differs bool
		wantErr string // the error, "" if there is none
		hint    string
		ours    bool // afterwards
		good    bool // it was marked as up
	}{
		{name: "ours", project: "demo", journal: known(), ours: true, good: true},
		{name: "another user's", project: "demo", journal: permits{}},
		{name: "another user's, that differs", project: "demo", journal: permits{}, differs: true,
			wantErr: "release demo/web was made by a devloop of another user or machine: devloop's state folder here does not " +
				"know it", hint: "--adopt"},
		{name: "another user's, taken over", project: "demo", journal: permits{}, adopt: true, ours: true, good: true},
		{name: "another project's", project: "theirs", journal: permits{}, differs: true,
			wantErr: `was not made by devloop for the project "demo"`, hint: "--adopt"},
		{name: "another project's, in place of ours", project: "theirs", journal: known(), differs: true,
			wantErr: `was not made by devloop for the project "demo"`, hint: "--adopt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := records(t, test.journal)
			d.options.Adopt = test.adopt
			want, err := d.readInputs(t.Context(), event.Stage{}, r)
			if err != nil {
				t.Fatal(err)
			}
			inputs := want.inputs
			if test.differs {
				inputs = "of another chart"
			}
			client, ok := d.cluster.Metadata.(*metadatafake.FakeMetadataClient)
			if !ok {
				t.Fatal("no fake")
			}
			theirs := record(1, release.StatusDeployed, map[string]string{labelProject: test.project, labelRevision: "1",
				labelInputs: inputs})
			if err := client.Tracker().Create(secrets, theirs, "demo"); err != nil {
				t.Fatal(err)
			}
			d.revisionContents[revisionID(r, 1)] = contents{} // it names no objects

			_, err = d.apply(t.Context(), nil, r, begun(), true, time.Minute)
			if test.wantErr == "" && err != nil || test.wantErr != "" &&
				(err == nil || !strings.Contains(err.Error(), test.wantErr)) {
				t.Errorf("it ends with %v", err)
			}
			if hint := event.Hint(err); !strings.Contains(hint, test.hint) {
				t.Errorf("the hint is %q", hint)
			}
			last, err := d.last(t.Context(), r)
			if err != nil || d.owns(r, last) != test.ours || test.journal.Has(journal.Release, r.ID()) != (test.ours ||
				test.name == "another project's, in place of ours") {
				t.Errorf("ours afterwards: %t, %v, the journal has %v", d.owns(r, last), err, test.journal)
			}
			var patched []string
			if test.good {
				patched = []string{"patch demo/secrets"}
			}
			if got := writes(client); !slices.Equal(got, patched) {
				t.Errorf("written: %q, want %q", got, patched)
			}
		})
	}
}

// begun is an Apply that may write.
func begun() *around { return &around{beginning: func() error { return nil }} }

// Someone else creates the release while the commands before it run.
func TestReleaseThatSomeoneElseMakesMeanwhile(t *testing.T) {
	remembered := permits{}
	d := records(t, remembered)
	client, ok := d.cluster.Metadata.(*metadatafake.FakeMetadataClient)
	if !ok {
		t.Fatal("no fake")
	}
	theirs := record(1, release.StatusDeployed, map[string]string{labelProject: "demo", labelRevision: "1"})
	if err := client.Tracker().Create(secrets, theirs, "demo"); err != nil {
		t.Fatal(err)
	}
	want := desired{Release: demoRelease, around: begun()}
	err := d.claim(t.Context(), event.Stage{}, want, revision{})
	if err == nil || !strings.Contains(err.Error(), "another user or machine") ||
		remembered.Has(journal.Release, demoRelease.ID()) {
		t.Errorf("%v, the journal has %v", err, remembered)
	}
	if err := client.Tracker().Delete(secrets, "demo", theirs.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	err = d.claim(t.Context(), event.Stage{}, want, revision{})
	if err != nil || !remembered.Has(journal.Release, demoRelease.ID()) {
		t.Errorf("%v, the journal has %v", err, remembered)
	}
}

// A release of someone else is not rolled back.
func TestReleaseOfAnotherUserIsNotRolledBack(t *testing.T) {
	theirs := map[string]string{labelProject: "demo", labelRevision: "1", labelGood: "1"}
	d := records(t, permits{}, record(1, release.StatusSuperseded, theirs), record(2, release.StatusDeployed,
		map[string]string{labelProject: "demo", labelRevision: "2"}))
	err := d.rollback(event.Stage{}, demoRelease, errors.New("its pods do not come up"))
	if !strings.Contains(err.Error(), "it stays as it is: a devloop of another user or machine made it") {
		t.Error(err)
	}
	client, ok := d.cluster.Metadata.(*metadatafake.FakeMetadataClient)
	if !ok || len(writes(client)) > 0 {
		t.Errorf("written: %v", client.Actions())
	}
}

// Diff has no journal: a running devloop may have locked it.
func TestWhyDiffersNeedsNoJournal(t *testing.T) {
	d := New(nil, "demo", nil, Options{})
	ours := revision{version: 1, status: release.StatusDeployed, labels: map[string]string{labelProject: "demo",
		labelRevision: "1"}}
	if got := d.whyDiffers(Release{}, ours); got != "its chart, its values, its images or its commands differ" {
		t.Error(got)
	}
	theirs := revision{version: 1, status: release.StatusDeployed, labels: map[string]string{labelProject: "theirs"}}
	if got := d.whyDiffers(Release{}, theirs); got != "it was not made by devloop for this project" {
		t.Error(got)
	}
}
