package deploy

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgotesting "k8s.io/client-go/testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// drifting is a cluster that holds a release, whose only object is a config map.
type drifting struct {
	*live
	release  Release
	last     revision
	conflict bool     // the next write conflicts with another one
	refusal  error    // of any write
	webhook  string   // sets the text, whatever is written
	writes   []string // "dry run", "update", "create"
}

func newDrifting(t *testing.T, editions ...edition) *drifting {
	t.Helper()
	d := &drifting{release: Release{Name: "web", Namespace: "demo"}, last: revision{version: 1}}
	var there []*unstructured.Unstructured
	if len(editions) > 0 {
		object := written(t, editions...)
		object.SetNamespace("demo")
		object.SetUID("uid")
		object.SetResourceVersion("1")
		there = append(there, object)
	}
	d.live = cluster(t, permits{}, there...)
	d.remember(d.release, &release.Release{Version: 1, Manifest: named})
	// The fake one stores what a dry run writes.
	d.dynamic.PrependReactor("update", "*", func(a clientgotesting.Action) (bool, runtime.Object, error) {
		update := a.(clientgotesting.UpdateActionImpl)
		object := update.Object.(*unstructured.Unstructured)
		if d.webhook != "" {
			_ = unstructured.SetNestedField(object.Object, d.webhook, "data", "text")
		}
		if d.refusal != nil {
			return true, nil, d.refusal
		}
		if len(update.UpdateOptions.DryRun) > 0 {
			d.writes = append(d.writes, "dry run")
			return true, object, nil
		}
		if d.conflict {
			d.conflict = false
			return true, nil, apierrors.NewConflict(configMaps.GroupResource(), object.GetName(), nil)
		}
		d.writes = append(d.writes, "update")
		return false, nil, nil
	})
	d.dynamic.PrependReactor("create", "*", func(clientgotesting.Action) (bool, runtime.Object, error) {
		d.writes = append(d.writes, "create")
		return false, nil, nil
	})
	return d
}

// run looks for drift, puts it back, and returns what was found.
func (d *drifting) run(t *testing.T) ([]drift, error) {
	t.Helper()
	found, err := d.drifts(t.Context(), d.stage(), d.release, d.last)
	if err != nil {
		t.Fatal(err)
	}
	return found, d.restore(t.Context(), d.stage(), d.release, d.last, found)
}

func (d *drifting) data(t *testing.T) map[string]string {
	t.Helper()
	object, err := d.dynamic.Resource(configMaps).Namespace("demo").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data, _, _ := unstructured.NestedStringMap(object.Object, "data")
	return data
}

const (
	named = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {text: one}\n"
	ours  = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, labels: {app.kubernetes.io/managed-by: Helm}, " +
		"annotations: {meta.helm.sh/release-name: web, meta.helm.sh/release-namespace: demo}}\n"
)

func TestDrift(t *testing.T) {
	own := edition{"devloop", "", ours + "data: {text: one}"}
	theirs := strings.NewReplacer("release-name: web", "release-name: other").Replace(ours)
	for name, test := range map[string]struct {
		editions []edition
		before   func(*drifting)
		writes   string
		log, err string
		data     map[string]string
	}{
		"nothing": {[]edition{own}, nil, "", "", "", map[string]string{"text": "one"}},
		"changed by hand": {[]edition{own, {"kubectl-edit", "", ours + "data: {text: two, more: x}"}}, nil, "dry run update",
			"changed by hand, reverted [release web object configmap/web changes .data.more added, .data.text one → two " +
				"by kubectl-edit at ", "", map[string]string{"text": "one"}},
		"it changes meanwhile": {[]edition{own, {"kubectl-edit", "", ours + "data: {text: two}"}},
			func(d *drifting) { d.conflict = true }, "dry run dry run update", "changed by hand", "",
			map[string]string{"text": "one"}},
		"changed by a webhook, too": {[]edition{own, {"kubectl-edit", "", ours + "data: {text: two}"}},
			func(d *drifting) { d.webhook = "two" }, "dry run", "", "", map[string]string{"text": "two"}},
		"changed by another program": {[]edition{own, {"some-script", "", ours + "data: {text: two}"}}, nil, "dry run update",
			"changed by another program, reverted", "", map[string]string{"text": "one"}},
		"changed by hand, for good": {[]edition{own, {"kubectl-edit", "", ours + "data: {text: two}"}},
			func(d *drifting) { d.refusal = invalid("data", "no") }, "", "",
			"revert configmap/web: the API server rejects it (.data.text): ", map[string]string{"text": "two"}},
		"changed by another program, for good": {[]edition{own, {"some-script", "", ours + "data: {text: two}"}},
			func(d *drifting) { d.refusal = invalid("data", "no") }, "", "", "", map[string]string{"text": "two"}},
		"changed by another program, which a policy wants": {
			[]edition{own, {"some-script", "", ours + "data: {text: two}"}}, func(d *drifting) {
				d.refusal = apierrors.NewForbidden(configMaps.GroupResource(), "web", errors.New("it has to be two"))
			}, "", "", "", map[string]string{"text": "two"}},
		"changed by a hook": {[]edition{own, {"kubectl-edit", "", ours + "data: {text: two}"}}, func(d *drifting) {
			d.release.After = []Command{{}}
			d.last.settled = metav1.NewTime(time.Now().Add(time.Second))
		}, "", "", "", map[string]string{"text": "two"}},
		"deleted": {nil, nil, "create", "object was missing, recreated", "", map[string]string{"text": "one"}},
		"made by somebody else": {[]edition{{"kubectl-create", "", strings.Replace(named, "one", "two", 1)}}, nil,
			"dry run", "", "revert configmap/web: it differs from what was applied (.data.text)",
			map[string]string{"text": "two"}},
		"replaced by hand, without the marks": {[]edition{own,
			{"kubectl-replace", "", strings.Replace(named, "one", "two", 1)}},
			nil, "dry run update", ".data.text one → two", "", map[string]string{"text": "one"}},
		"made by somebody else, and equal": {[]edition{{"kubectl-create", "", named}}, nil, "", "", "",
			map[string]string{"text": "one"}},
		"of another release by now": {[]edition{{"helm", "", theirs + "data: {text: one}"},
			{"script", "", theirs + "data: {text: two}"}}, nil, "dry run", "another release owns it now", "",
			map[string]string{"text": "two"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDrifting(t, test.editions...)
			if test.before != nil {
				test.before(d)
			}
			_, err := d.run(t)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("it ends with %v", err)
			}
			if test.err != "" && event.Hint(err) == "" {
				t.Error("no hint")
			}
			if got := strings.Join(d.writes, " "); got != test.writes {
				t.Errorf("requests: %q, want %q", got, test.writes)
			}
			if log := d.log(); test.log == "" && log != "" || !strings.Contains(log, test.log) {
				t.Errorf("log:\n%s", log)
			}
			if got := d.data(t); !maps.Equal(got, test.data) {
				t.Errorf("it holds %v", got)
			}
		})
	}
}

// What is made again has Helm's marks, with which it is removed some day.
func TestDriftMadeAgain(t *testing.T) {
	d := newDrifting(t)
	if _, err := d.run(t); err != nil {
		t.Fatal(err)
	}
	object, err := d.dynamic.Resource(configMaps).Namespace("demo").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || !belongsTo(object, d.release) || object.GetLabels()[kube.LabelManagedBy] != "Helm" {
		t.Errorf("%v, %v", object, err)
	}
}

// An object in which nothing was found is not compared again until it changes.
func TestDriftIsLookedForOnce(t *testing.T) {
	d := newDrifting(t, edition{"devloop", "", ours + "data: {text: one}"},
		edition{"kubectl-edit", "", ours + "data: {text: two}"})
	d.webhook = "two"
	for range 3 {
		if found, err := d.run(t); err != nil || len(found) > 0 {
			t.Errorf("%v, %v", found, err)
		}
	}
	if !slices.Equal(d.writes, []string{"dry run"}) {
		t.Errorf("requests: %q", d.writes)
	}
}

// A program that sets a field again and again is a controller, whatever its name. A person is not.
func TestDriftThatComesBack(t *testing.T) {
	for manager, want := range map[string]string{"some-script": "two", "kubectl-edit": "one"} {
		d := newDrifting(t, edition{"devloop", "", ours + "data: {text: one}"})
		for i := range maxRestores + 2 {
			changed := written(t, edition{"devloop", "", ours + "data: {text: one}"},
				edition{manager, "", ours + "data: {text: two}"})
			changed.SetNamespace("demo")
			changed.SetResourceVersion(strings.Repeat("1", i+2))
			if err := d.dynamic.Tracker().Update(configMaps, changed, "demo"); err != nil {
				t.Fatal(err)
			}
			if _, err := d.run(t); err != nil {
				t.Fatal(err)
			}
		}
		if got := d.data(t)["text"]; got != want {
			t.Errorf("%s: it is %s in the end", manager, got)
		}
		said := strings.Count(d.log(), "it changes again each time it is reverted")
		if said != strings.Count(want, "two") {
			t.Errorf("%s: that it is left was said %d times:\n%s", manager, said, d.log())
		}
	}
}

// What the chart has by now is as it was set by hand, and not reverted.
func TestDriftThatTheChartTookOver(t *testing.T) {
	d := newDrifting(t, edition{"devloop", "", ours + "data: {text: one}"},
		edition{"kubectl-edit", "", ours + "data: {text: two, more: x}"})
	found, err := d.drifts(t.Context(), d.stage(), d.release, d.last)
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if left := d.withoutKept(t.Context(), found); len(left) != 0 {
		t.Errorf("nothing was reverted, but it says %s", left[0].text(nil))
	}
	found, _ = d.run(t)
	if left := d.withoutKept(t.Context(), found); len(left) != 1 {
		t.Errorf("it was reverted, but %v is said", left)
	}
}

// No hint deletes somebody's data.
func TestHintOfDriftThatStays(t *testing.T) {
	d := newDrifting(t)
	for kind, want := range map[string]bool{"ConfigMap": true, "PersistentVolumeClaim": false, "Namespace": false} {
		one := drift{object: object{kind: schema.GroupVersionKind{Version: "v1", Kind: kind}, namespace: "demo", name: "web"}}
		hint := d.recreateHint(one, "write the change into the chart")
		if strings.Contains(hint, "kubectl delete") != want {
			t.Errorf("%s: %s", kind, hint)
		}
	}
}
