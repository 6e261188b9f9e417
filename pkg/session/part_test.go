package session

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/journal"
)

func parsed(t *testing.T, texts ...string) (objects []*unstructured.Unstructured) {
	t.Helper()
	for _, text := range texts {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, u)
	}
	return objects
}

func TestWhatBelongsToAPart(t *testing.T) {
	part := partObjects{
		config: &config.Config{
			Releases: []config.Release{{Name: "web", Namespace: "shop"}, {Name: "db", Namespace: "data"}},
			Others:   []config.Release{{Name: "api", Namespace: "shop"}},
		},
		objects: parsed(t,
			"{kind: Service, metadata: {name: web, namespace: shop}}",
			"{kind: Deployment, metadata: {name: web, namespace: shop, labels: {app: web}}, "+
				"spec: {template: {metadata: {labels: {tier: front}}}}}",
			"{kind: StatefulSet, metadata: {name: db, namespace: data}}",
			"{kind: Pod, metadata: {name: job, namespace: other, labels: {app: job}}}"),
		images: []string{"web"},
	}
	unsure := part
	unsure.unsure = true
	for _, test := range []struct {
		about        string
		forward      config.Forward
		is, ifUnsure bool
	}{
		{"a service of the part", config.Forward{Service: "web", Namespace: "shop"}, true, true},
		{"one of another release", config.Forward{Service: "api", Namespace: "shop"}, false, true},
		{"one of that name elsewhere", config.Forward{Service: "web", Namespace: "data"}, true, true}, // made by an operator
		{"a deployment", config.Forward{Deployment: "web", Namespace: "shop"}, true, true},
		{"another kind", config.Forward{StatefulSet: "web", Namespace: "shop"}, false, true},
		{"a pod of a stateful set", config.Forward{Pod: "db-0", Namespace: "data"}, true, true},
		{"pods", config.Forward{Selector: "tier in (front)", Namespace: "shop"}, true, true},
		{"other pods", config.Forward{Selector: "tier=back", Namespace: "shop"}, false, true},
		{"a pod in another namespace", config.Forward{Selector: "app=job", Namespace: "other"}, true, true},
	} {
		if got := part.hasForward(test.forward); got != test.is {
			t.Errorf("%s: %v", test.about, got)
		}
		if got := unsure.hasForward(test.forward); got != test.ifUnsure {
			t.Errorf("%s, before the chart renders: %v", test.about, got)
		}
	}
	if !part.hasHealth(config.Health{Deployment: "app=web", Namespace: "shop"}) ||
		part.hasHealth(config.Health{Deployment: "app=api", Namespace: "shop"}) {
		t.Error("health")
	}
	if !part.hasImage("web") || part.hasImage("api") || !unsure.hasImage("api") {
		t.Error("images")
	}
}

// A release that stays keeps what it depends on, directly or not.
func TestNeededBy(t *testing.T) {
	j, err := journal.Open(t.TempDir(), "uid", "demo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	of := func(name string, dependsOn ...string) config.Release {
		return config.Release{Name: name, Namespace: "shop", DependsOn: dependsOn}
	}
	s := &Session{journal: j}
	s.config.Store(&config.Config{
		Part:     []string{"web"},
		Releases: []config.Release{of("db"), of("cache"), of("web", "db", "cache")},
		Others:   []config.Release{of("api", "web"), of("mail", "cache"), of("shop", "api")},
	})
	needed := func(going ...string) []string { return s.NeededBy(going) }
	stays := func() []string {
		return s.withoutNeeded(s.options.Sink.Stage("cleanup"), []string{"db", "cache", "web"})
	}
	if got := needed("db", "cache"); len(got) > 0 {
		t.Errorf("nothing is deployed, but %v", got)
	}
	for _, name := range []string{"db", "cache", "web", "mail"} {
		if err := j.Record(journal.Release, "shop/"+name); err != nil {
			t.Fatal(err)
		}
	}
	if got := needed("db"); !slices.Equal(got, []string{"web"}) {
		t.Errorf("%v", got)
	}
	if got := needed("db", "cache", "web"); !slices.Equal(got, []string{"mail"}) {
		t.Errorf("%v", got)
	}
	if got := stays(); !slices.Equal(got, []string{"db", "web"}) {
		t.Errorf("%v go", got)
	}
	if err := j.Record(journal.Release, "shop/api"); err != nil {
		t.Fatal(err)
	}
	if got := needed("db"); !slices.Equal(got, []string{"web", "api"}) {
		t.Errorf("%v", got)
	}
	if got := stays(); len(got) > 0 {
		t.Errorf("%v go", got)
	}
}
