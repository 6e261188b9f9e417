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
			if now := tried() - before; now != test.tries || a.server.data("default", "web")["text"] != test.want {
				t.Errorf("tried %d times, not %d, and it has %q", now, test.tries, a.server.data("default", "web")["text"])
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
