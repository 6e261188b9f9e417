package deploy

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"helm.sh/helm/v3/pkg/release"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metadatafake "k8s.io/client-go/metadata/fake"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

// record returns the metadata of Helm's record of a revision.
func record(version int, status release.Status, labels map[string]string) *metav1.PartialObjectMetadata {
	all := map[string]string{"owner": "helm", "name": "web", "version": strconv.Itoa(version), "status": status.String()}
	for key, value := range labels {
		all[key] = value
	}
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "sh.helm.release.v1.web.v" + strconv.Itoa(version),
			Labels: all}}
}

// records returns a deployer for a cluster with these records.
func records(t *testing.T, journal permits, all ...*metav1.PartialObjectMetadata) *Deployer {
	t.Helper()
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client := metadatafake.NewSimpleMetadataClient(scheme)
	for _, one := range all {
		if err := client.Tracker().Create(secrets, one, "demo"); err != nil {
			t.Fatal(err)
		}
	}
	return New(&kube.Cluster{Metadata: client}, "demo", journal, Options{})
}

func TestRevisions(t *testing.T) {
	ours := map[string]string{labelProject: "demo", labelInputs: "abc", labelRevision: "10", labelGood: "10"}
	d := records(t, permits{}, record(9, release.StatusSuperseded, map[string]string{labelProject: "demo",
		labelRevision: "9", labelGood: "9"}),
		record(10, release.StatusDeployed, ours), record(8, release.StatusSuperseded, nil))
	last, err := d.last(t.Context(), demoRelease)
	if err != nil || last.version != 10 {
		t.Errorf("%+v, %v", last, err)
	}
	if same, err := d.upToDate(t.Context(), last, desired{inputs: "abc"}); err != nil || !same {
		t.Errorf("it differs: %v", err)
	}
	if good, now, err := d.lastGood(t.Context(), demoRelease); err != nil || good != 10 || now.version != 10 {
		t.Errorf("the last good revision is %d of %d, %v", good, now.version, err)
	}
	inherited := map[string]string{labelProject: "demo", labelRevision: "10", labelGood: "10"} // by who upgrades by hand
	d = records(t, permits{}, record(9, release.StatusSuperseded, map[string]string{labelGood: "9"}),
		record(11, release.StatusDeployed, inherited))
	if good, now, err := d.lastGood(t.Context(), demoRelease); err != nil || good != 9 || now.version != 11 {
		t.Errorf("the last good revision is %d of %d, %v", good, now.version, err)
	}
	if none, err := d.last(t.Context(), Release{Name: "other", Namespace: "demo"}); err != nil || none.exists() {
		t.Errorf("%+v, %v", none, err)
	}
	for what, r := range map[string]revision{
		"another project's": {version: 10, status: release.StatusDeployed,
			labels: map[string]string{labelProject: "other", labelInputs: "abc", labelRevision: "10"}},
		"failed":                         {version: 10, status: release.StatusFailed, labels: ours},
		"made by hand after one of ours": {version: 11, status: release.StatusDeployed, labels: ours},
		"without labels":                 {version: 10, status: release.StatusDeployed, labels: nil},
		"ours, and made of something else": {version: 10, status: release.StatusDeployed,
			labels: map[string]string{labelProject: "demo", labelInputs: "abd", labelRevision: "10"}},
	} {
		if same, err := d.upToDate(t.Context(), r, desired{inputs: "abc"}); err != nil || same {
			t.Errorf("a revision that is %s counts as unchanged: %v", what, err)
		}
	}
}

// A pending release that a killed devloop left is taken over; another process's is waited for.
func TestReleaseOfAnotherWriter(t *testing.T) {
	ours := map[string]string{labelProject: "demo", labelRevision: "3"}
	for _, test := range []struct {
		name    string
		labels  map[string]string
		journal permits
		waits   bool
	}{
		{"ours", ours, permits{journal.Release: {"demo/web"}}, false},
		{"another user's", ours, permits{}, true},
		{"a rollback of ours", map[string]string{labelProject: "demo", labelRevision: "1"},
			permits{journal.Release: {"demo/web"}, journal.Revision: {"demo/web@3"}}, false},
		{"helm upgrade by hand on ours", map[string]string{labelProject: "demo", labelRevision: "2"},
			permits{journal.Release: {"demo/web"}, journal.Revision: {"demo/web@2"}}, true},
		{"another project's", map[string]string{labelProject: "other", labelRevision: "3"},
			permits{journal.Release: {"demo/web"}, journal.Revision: {"demo/web@3"}}, true},
		{"nobody's", nil, permits{}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := records(t, test.journal, record(3, release.StatusPendingUpgrade, test.labels))
				begin := time.Now()
				last, err := d.last(t.Context(), demoRelease)
				if err != nil {
					t.Fatal(err)
				}
				last, err = d.awaitOtherWriter(t.Context(), event.Stage{}, demoRelease, last)
				if !test.waits {
					if err != nil || last.version != 3 || time.Since(begin) > 0 {
						t.Errorf("%+v, %v after %s", last, err, time.Since(begin))
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), "revision 3 is pending-upgrade") || event.Hint(err) == "" ||
					time.Since(begin) < otherWriterTimeout {
					t.Errorf("%v after %s", err, time.Since(begin))
				}
			})
		})
	}
	t.Run("until they are done", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := records(t, permits{}, record(3, release.StatusPendingUpgrade, nil))
			time.AfterFunc(time.Minute, func() {
				if err := d.cluster.Metadata.(*metadatafake.FakeMetadataClient).Tracker().Update(secrets,
					record(3, release.StatusDeployed, nil), "demo"); err != nil {
					t.Error(err)
				}
			})
			last, err := d.last(t.Context(), demoRelease)
			if err != nil {
				t.Fatal(err)
			}
			last, err = d.awaitOtherWriter(t.Context(), event.Stage{}, demoRelease, last)
			if err != nil || last.status != release.StatusDeployed {
				t.Errorf("%+v, %v", last, err)
			}
		})
	})
}

func TestAbandoned(t *testing.T) {
	r := Release{Name: "web", Namespace: "demo"}
	for what, test := range map[string]struct {
		project, revision string // that the record's labels name
		journal           permits
		want              bool
	}{
		"ours":                           {"demo", "3", permits{journal.Release: {"demo/web"}}, true},
		"another user's":                 {"demo", "3", permits{}, false},
		"ours, with an earlier's labels": {"demo", "2", permits{journal.Release: {"demo/web"}}, false},
		"a rollback of ours": {"demo", "2", permits{journal.Release: {"demo/web"},
			journal.Revision: {"demo/web@3"}}, true},
		"another project's": {"theirs", "3", permits{journal.Release: {"demo/web"},
			journal.Revision: {"demo/web@3"}}, false},
		"someone's by hand": {"", "", permits{}, false},
	} {
		last := revision{version: 3, status: release.StatusPendingUpgrade,
			labels: map[string]string{labelProject: test.project, labelRevision: test.revision}}
		if got := New(nil, "demo", test.journal, Options{}).abandoned(r, last); got != test.want {
			t.Errorf("%s counts as abandoned: %v", what, got)
		}
	}
}

// What was read of the records before a write counts, unless somebody has changed them since.
func TestRecordsAreReadAgainOnlyIfTheyChanged(t *testing.T) {
	a := newApplying(t)
	r := Release{Name: "web", Namespace: "default", Chart: a.chart(nil)}
	a.releases = []Release{r}
	if _, err := a.apply(allowed); err != nil {
		t.Fatal(err)
	}
	d := a.deployer()
	known, err := d.readRecords(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	read := func() (label string, whole int) {
		t.Helper()
		a.server.mu.Lock()
		a.server.requests = nil
		a.server.mu.Unlock()
		_, history, err := d.helmFor(t.Context(), event.Stage{}, r, known, &writeLog{})
		if err != nil || len(history) != 1 {
			t.Fatalf("%d records, %v", len(history), err)
		}
		a.server.mu.Lock()
		defer a.server.mu.Unlock()
		for _, request := range a.server.requests {
			if strings.Contains(request, "/secrets") && !strings.HasSuffix(request, metadataOnly) {
				whole++
			}
		}
		return history[0].Labels["a"], whole
	}
	if label, whole := read(); label != "" || whole != 0 {
		t.Errorf("the label is %q, and %d requests were for whole records", label, whole)
	}
	if err := d.setLabel(t.Context(), r, 1, "a", "b"); err != nil {
		t.Fatal(err)
	}
	if label, whole := read(); label != "b" || whole != 1 {
		t.Errorf("the label is %q, and %d requests were for whole records", label, whole)
	}
}
