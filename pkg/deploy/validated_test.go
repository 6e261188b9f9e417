package deploy

import (
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// What Validate has rendered and tried, the Apply after it does not render and try again, unless
// something may have changed meanwhile.
func TestApplyAfterValidate(t *testing.T) {
	for says, test := range map[string]struct {
		between func(*applying, *Deployer) // Validate and Apply
		tries   int
		want    string // in the object
	}{
		"at once": {func(*applying, *Deployer) {}, 1, "two"},
		"with other values": {func(a *applying, _ *Deployer) {
			a.releases[0].InlineValues = map[string]any{"text": "three"}
		}, 2, "three"},
		"after another process has written the release": {func(a *applying, _ *Deployer) {
			other := *a
			other.releases = []Release{a.releases[0]}
			other.releases[0].InlineValues = map[string]any{"text": "someone else's"}
			if _, err := other.apply(allowed); err != nil {
				a.t.Fatal(err)
			}
		}, 3, "two"}, // the other one has tried it as well
		"with a command before it": {func(a *applying, _ *Deployer) {
			a.commands.Before = []Command{shell("true")}
		}, 2, "two"},
		"a second time": {func(a *applying, d *Deployer) {
			err := d.Apply(a.t.Context(), func(event.Event) {}, a.releases, a.commands, time.Minute, allowed)
			if err != nil {
				a.t.Fatal(err)
			}
			a.releases[0].InlineValues = map[string]any{"text": "three"}
		}, 2, "three"},
	} {
		t.Run(says, func(t *testing.T) {
			a := newApplying(t)
			a.releases = []Release{{Name: "web", Namespace: "default", InlineValues: map[string]any{"text": "one"},
				Chart: a.chart(map[string]string{"templates/web.yaml": configYAML})}}
			if _, err := a.apply(allowed); err != nil {
				t.Fatal(err)
			}
			tried := func() (n int) {
				a.server.mu.Lock()
				defer a.server.mu.Unlock()
				for _, request := range a.server.requests {
					if strings.HasPrefix(request, "PATCH /api/v1/namespaces/default/configmaps/web?") &&
						strings.Contains(request, "dryRun=All") {
						n++
					}
				}
				return n
			}
			before := tried()
			d, quiet := a.deployer(), event.Sink(func(event.Event) {})
			a.releases[0].InlineValues = map[string]any{"text": "two"}
			if err := d.Validate(t.Context(), quiet, a.releases); err != nil {
				t.Fatal(err)
			}
			test.between(a, d)
			if err := d.Apply(t.Context(), quiet, a.releases, a.commands, time.Minute, allowed); err != nil {
				t.Fatal(err)
			}
			if now := tried() - before; now != test.tries || a.server.text() != test.want {
				t.Errorf("tried %d times, not %d, and it has %q", now, test.tries, a.server.text())
			}
		})
	}
}

// Which images a release names is known after an Apply, whoever has rendered it.
func TestImagesAfterValidateAndApply(t *testing.T) {
	a := newApplying(t)
	a.releases = []Release{{Name: "web", Namespace: "default", Chart: a.chart(map[string]string{"crds/crd.yaml": crdYAML,
		"templates/gadget.yaml": gadgetYAML + "spec: {containers: [{name: web, image: web}]}\n"})}}
	d, quiet := a.deployer(), event.Sink(func(event.Event) {})
	for _, ref := range []string{"web:1", "web:2"} {
		a.releases[0].Images = NewImages(map[string]string{"web": ref})
		err := d.Validate(t.Context(), quiet, a.releases)
		if err == nil {
			err = d.Apply(t.Context(), quiet, a.releases, a.commands, time.Minute, allowed)
		}
		if err != nil {
			t.Fatal(err)
		}
		if images := d.ImagesOf(a.releases[0].ID(), []string{"web"}); len(images) != 1 || images[0].Image != ref {
			t.Errorf("%s is written, and known are %+v", ref, images)
		}
	}
}

// A chart's CRDs, of which there may be dozens, are read by Validate, and not again by the Apply
// after it.
func TestCRDsAfterValidate(t *testing.T) {
	a := newApplying(t)
	a.releases = []Release{{Name: "web", Namespace: "default", InlineValues: map[string]any{"text": "one"},
		Chart: a.chart(map[string]string{"crds/crd.yaml": crdYAML, "templates/web.yaml": configYAML})}}
	d, quiet := a.deployer(), event.Sink(func(event.Event) {})
	const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets.example.com"
	requests := func() (n int) {
		a.server.mu.Lock()
		defer a.server.mu.Unlock()
		for _, request := range a.server.requests {
			if strings.Contains(request, path) {
				n++
			}
		}
		return n
	}
	save := func(text string, validate bool) (read int) {
		t.Helper()
		a.releases[0].InlineValues = map[string]any{"text": text}
		if validate {
			if err := d.Validate(t.Context(), quiet, a.releases); err != nil {
				t.Fatal(err)
			}
		}
		before := requests()
		if err := d.Apply(t.Context(), quiet, a.releases, a.commands, time.Minute, allowed); err != nil {
			t.Fatal(err)
		}
		if got := a.server.text(); got != text {
			t.Errorf("the release has %q, not %q", got, text)
		}
		return requests() - before
	}
	save("one", true)
	save("two", true)
	if n := save("three", true); n != 0 {
		t.Errorf("%d requests for a CRD that Validate has just read", n)
	}
	if n := save("four", false); n == 0 {
		t.Error("an Apply without Validate did not read the CRD")
	}
	a.server.mu.Lock()
	byHand := a.server.objects[path].DeepCopy()
	byHand.Object["spec"].(map[string]any)["scope"] = "Cluster"
	a.server.put(byHand, path)
	a.server.mu.Unlock()
	save("five", true)
	a.server.mu.Lock()
	defer a.server.mu.Unlock()
	if scope := a.server.objects[path].Object["spec"].(map[string]any)["scope"]; scope != "Namespaced" {
		t.Errorf("the CRD that was changed by hand has scope %v", scope)
	}
}

// Two charts that have the same CRD with other contents: the release that is written last decides,
// whatever Validate has read.
func TestCRDOfTwoCharts(t *testing.T) {
	server, cluster := newAPIServer(t)
	d := New(cluster, "demo", onDisk(t), Options{})
	const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.test"
	apply := func(r Release, manifest, scope string) {
		t.Helper()
		if err := d.applyCRDs(t.Context(), event.Stage{}, r, manifestObjects(manifest), &writeLog{}); err != nil {
			t.Fatal(err)
		}
		server.mu.Lock()
		defer server.mu.Unlock()
		if got := server.objects[path].Object["spec"].(map[string]any)["scope"]; got != scope {
			t.Errorf("after release %s, the scope is %v, not %s", r.Name, got, scope)
		}
	}
	web, api := Release{Name: "web", Namespace: "default"}, Release{Name: "api", Namespace: "default"}
	wide := strings.Replace(thing, "scope: Namespaced", "scope: Cluster", 1)
	apply(web, thing, "Namespaced")
	for _, manifest := range []string{wide, thing} { // as Validate does
		if _, err := d.try(t.Context(), attempt{Release: web, crds: manifestObjects(manifest)}); err != nil {
			t.Fatal(err)
		}
	}
	apply(api, wide, "Cluster")
	apply(web, thing, "Namespaced")
}
