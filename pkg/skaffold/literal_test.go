package skaffold

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/config"
)

// chartFile writes a file of the chart deploy/dask-session.
func chartFile(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("deploy/dask-session", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, path, text)
}

// inChart is a skaffold.yaml with one release of that chart that has these keys.
func inChart(keys string) string {
	return strings.NewReplacer("chart.tgz", "deploy/dask-session", ", { image: jibbed, jib: {} }",
		", { image: team/web, docker: { dockerfile: Dockerfile.client } }").Replace(inHelm(keys))
}

const (
	bothNamed = `setValueTemplates: { x: "{{.IMAGE_NAME}}", y: "{{.IMAGE_NAME2}}" }`
	setTo     = " is the image that is built: set to that, with its tag"
)

func TestLiteralImages(t *testing.T) {
	for _, c := range []struct {
		name, keys, chart, values string
		set                       config.SetValues
		inline                    map[string]any
		want                      []string
	}{
		{
			name: "in skaffold.yaml", keys: `setValues: { image: worker, side.webImage: team/web, other: worker, ` +
				`tagged.image: "worker:1" }, overrides: { list: [{ image: worker, name: a }], deep: { image: worker } }`,
			set: config.SetValues{"image": `{{ image "worker" }}`, "side.webImage": `{{ image "team/web" }}`,
				"other": "worker", "tagged.image": "worker:1", "deep.image": `{{ image "worker" }}`},
			inline: map[string]any{"list": []any{map[string]any{"image": `{{ image "worker" }}`, "name": "a"}},
				"deep": map[string]any{"image": "worker"}},
			want: []string{
				`skaffold.yaml:6:21: deploy.helm.releases[0].setValues.image: worker` + setTo,
				`skaffold.yaml:6:44: deploy.helm.releases[0].setValues.side.webImage: team/web` + setTo,
				`skaffold.yaml:6:126: deploy.helm.releases[0].overrides.list[0].image: worker` + setTo,
				`skaffold.yaml:6:161: deploy.helm.releases[0].overrides.deep.image: worker` + setTo,
			},
		},
		{
			name: "that may mean something else", keys: `setValues: { called: worker, image.repository: team/web }`,
			set: config.SetValues{"called": "worker", "image.repository": "team/web"},
			want: []string{
				`skaffold.yaml:6:22: deploy.helm.releases[0].setValues.called: is deployed as it is; ` +
					`if this is the image worker, it lacks the tag: write image: "{{.IMAGE_FULLY_QUALIFIED_worker}}" under ` +
					`setValueTemplates`,
				`skaffold.yaml:6:48: deploy.helm.releases[0].setValues.image.repository: is deployed as it is; ` +
					`if this is the image team/web, it lacks the tag: write image: "{{.IMAGE_FULLY_QUALIFIED_team_web}}" under ` +
					`setValueTemplates`,
			},
		},
		{
			name: "in the chart", chart: "image: worker\nweb:\n  image: { repository: team/web, tag: latest }\n" +
				"a.b: { image: worker, imageTag: x }\nother: { image: worker, registry: docker.io }\nname: worker\n",
			set: config.SetValues{"image": `{{ image "worker" }}`, "web.image.repository": `{{ repository "team/web" }}`,
				"web.image.tag": `{{ tag "team/web" }}`,
				`a\.b.image`:    `{{ repository "worker" }}`, `a\.b.imageTag`: `{{ tag "worker" }}`},
			want: []string{
				`skaffold.yaml:5:30: deploy.helm.releases[0]: deploy/dask-session/values.yaml:1: image: worker` + setTo,
				`skaffold.yaml:5:30: deploy.helm.releases[0]: deploy/dask-session/values.yaml:3: web.image.repository: team/web` +
					setTo,
				`skaffold.yaml:5:30: deploy.helm.releases[0]: deploy/dask-session/values.yaml:4: a\.b.image: worker` + setTo,
			},
		},
		{
			name: "in values files, over those of the chart", keys: `valuesFiles: [values.yaml], ` + bothNamed,
			chart: "image: other\nweb: { image: worker, tag: x }\nlist: [{ image: worker }, { image: b }]\n",
			values: "image: worker\nweb: { image: other }\n" +
				"list: [{ name: a, image: { name: worker, tag: '{{' } }, x: [[{ a.b: 1 }]]]\n'a[': { image: worker }\n",
			set: config.SetValues{"x": `{{ repository "worker" }}`, "y": `{{ repository "team/web" }}`,
				"image": `{{ image "worker" }}`},
			inline: map[string]any{"a[": map[string]any{"image": `{{ image "worker" }}`}},
			want: []string{
				`skaffold.yaml:5:30: deploy.helm.releases[0]: values.yaml:1: image: worker` + setTo,
				`skaffold.yaml:5:30: deploy.helm.releases[0]: values.yaml:4: a[.image: worker` + setTo,
			},
		},
		{
			name: "in lists", keys: `valuesFiles: [values.yaml], ` + bothNamed,
			values: "list:\n- { image: worker, text: '{{', n: [1, 2.0] }\n- { image: worker, imageTag: 1 }\n- worker\n",
			set:    config.SetValues{"x": `{{ repository "worker" }}`, "y": `{{ repository "team/web" }}`},
			inline: map[string]any{"list": []any{map[string]any{"image": `{{ image "worker" }}`, "text": `{{ "{{" }}`,
				"false": []any{1.0, 2.0}}, map[string]any{"image": `{{ repository "worker" }}`, "imageTag": `{{ tag "worker" }}`},
				"worker"}},
			want: []string{
				`skaffold.yaml:5:30: deploy.helm.releases[0]: values.yaml:2: list[0].image: worker` + setTo,
				`skaffold.yaml:5:30: deploy.helm.releases[0]: values.yaml:3: list[1].image: worker` + setTo,
			},
		},
		{
			name: "that a value is set over", keys: `setValueTemplates: { image: "{{.IMAGE_FULLY_QUALIFIED_worker}}", web: ` +
				`"{{.IMAGE_FULLY_QUALIFIED_team_web}}" }, setValues: { "list[0].image": worker }`,
			chart: "image: worker\nweb: { image: team/web }\nlist: [{ image: other }]\n",
			set: config.SetValues{"image": `{{ image "worker" }}`, "web": `{{ image "team/web" }}`,
				"list[0].image": `{{ image "worker" }}`},
			want: []string{
				`skaffold.yaml:6:142: deploy.helm.releases[0].setValues.list[0].image: worker` + setTo,
			},
		},
		{
			name: "without a tag", chart: "repository: worker\nimage: { name: team/web }\n",
			want: []string{
				`skaffold.yaml:5:30: deploy.helm.releases[0]: deploy/dask-session/values.yaml:1: repository: ` +
					`worker is deployed as it is; if this is the image, it lacks the tag: write image: ` +
					`"{{.IMAGE_FULLY_QUALIFIED_worker}}" under setValueTemplates`,
				`skaffold.yaml:5:30: deploy.helm.releases[0]: deploy/dask-session/values.yaml:2: image.name: ` +
					`team/web is deployed as it is; if this is the image, it lacks the tag: write image: ` +
					`"{{.IMAGE_FULLY_QUALIFIED_team_web}}" under setValueTemplates`,
			},
		},
		{
			name: "nowhere", chart: "[", values: "- x",
			want: []string{
				`skaffold.yaml:4:24: build.artifacts[0].image: no value of a release names this image: ` +
					`what charts say of it is deployed as it stands there, without the tag; write image: ` +
					`"{{.IMAGE_FULLY_QUALIFIED_worker}}" under setValueTemplates`,
				`skaffold.yaml:4:86: build.artifacts[1].image: no value of a release names this image: ` +
					`what charts say of it is deployed as it stands there, without the tag; write image: ` +
					`"{{.IMAGE_FULLY_QUALIFIED_team_web}}" under setValueTemplates`,
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(everything(t))
			chartFile(t, "values.yaml", c.chart)
			write(t, "values.yaml", c.values)
			got, err := skaffolded(t, ".", inChart(c.keys))
			if err != nil {
				t.Fatal(err)
			}
			release := got.Releases[0]
			if !reflect.DeepEqual(release.Set, c.set) || !reflect.DeepEqual(release.InlineValues, c.inline) {
				t.Errorf("set %#v, inline %#v", release.Set, release.InlineValues)
			}
			if want := strings.Join(c.want, "\n"); reported(got, nil) != want {
				t.Errorf("reported:\n%s\nwant:\n%s", reported(got, nil), want)
			}
			if !slices.Contains(got.Files(), filepath.Join(got.Dir, "deploy/dask-session/values.yaml")) {
				t.Errorf("the chart's values are not among %q", got.Files())
			}
			checkText(t, got)
		})
	}
}

func TestLiteralImagesThatAreWrong(t *testing.T) {
	t.Chdir(everything(t))
	chartFile(t, "values.yaml", "image: jibbed\n")
	chartFile(t, "templates/sub/pod.yaml", "kind: Pod\nspec:\n  containers:\n    - image: \"worker\"\n"+
		"      other: worker\n    - name: x\n      image: worker\t\n    - image: {{ .Values.image }}\n    - image: "+
		"worker:1\n")
	chartFile(t, "templates/NOTES.txt", "image: worker\n")
	_, err := skaffolded(t, ".", strings.Replace(inHelm(`setValues: { web.image: jibbed }`), "chart.tgz",
		"deploy/dask-session", 1))
	const lacks = `image "jibbed" is built by jib, which devloop does not do: what is deployed would lack it`
	const rewrite = ` has the image worker without its tag, and devloop rewrites no manifests: write image: ` +
		`{{ .Values.image }} there, and image: "{{.IMAGE_FULLY_QUALIFIED_worker}}" under setValueTemplates here`
	want := []string{
		`skaffold.yaml:5:30: deploy.helm.releases[0]: deploy/dask-session/values.yaml:1: image: ` + lacks,
		`skaffold.yaml:5:52: deploy.helm.releases[0].chartPath: deploy/dask-session/templates/sub/pod.yaml:4` + rewrite,
		`skaffold.yaml:5:52: deploy.helm.releases[0].chartPath: deploy/dask-session/templates/sub/pod.yaml:7` + rewrite,
		`skaffold.yaml:6:25: deploy.helm.releases[0].setValues.web.image: ` + lacks,
	}
	if got := reported(nil, err); got != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

// TestGatewayPrefix holds that the platform's health is asked where the gateway has it.
func TestGatewayPrefix(t *testing.T) {
	platform := read(t, "testdata/platform.skaffold.yaml")
	dir := everything(t)
	t.Setenv("GATEWAY_PREFIX", "/env/")
	for _, c := range []struct{ file, set, want string }{
		{"", "", "/api/health"},
		{"", `setValues: { gateway.prefix: / }`, "/api/health"},
		{"gateway: { prefix: '' }", "", "/api/health"},
		{"gateway: { prefix: /dask/ }", "", "/dask/api/health"},
		{"gateway: { prefix: /dask }", `overrides: { gateway: { prefix: /a/b } }`, "/a/b/api/health"},
		{"gateway: { prefix: /dask }", `setValues: { gateway: { prefix: c } }, overrides: { gateway: { prefix: /a } }`,
			"/c/api/health"},
		{"", `setValueTemplates: { gateway.prefix: "{{.GATEWAY_PREFIX}}" }`, "/env/api/health"},
		{"", `setFiles: { gateway.prefix: prefix.txt }`, "/text{{/api/health"},
		{"", `setValueTemplates: { gateway.prefix: "/{{.IMAGE_TAG}}" }`, ""},
		{"gateway: { prefix: [a] }", "", ""},
		{"gateway: { prefix: a b }", "", ""},
	} {
		write(t, filepath.Join(dir, "prefix.txt"), "/text{{")
		write(t, filepath.Join(dir, "deploy/dask-gateway/values.yaml"), c.file)
		text := platform
		if c.set != "" {
			from := strings.Index(text, "        setValues:\n          traefik")
			to := strings.Index(text, "      - name: dask-session")
			text = text[:from] + "        " + strings.ReplaceAll(c.set, "}, ", "}\n        ") + "\n" + text[to:]
		}
		got, err := skaffolded(t, dir, text)
		if err != nil {
			t.Fatal(err)
		}
		if got.Forwards[0].Ready != c.want {
			t.Errorf("%s, %s: ready is %q, want %q", c.file, c.set, got.Forwards[0].Ready, c.want)
		}
		says := "the platform counts as up when " + c.want + " answers here"
		if c.want == "" {
			says = "whose gateway.prefix is not known yet"
		}
		if !strings.Contains(reported(got, nil), says) {
			t.Errorf("%s, %s: reported:\n%s", c.file, c.set, reported(got, nil))
		}
	}
}
