package deploy

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/release"
	helmtime "helm.sh/helm/v3/pkg/time"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/journal"
)

func TestVolumeClaimsOfOthersStay(t *testing.T) {
	remembered := onDisk(t)
	l := cluster(t, remembered)
	installed := time.Date(2024, 1, 2, 3, 4, 5, 600_000_000, time.UTC)
	claim := func(name string, uid types.UID, app string, after time.Duration) {
		pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, UID: uid,
			Labels:            map[string]string{"app": app},
			CreationTimestamp: metav1.NewTime(installed.Truncate(time.Second).Add(after))}}
		if err := l.client.Tracker().Add(pvc); err != nil {
			t.Fatal(err)
		}
	}
	claim("data-db-0", "first", "db", 0) // in the same second, of which the API server writes the beginning
	claim("data-db-1", "made by hand", "", time.Second)
	claim("data-db-2", "third", "db", time.Second)
	claim("data-db-3", "older", "db", -time.Second)
	claim("data-db-4", "of an earlier install", "db", -time.Hour)
	claim("data-db-5", "older than an earlier install's was", "db", -time.Hour)
	for id, uid := range map[string]types.UID{"demo/data-db-4": "of an earlier install", "demo/data-db-5": "another"} {
		if err := errors.Join(remembered.Record(journal.Volume, id), l.recordUID(journal.Volume, id, uid)); err != nil {
			t.Fatal(err)
		}
	}
	manifest := "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec: {selector: {matchLabels: {app: " +
		"db}}, volumeClaimTemplates: [{metadata: {name: data}}]}\n"
	revision := &release.Release{Manifest: manifest, Info: &release.Info{FirstDeployed: helmtime.Time{Time: installed}}}
	if err := l.recordClaims(t.Context(), l.stage(), Release{Name: "web", Namespace: "demo"}, []*release.Release{revision,
		revision}); err != nil {
		t.Fatal(err)
	}
	for _, older := range []string{"demo/data-db-3", "demo/data-db-5"} {
		if log := l.log(); strings.Count(log, "before the release [claim "+older+"]") != 1 {
			t.Errorf("of %s it says\n%s", older, log)
		}
	}
	volumes := corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	if err := l.client.Tracker().Delete(volumes, "demo", "data-db-2"); err != nil {
		t.Fatal(err)
	}
	claim("data-db-2", "another", "db", time.Minute)
	if err := l.removeClaims(t.Context(), l.stage(), true); err != nil {
		t.Fatal(err)
	}
	got, want := deletions(l.client.Actions()), []string{"demo/data-db-0 UID first",
		"demo/data-db-4 UID of an earlier install"}
	if !slices.Equal(got, want) || len(remembered.Names(journal.Volume)) > 0 {
		t.Errorf("deleted %q, the journal has %q", got, remembered.Names(journal.Volume))
	}
}
