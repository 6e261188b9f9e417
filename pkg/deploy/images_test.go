package deploy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
)

// testImages are app, with an alias, and worker, which is pushed.
var testImages = map[string]string{
	"app": "app:0123456789abcdef", "localhost:5000/team/app": "app:0123456789abcdef",
	"worker": "registry.example/w/worker:fedc", "registry.example/w/worker": "registry.example/w/worker:fedc",
}

// setIn sets the images in one file, and returns it with what was set.
func setIn(t *testing.T, text string) (string, []SetImage) {
	t.Helper()
	files := map[string]string{"demo/templates/a.yaml": text}
	set, err := newBuiltImages(testImages).set(files)
	if err != nil {
		t.Fatal(err)
	}
	return files["demo/templates/a.yaml"], set
}

func TestImagesAreSet(t *testing.T) {
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: a\n    image: "
	workload := func(kind, spec string) string {
		return "apiVersion: apps/v1\nkind: " + kind + "\nmetadata: {name: web}\nspec: " + spec
	}
	in := func(spec string) string { return "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: " + spec }
	custom := func(spec string) string {
		return "apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nmetadata: {generateName: web-}\nspec: " + spec
	}
	for name, test := range map[string]struct {
		text string
		want string // where, in which object, instead of what
	}{
		"a tag":              {pod + "app:latest", "pod/web spec.containers[a].image app:latest"},
		"no tag":             {pod + "app", "pod/web spec.containers[a].image app"},
		"an empty tag":       {pod + "'app:'", "pod/web spec.containers[a].image app:"},
		"a digest":           {pod + "app@sha256:" + strings.Repeat("a", 64), "app@sha256:"},
		"both":               {pod + "app:1.0@sha256:" + strings.Repeat("a", 64), "app:1.0@sha256:"},
		"a comment":          {pod + "app:dev  # built", "app:dev"},
		"single quotes":      {pod + "'app:dev'", "app:dev"},
		"double quotes":      {pod + `"app:dev"`, "app:dev"},
		"a folded text":      {pod + ">-\n      app:dev\n", "app:dev"},
		"Docker's library":   {pod + "docker.io/library/app:1", "docker.io/library/app:1"},
		"an alias":           {pod + "localhost:5000/team/app:1", "localhost:5000/team/app:1"},
		"one that is pushed": {pod + "worker:1", "worker:1"},
		"an older one":       {pod + "registry.example/w/worker:1", "registry.example/w/worker:1"},
		"a carriage return":  {strings.ReplaceAll(pod+"app:1\n", "\n", "\r\n"), "app:1"},
		"flow style":         {in("{containers: [{name: a, image: app:1}]}"), "spec.containers[a].image app:1"},
		"JSON": {`{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"image":"app:1"}]}}`,
			"spec.containers[0].image"},
		"an anchor": {in("{containers: [{name: a, image: &i app:1}], initContainers: [{name: b, image: *i}]}"),
			"spec.initContainers[b].image"},
		"an init container": {in("{initContainers: [{name: a, image: app:1}]}"), "spec.initContainers[a].image app:1"},
		"an ephemeral one":  {in("{ephemeralContainers: [{name: a, image: app:1}]}"), "spec.ephemeralContainers[a].image"},
		"an image volume": {in("{volumes: [{name: v, image: {reference: app:1}}]}"),
			"spec.volumes[v].image.reference app:1"},
		"a deployment": {workload("Deployment", "{template: {spec: {containers: [{name: a, image: app}]}}}"),
			"deployment/web spec.template.spec.containers[a].image"},
		"a cron job": {workload("CronJob", "{jobTemplate: {spec: {template: {spec: {containers: [{image: app}]}}}}}"),
			"spec.jobTemplate.spec.template.spec.containers[0].image"},
		"a list": {"apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(pod, "\n", "\n  ") + "app:1",
			"pod/web spec.containers[a].image"},
		"a pod template": {custom("{template: {spec: {containers: [{name: a, image: app}]}}}"),
			"workflow/web- spec.template.spec.containers[a].image"},
		"an Argo template": {custom("{templates: [{name: t, container: {image: app:1}}]}"),
			"workflow/web- spec.templates[t].container.image"},
		"an Argo script": {custom("{templates: [{name: t, script: {image: app:1, source: print}}]}"),
			"spec.templates[t].script.image"},
		"a resource's own": {custom("{image: app:1}"), "workflow/web- spec.image app:1"},
		"an object in a CR": {custom("{manifest: {apiVersion: v1, kind: Pod, metadata: {name: in}, " +
			"spec: {containers: [{image: app}]}}}"),
			"pod/in spec.containers[0].image"},
		"after other documents": {"a: 1\n---\n# b\n--- \n" + pod + "app:1\n---\nc: 1\n", "pod/web"},
		"on the separator's line": {"--- " + in("{containers: [{name: a, image: app:1}]}")[len("apiVersion: v1\n"):] +
			"\napiVersion: v1",
			"pod/web"},
	} {
		t.Run(name, func(t *testing.T) {
			text, set := setIn(t, test.text)
			if len(set) == 0 {
				t.Fatalf("nothing was set in\n%s", text)
			}
			found := false
			for _, one := range set {
				found = found || strings.Contains(fmt.Sprint(one.Object, " ", one.Field, " ", one.Image), test.want)
				if one.Built != testImages[strings.TrimPrefix(repositoryOf(one.Image), "docker.io/library/")] {
					t.Errorf("%s is given %s", one.Image, one.Built)
				}
				if !strings.Contains(text, one.comment()) {
					t.Errorf("no comment says so in\n%s", text)
				}
			}
			if !found {
				t.Errorf("set were %v, not %s", set, test.want)
			}
			if again, more := setIn(t, text); len(more) > 0 || again != text {
				t.Errorf("once more: %v in\n%s", more, again)
			}
			for _, image := range imagesIn(nil, text) {
				if !strings.HasSuffix(image.Image, "0123456789abcdef") && !strings.HasSuffix(image.Image, ":fedc") {
					t.Errorf("left: %s in\n%s", image.Image, text)
				}
			}
		})
	}
}

func TestOtherTextIsNoImage(t *testing.T) {
	in := func(kind, rest string) string { return "apiVersion: " + kind + "\nmetadata: {name: app}\n" + rest }
	for name, text := range map[string]string{
		"another image": in("v1\nkind: Pod",
			"spec: {containers: [{image: app2:1}, {image: my/app}, {image: app/x}, {image: x.io/app}]}"),
		"an image that is right": in("v1\nkind: Pod", "spec: {containers: [{image: 'app:0123456789abcdef'}]} # app"),
		"an environment variable": in("v1\nkind: Pod",
			"spec: {containers: [{env: [{name: image, value: 'app:1'}], args: ['--image=app:1', 'app:1']}]}"),
		"a ConfigMap": in("v1\nkind: ConfigMap", "data: {image: 'app:1', containers: 'app:1'}"),
		"a ConfigMap in a list": "apiVersion: v1\nkind: List\nitems:\n" +
			"- {apiVersion: v1, kind: ConfigMap, data: {image: app}}\n",
		"a Secret": in("v1\nkind: Secret", "stringData: {image: 'app:1'}"),
		"a definition": in("apiextensions.k8s.io/v1\nkind: CustomResourceDefinition",
			"spec: {default: {image: app, containers: [{image: app}]}}"),
		"a block device":         in("v1\nkind: Pod", "spec: {volumes: [{name: a, rbd: {image: app, pool: p}}]}"),
		"a block device in a CR": in("a.io/v1\nkind: A", "spec: {volumes: [{name: a, rbd: {image: app}}]}"),
		"labels": in("a.io/v1\nkind: A",
			"spec: {selector: {matchLabels: {image: app}}, template: {metadata: "+
				"{labels: {image: app}, annotations: {image: app}}}}"),
		"a field of another kind":    in("v1\nkind: Service", "spec: {image: app, selector: {image: app}}"),
		"an image of several fields": in("a.io/v1\nkind: A", "spec: {image: {repository: app, tag: latest}}"),
		"no text":                    in("a.io/v1\nkind: A", "spec: {image: 1, app: [image]}"),
		"text with YAML in it":       in("a.io/v1\nkind: A", "spec:\n  text: |\n    containers:\n    - image: app:1\n"),
		"what is no YAML":            "apiVersion: v1\nkind: Pod\n spec: {containers: [{image: app:1}]}\n\t- x",
		"nothing":                    " \n",
		"a scalar":                   "app:1",
		"no reference": in("v1\nkind: Pod",
			"spec: {containers: [{image: 'App:1'}, {image: '<no value>/app'}, {image: 'my app'}, {image: ''}]}"),
	} {
		if now, set := setIn(t, text); now != text || len(set) > 0 {
			t.Errorf("%s: %v in\n%s", name, set, now)
		}
	}
}

// Whatever stands beside an image means the same afterwards, and other documents stay byte by byte.
func TestTheRestOfADocumentStays(t *testing.T) {
	document := `apiVersion: v1
kind: Pod
metadata: {name: web, annotations: {a: "yes", b: 'off', c: "n", num: "0123", hex: "0x1F", exp: "1e3", nil: "null",
  tilde: "~", date: "2026-11-29", time: "12:30:45", float: "1.10", under: "1_000", equals: "=", merge: "<<", empty: "",
  colon: "a: b", hash: "a #b", bang: "!x", star: "*x", percent: "%x", at: "@x", tab: "\t", quote: "'\"", "true": t,
  unicode: "é 世 \u2028 \u0085 \ufeff \U0001F600", control: "\x01\x7f", html: "<a href='x'>&amp;</a>", space: " x ",
  multi: "a\nb\n", trailing: "a\n\n\n", leading: "\n  a\n b", cr: "a\r\nb", dashes: "---\n--- x\n"}}
spec:
  big: 9007199254740993
  bigger: 18446744073709551615
  float: 1.5
  whole: 3.0
  tiny: 1e-9
  octal: 0755
  yes: true
  nothing: null
  mode: 420
  block: |
    #!/bin/sh
    ---
      echo app
  folded: >
    a
    b
  script: "a\\\n b"
  long: ` + strings.Repeat("word ", 60) + `
  containers:
  - image: app:latest
`
	before, after := "# first\nb: 1.10 # comment\na:   {x: 0x10}\n", "\nz: 'no'\ny: [ ]\n"
	text, set := setIn(t, before+"---\n"+document+"---"+after)
	if len(set) != 1 || !strings.HasPrefix(text, before+"---\n# devloop: ") ||
		!strings.HasSuffix(text+"\n", "\n---"+after) {
		t.Fatalf("%v in\n%s", set, text)
	}
	read := func(text string) (content map[string]any) {
		asJSON, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		decoder := json.NewDecoder(strings.NewReader(string(asJSON)))
		decoder.UseNumber()
		if err := decoder.Decode(&content); err != nil {
			t.Fatal(err)
		}
		return content
	}
	now := read(strings.TrimSuffix(strings.TrimPrefix(text, before+"---\n"), "\n---"+strings.TrimSuffix(after, "\n")))
	want := read(strings.Replace(document, "app:latest", "app:0123456789abcdef", 1))
	if !reflect.DeepEqual(now, want) {
		t.Errorf("it is\n%v\nand was\n%v", now, want)
	}
}

// The separator of documents takes the line break of a block of text before it, and Helm's record
// gives it back.
func TestTextAtTheEndOfADocument(t *testing.T) {
	head := "apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  templates:\n  - script:\n" +
		"      image: app:1\n      source: "
	for _, text := range []string{"|\n        print()\n", "|+\n        print()\n", "|-\n        print()\n", "print()\n",
		"\"a\\n\\n\"\n"} {
		want, err := decodeDocument(strings.Replace(head+text, "app:1", testImages["app"], 1))
		if err != nil {
			t.Fatal(err)
		}
		all, set := setIn(t, head+text+"---\n"+head+text)
		documents := splitManifest(all)
		if len(set) != 2 || len(documents) != 2 {
			t.Fatalf("%d set in %d documents:\n%s", len(set), len(documents), all)
		}
		for _, document := range documents {
			now, err := decodeDocument(document + "\n")
			if err != nil || !reflect.DeepEqual(now, want) {
				t.Errorf("%v, %v in\n%s", err, now, all)
			}
		}
	}
}

func FuzzImagesAreSet(f *testing.F) {
	f.Add("x", "app", "y")
	f.Add("\x7f", "app:\u0080", "\u0085\ufeff\uffff\u2028")
	f.Fuzz(func(t *testing.T, name, image, value string) {
		content := map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name},
			"spec": map[string]any{value: value, "containers": []any{map[string]any{"name": name, "image": image}}}}
		document, err := encodeDocument(content)
		if err != nil {
			t.Fatal(err)
		}
		content, err = decodeMapping(string(document))
		if err != nil || content["kind"] != "Pod" {
			return // it does not survive without us, either
		}
		text, set := setIn(t, "---\n"+string(document)+"---\nkind: B\n")
		now, err := decodeMapping(splitManifest(text)[0])
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		eachImage(content, func(at ContainerImage) string {
			if built, found := newBuiltImages(testImages)[repositoryOf(at.Image)]; found {
				return built
			}
			return at.Image
		})
		if !reflect.DeepEqual(now, content) || len(splitManifest(text)) != 2 {
			t.Errorf("%v: it is\n%v\nand was\n%v", set, now, content)
		}
	})
}

func decodeMapping(text string) (map[string]any, error) {
	content, err := decodeDocument(text)
	mapping, _ := content.(map[string]any)
	return mapping, err
}

// However a chart comes by the name of an image, its objects and hooks get what was built.
func TestImagesOfAChart(t *testing.T) {
	pod := func(name, image string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\n" +
			"spec: {containers: [{name: c, image: " + image + "}]}\n"
	}
	hook := func(name, image string) string {
		return strings.Replace(pod(name, image), "}\n", ", annotations: {helm.sh/hook: \"pre-install,test\"}}\n", 1)
	}
	d := records(t, permits{})
	d.cluster.Known, d.cluster.Config = chartutil.DefaultCapabilities, &rest.Config{Host: "http://192.0.2.1"}
	r := demoRelease
	r.Images = NewImages(testImages)
	r.Chart = chartFolder(t, map[string]string{
		"Chart.yaml": "apiVersion: v2\nname: demo\nversion: 1.2.3\ndependencies: [{name: sub, version: 1.0.0}]\n",
		"values.yaml": "image: {repository: app, tag: dev}\nworker: {image: 'worker:dev'}\n" +
			"sub: {image: 'app:of-the-parent'}\n",
		"templates/_parts.tpl": `{{ define "image" }}app:{{ .Chart.Version }}{{ end }}`,
		"templates/literal.yaml": pod("literal", "app:latest") + "---\n" + pod("version", "app:{{ .Chart.Version }}") +
			"---\n" + pod("other", "nginx:1"),
		"templates/values.yaml":       pod("values", "'{{ .Values.image.repository }}:{{ .Values.image.tag }}'"),
		"templates/worker.yaml":       pod("worker", "{{ .Values.worker.image }}"),
		"templates/define.yaml":       pod("define", `{{ include "image" . }}`),
		"templates/hook.yaml":         hook("hook", "app:1"),
		"templates/NOTES.txt":         pod("notes", "app:1"),
		"charts/sub/Chart.yaml":       "apiVersion: v2\nname: sub\nversion: 1.0.0\n",
		"charts/sub/values.yaml":      "image: other\n",
		"charts/sub/templates/a.yaml": pod("sub", "{{ .Values.image }}"),
		"charts/sub/templates/b.yaml": hook("subhook", "worker"),
	})
	want, err := d.readInputs(t.Context(), event.Stage{}, r)
	if err != nil {
		t.Fatal(err)
	}
	made, err := d.render(t.Context(), &want, revision{})
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]string{}
	for _, image := range made.images {
		images[image.Object] = image.Image
	}
	app, worker := testImages["app"], testImages["worker"]
	if wanted := map[string]string{"pod/literal": app, "pod/version": app, "pod/other": "nginx:1", "pod/values": app,
		"pod/worker": worker, "pod/define": app, "pod/hook": app, "pod/sub": app, "pod/subhook": worker,
	}; !reflect.DeepEqual(images, wanted) {
		t.Errorf("they name %v", images)
	}
	if len(made.set) != 8 || len(made.hooks) != 2 || !strings.Contains(made.hooks[0].Manifest, " was ") {
		t.Errorf("%d are set: %v; hooks: %+v", len(made.set), made.set, made.hooks)
	}
	if notes := made.files["demo/templates/NOTES.txt"]; notes != pod("notes", "app:1") {
		t.Errorf("the notes are %s", notes)
	}
	output, err := newPrerendered(made.chart, made.files) // what Helm gets
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range output.chart.Templates {
		if text := string(file.Data); strings.Contains(text, "image: app:1\\n") {
			t.Errorf("Helm gets %s", text)
		}
	}
	for release, want := range map[string]int{r.ID(): 6, "demo/other": 0} {
		if got := d.ImagesOf(release, []string{"localhost:5000/x", "app"}); len(got) != want {
			t.Errorf("%s names the image at %v", release, got)
		}
	}
	shown, err := d.Render(t.Context(), func(event.Event) {}, r)
	if err != nil || !strings.Contains(shown, "# Source: demo/templates/define.yaml\n"+
		"# devloop: pod/define spec.containers[c].image was app:1.2.3\napiVersion: v1\n") {
		t.Errorf("%v\n%s", err, shown)
	}
}

// A release is as old as the images that it names, and no other.
func TestImagesAreInputs(t *testing.T) {
	d := records(t, permits{})
	wants := func(images string) desired {
		want := desired{Release: demoRelease, inputs: "abc"}
		refs := map[string]string{}
		for pair := range strings.FieldsSeq(images) {
			name, ref, _ := strings.Cut(pair, "=")
			refs[name] = ref
		}
		want.Images = NewImages(refs)
		return want
	}
	names := func(image string) []ContainerImage { return []ContainerImage{{Image: image}, {Image: "nginx:1"}} }
	before := wants("app=app:1 other=other:1")
	label := before.inputsWith(names("app:1"))
	for name, test := range map[string]struct {
		images string // of devloop.yaml
		named  string // by the release
		label  string
		want   bool
	}{
		"nothing changed":               {"app=app:1 other=other:1", "app:1", label, true},
		"its image changed":             {"app=app:2 other=other:1", "app:1", label, false},
		"another image changed":         {"app=app:1 other=other:2", "app:1", label, true},
		"another image came":            {"app=app:1 new=new:1", "app:1", label, true},
		"it has a new alias":            {"app=app:1 my/app=app:1", "app:1", label, false},
		"another one has an alias":      {"app=app:1 my/other=other:1", "app:1", label, true},
		"its image is built no more":    {"other=other:1", "app:1", label, false},
		"nothing is built any more":     {"", "app:1", label, false},
		"one of its images is built":    {"app=app:1 nginx=nginx:2", "app:1", label, false},
		"it names none":                 {"app=app:1 other=other:1", "else", "abc", true},
		"it came from before the step":  {"app=app:1", "app:1", "abc", false},
		"it names a stale image by now": {"app=app:1", "app:0", "abc", false},
	} {
		d.revisionContents[revisionID(demoRelease, 1)] = contents{images: names(test.named)}
		last := revision{version: 1, status: release.StatusDeployed,
			labels: map[string]string{labelProject: "demo", labelRevision: "1", labelInputs: test.label}}
		if same, err := d.upToDate(t.Context(), last, wants(test.images)); err != nil || same != test.want {
			t.Errorf("%s: unchanged is %t, %v", name, same, err)
		}
	}
	if len(label) > 63 {
		t.Errorf("%q does not fit into a label", label)
	}
}

// Every release is asked about every image: that must not parse their names again each time.
func BenchmarkImagesOf(b *testing.B) {
	for _, images := range []int{25, 50, 100} {
		d := New(nil, "demo", nil, Options{})
		var releases []Release
		for i := range images / 2 {
			r := Release{Name: fmt.Sprint("release-", i), Namespace: "demo"}
			d.setImages(r, []ContainerImage{{Image: fmt.Sprintf("service-%d:1", i)}, {Image: fmt.Sprintf("service-%d:1", i+1)}})
			releases = append(releases, r)
		}
		b.Run(fmt.Sprintf("%d images", images), func(b *testing.B) {
			for b.Loop() {
				for _, r := range releases {
					for i := range images {
						d.ImagesOf(r.ID(), []string{fmt.Sprint("service-", i), fmt.Sprint("localhost:5000/team/service-", i)})
					}
				}
			}
		})
	}
}
