package deploy

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/manifests"
)

func TestPlainManifestsAreAChart(t *testing.T) {
	config := func(name, value string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {text: %q}\n", name, value)
	}
	documents := []manifests.Document{
		{File: "k8s/_web.yaml", Line: 1, Text: config("hidden", "{{ .Values.a }} `{{` }}")},
		{File: "k8s/_web.yaml", Line: 9, Text: config("second", "")},
		{File: "NOTES.txt", Line: 0, Text: config("notes", "")},
		{File: "../x/a.yaml", Line: 3, Text: config("above", "")},
		{File: "/abs/a%41.yaml", Line: 4, Text: config("absolute", "")},
		{File: "https://host/a.yaml", Line: 0, Text: config("remote", "")},
		{File: "list.yaml", Line: 5, Text: config("item1", "")},
		{File: "list.yaml", Line: 5, Text: config("item2", "")},
		{File: "crds/thing.yaml", Line: 7, Text: strings.TrimSpace(thing) + "\n"},
	}
	wrapped := wrap("web", documents)
	crds := wrapped.CRDObjects()
	if len(crds) != 1 || placeOf(crds[0].Filename) != "crds/thing.yaml:7" {
		t.Fatalf("CRDs: %v", crds)
	}
	values, err := chartutil.ToRenderValues(wrapped, nil, chartutil.ReleaseOptions{}, chartutil.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(wrapped, values)
	if err != nil {
		t.Fatal(err)
	}
	_, sorted, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range sorted {
		for _, o := range decodeObjects(placeOf(m.Name), m.Content) {
			got[o.GetName()] = o.file
			if text, _ := o.Object["data"].(map[string]any)["text"].(string); o.GetName() == "hidden" &&
				text != "{{ .Values.a }} `{{` }}" {
				t.Errorf("text became %q", text)
			}
		}
	}
	want := map[string]string{"hidden": "k8s/_web.yaml:1", "second": "k8s/_web.yaml:9", "notes": "NOTES.txt",
		"above": "../x/a.yaml:3", "absolute": "/abs/a%41.yaml:4", "remote": "https://host/a.yaml", "item1": "list.yaml:5",
		"item2": "list.yaml:5"}
	if !maps.Equal(got, want) {
		t.Errorf("deployed\n%v, want\n%v", got, want)
	}
}

func TestManifestsThatKubectlGetPrinted(t *testing.T) {
	const object = "apiVersion: v1\ndata:\n  uid: \"1\"\nkind: ConfigMap\nmetadata:\n  generation: 9007199254740993\n" +
		"  name: a\n"
	for name, test := range map[string]struct{ text, want string }{
		"as it was printed":     {object + "  resourceVersion: \"7\"\n  uid: 0-1\n", object},
		"with a version alone":  {object + "  resourceVersion: 7\n", object},
		"with neither":          {object + "# uid, resourceVersion\n", object + "# uid, resourceVersion\n"},
		"whose metadata is odd": {"kind: A\nmetadata: uid\n", "kind: A\nmetadata: uid\n"},
		"that is no YAML":       {"uid: {", "uid: {"},
	} {
		if got := withoutVersion(test.text); got != test.want {
			t.Errorf("a manifest %s became\n%s", name, got)
		}
	}
}

func TestDigestOfPlainManifests(t *testing.T) {
	dir := t.TempDir()
	d := &Deployer{options: Options{Folder: dir}}
	digest := func(text string) string {
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		opened, err := d.openPlain(t.Context(), Release{Name: "web", Manifests: []string{filepath.Join(dir, "*.yaml")}})
		if err != nil {
			t.Fatal(err)
		}
		return opened.digest
	}
	one := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
	first := digest(one)
	if digest("# a comment\n---\n"+one) != first {
		t.Error("a document that only moves in its file is another one")
	}
	if digest(one+"data: {a: b}\n") == first {
		t.Error("a document that changes is the same one")
	}
}

func TestNamespacesAreNotHelms(t *testing.T) {
	config := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Namespace}"
	namespace := "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "
	files := map[string]string{
		"web/templates/NOTES.txt": "kind: Namespace",
		"web/templates/a.yaml":    namespace + "a\n  annotations: {helm.sh/hook: pre-install}\n---\n" + config,
		"web/templates/b.yaml":    namespace + "b\n",
		"web/templates/list.yaml": "apiVersion: v1\nkind: List\nitems:\n" +
			"- {apiVersion: v1, kind: Namespace, metadata: {name: c}}\n" +
			"- {apiVersion: v1, kind: ConfigMap, metadata: {name: x}}\n",
		"web/templates/other.yaml": "apiVersion: example.test/v1\nkind: Namespace\nmetadata: {name: other}\n",
		"web/templates/wrong.yaml": "kind: Namespace: {",
	}
	before := maps.Clone(files)
	taken := takeNamespaces(files)
	var names []string
	made := &chart.Chart{Metadata: &chart.Metadata{Name: "web"}, Files: []*chart.File{namespacesFile(taken)}}
	for _, file := range made.CRDObjects() {
		for _, o := range manifestObjects(string(file.File.Data)) {
			names = append(names, o.GetName()+" "+o.file)
		}
	}
	want := []string{"a web/templates/a.yaml", "b web/templates/b.yaml", "c web/templates/list.yaml"}
	if !slices.Equal(names, want) {
		t.Errorf("taken: %q", names)
	}
	for name, text := range files {
		switch filepath.Base(name) {
		case "a.yaml":
			if text != config {
				t.Errorf("left of a.yaml: %q", text)
			}
		case "b.yaml":
			if text != "" {
				t.Errorf("left of b.yaml: %q", text)
			}
		case "list.yaml":
			if left := decodeObjects(name, text); len(left) != 1 || left[0].GetName() != "x" {
				t.Errorf("left of the list: %q", text)
			}
		default:
			if text != before[name] {
				t.Errorf("%s was changed: %q", name, text)
			}
		}
	}
}

func TestRecordThatIsTooLarge(t *testing.T) {
	random := strings.Builder{}
	for i := range 60_000 {
		random.WriteString(sum256(fmt.Append(nil, i))[:40])
	}
	document := func(name, text string) manifests.Document {
		return manifests.Document{File: name + ".yaml", Line: 1,
			Text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata: {text: " + text + "}\n"}
	}
	for name, test := range map[string]struct {
		text    string
		tooMuch bool
	}{
		"small":            {"a", false},
		"large but simple": {strings.Repeat("a", 3<<20), false},
		"large":            {random.String(), true},
	} {
		want := &desired{Release: Release{Name: "web", Namespace: "demo", Manifests: []string{"."}}}
		wrapped := wrap("web", []manifests.Document{document("big", test.text), document("small", "a")})
		files := map[string]string{"web/templates/big.yaml:1": document("big", test.text).Text,
			"web/templates/small.yaml:1": document("small", "a").Text}
		_, sorted, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
		if err != nil {
			t.Fatal(err)
		}
		err = rendered{chart: wrapped, files: files, manifests: sorted}.checkRecordSize(want)
		if (err != nil) != test.tooMuch {
			t.Errorf("%s: %v", name, err)
		}
		if test.tooMuch && (!strings.Contains(err.Error(), "would have 1.") ||
			!strings.Contains(err.Error(), "configmap/big in big.yaml:1 (2.4 MB)") ||
			!strings.Contains(event.Hint(err), "several releases")) {
			t.Errorf("%s: %v, hint %q", name, err, event.Hint(err))
		}
	}
}

func TestObjectWithoutAName(t *testing.T) {
	text := "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: migrate-"
	for name, test := range map[string]struct {
		text  string
		wrong bool
	}{
		"generated":         {text + "}\n", true},
		"generated hook":    {text + ", annotations: {helm.sh/hook: pre-install}}\n", true},
		"with both":         {text + ", name: migrate}\n", false},
		"generated in list": {"apiVersion: v1\nkind: List\nitems: [{kind: Job, metadata: {generateName: a-}}]\n", true},
	} {
		want := &desired{Release: Release{Name: "web", Namespace: "demo", Manifests: []string{"."}}}
		_, err := want.sort(&chart.Chart{}, map[string]string{"web/templates/k8s/job.yaml:4": test.text})
		if (err != nil) != test.wrong || err != nil && !strings.HasPrefix(err.Error(), "k8s/job.yaml:4: Job has") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
