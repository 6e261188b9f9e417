package deploy

import (
	"maps"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

// withoutCluster is a deployer that asks nobody. Config maps lie in namespaces, roles do not.
func withoutCluster(adopt bool) *Deployer {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
		meta.RESTScopeRoot)
	return &Deployer{cluster: &kube.Cluster{Mapper: neverReset{mapper}}, options: Options{Adopt: adopt}, folder: "/here",
		journal: permits{journal.Release: {"one/a", "two/b", "one/before", "one/elsewhere"},
			journal.Folder: {"release one/elsewhere@/there"}}}
}

const (
	settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: one}\n"
	role     = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: role}\n"
)

func TestObjectsMoveBetweenReleases(t *testing.T) {
	a, b := Release{Name: "a", Namespace: "one"}, Release{Name: "b", Namespace: "two"}
	named := func(d *Deployer, r Release, text string) map[string]ownObject {
		all := map[string]ownObject{}
		for _, o := range decodeObjects("k8s/a.yaml:1", text) {
			named := o.in(r.Namespace)
			all[d.liveID(named)] = ownObject{named, o.file}
		}
		return all
	}
	for name, test := range map[string]struct {
		text   string
		owner  string
		inA    string // that the release a names, "-" if that is not known
		moves  bool
		shared bool
	}{
		"from one that gives it up":           {settings, "one/a", "", true, false},
		"without a namespace":                 {role, "one/a", "", true, false},
		"from one that is not known":          {settings, "one/a", "-", false, false},
		"from one that keeps it":              {settings, "one/a", settings, false, true},
		"kept, without a namespace":           {role, "one/a", role, false, true},
		"from one that is configured no more": {settings, "one/before", "", true, false},
		"from one of another folder":          {settings, "one/elsewhere", "", false, false},
		"from one of others":                  {settings, "their/own", "", false, false},
		"from nobody":                         {settings, "", "", false, false},
	} {
		d := withoutCluster(false)
		object := decodeObjects("k8s/b.yaml:7", test.text)[0]
		found := []validation{{objects: named(d, a, test.inA)},
			{objects: named(d, b, test.text), foreign: []foreignObject{{object, test.owner}}}}
		if test.inA == "-" {
			found[0].objects = nil
		}
		errs := d.compareReleases([]Release{a, b}, found)
		if (errs[1] != nil) != test.shared || errs[0] != nil || test.shared && !strings.Contains(errs[1].Error(),
			"both in the release one/a (k8s/a.yaml:1) and in the release two/b (k8s/a.yaml:1)") {
			t.Errorf("%s: %v", name, errs)
		}
		err := d.mayTakeOver(b, found[1].foreign)
		if (err == nil) != test.moves {
			t.Errorf("%s: taken over: %v", name, err)
		}
		gives := d.movesFrom(a)
		if gives(object.in("one")) != test.moves || d.movesFrom(b)(object.in("two")) {
			t.Errorf("%s: given up: %v", name, d.moves)
		}
		if len(d.compareReleases(nil, nil)) > 0 || gives(object.in("one")) {
			t.Errorf("%s: it moves in the next run, too: %v", name, maps.Clone(d.moves))
		}
	}
}

func TestObjectsOfNobodyAreAdopted(t *testing.T) {
	r := Release{Name: "a", Namespace: "one"}
	objects := func(n int, owner string) (all []foreignObject) {
		for range n {
			all = append(all, foreignObject{decodeObjects("k8s/a.yaml:7", settings)[0], owner})
		}
		return all
	}
	const there, of = "k8s/a.yaml:7: configmap/settings is there already", "configmap/settings belongs to the release x/y"
	for name, test := range map[string]struct {
		adopt     bool
		objects   []foreignObject
		err, hint string // "" for none
	}{
		"one":               {false, objects(1, ""), there, "--adopt"},
		"one, adopted":      {true, objects(1, ""), "", ""},
		"many":              {false, objects(30, ""), "30 objects are there already", "--adopt"},
		"another release's": {true, objects(1, "x/y"), of, "kubectl delete configmap/settings -n one"},
	} {
		err := withoutCluster(test.adopt).mayTakeOver(r, test.objects)
		if (err != nil) != (test.err != "") || err != nil && (!strings.Contains(err.Error(), test.err) ||
			!strings.Contains(event.Hint(err), test.hint) || len(err.Error()) > 1000) {
			t.Errorf("%s: %v, hint %q", name, err, event.Hint(err))
		}
	}
}

func TestOwnerOf(t *testing.T) {
	r := Release{Name: "a", Namespace: "one"}
	plain := func() *unstructured.Unstructured { return yamlObject(t, settings) }
	unlabelled := withOwner(r, plain())
	unlabelled.SetLabels(nil)
	for name, test := range map[string]struct {
		live    *unstructured.Unstructured
		known   bool
		owner   string
		foreign bool
	}{
		"ours":                        {withOwner(r, plain()), false, "", false},
		"ours without Helm's label":   {unlabelled, false, "", true},
		"known without Helm's label":  {unlabelled, true, "", false},
		"nobody's":                    {plain(), false, "", true},
		"known and nobody's":          {plain(), true, "", false},
		"another release's":           {withOwner(Release{Name: "b", Namespace: "two"}, plain()), false, "two/b", true},
		"known and another release's": {withOwner(Release{Name: "b", Namespace: "two"}, plain()), true, "two/b", true},
	} {
		if owner, foreign := ownerOf(r, test.live, test.known); owner != test.owner || foreign != test.foreign {
			t.Errorf("%s: %q, %t", name, owner, foreign)
		}
	}
}
