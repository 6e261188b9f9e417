package deploy

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	kubefake "helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/client-go/rest"
)

func TestHelmMakesTheSameFilesOfTheirOutput(t *testing.T) {
	files := map[string]string{
		"Chart.yaml": "apiVersion: v2\nname: demo\nversion: 1.0.0\ndependencies:\n" +
			"- {name: inner, version: 1.0.0, alias: other}\n- {name: common, version: 1.0.0}\n",
		"values.yaml":          "text: \"{{ tpl .Values.text . }} `x` \\\"q\\\" \\\\ \\r\\n \\0\"\n",
		"values.schema.json":   `{"required": ["never"]}`,
		"templates/_parts.tpl": `{{ define "part" }}part of {{ .Chart.Name }}{{ end }}`,
		"templates/a.yaml":     `a: {{ include "part" . }} {{ include "common" . }} {{ .Values.text }}`,
		"templates/braces.yaml": "a: {{ `{{ {{{ {{{{ }} }}} {{- x -}} {{/* c */}} {{` }}\n" +
			"  {{ `{` }}{{ `{` }} `{{`` -}}` {{ `-` }}\n\n",
		"templates/bytes.yaml":             "a: {{ b64dec \"/wD+8A==\" }} \u2028 \ufeff \\n \\x00 ' \" %s %[1]d é 世",
		"templates/empty.yaml":             "",
		"templates/blank.yaml":             " \n\t{{- if false }}{{ end }}\n",
		"templates/deep/er/b.yaml":         "{{ .Template.Name }}",
		"templates/hook.yaml":              "metadata: {annotations: {helm.sh/hook: pre-install}}\n",
		"templates/NOTES.txt":              "{{ .Release.Name }}: {{ `{{ .Values.a }}` }}\n",
		"crds/a.yaml":                      "kind: CustomResourceDefinition\n",
		"charts/inner/Chart.yaml":          "apiVersion: v2\nname: inner\nversion: 1.0.0\n",
		"charts/inner/templates/a.yaml":    "{{ .Template.Name }} {{ `{{` }}",
		"charts/inner/templates/NOTES.txt": "inner",
		"charts/inner/crds/b.yaml":         "kind: CustomResourceDefinition\n",
		"charts/common/Chart.yaml":         "apiVersion: v2\nname: common\nversion: 1.0.0\ntype: library\n",
		"charts/common/templates/_a.tpl":   `{{ define "common" }}common{{ end }}`,
	}
	loaded, err := loadChart(t.Context(), chartFolder(t, files))
	if err != nil {
		t.Fatal(err)
	}
	loaded.Schema = nil // which is for what makes the output
	if err := chartutil.ProcessDependenciesWithMerge(loaded, map[string]any{}); err != nil {
		t.Fatal(err)
	}
	options := chartutil.ReleaseOptions{Name: "web", Namespace: "demo"}
	want, err := renderTemplates(t.Context(), loaded, nil, options, chartutil.DefaultCapabilities, nil)
	aliased := "demo/charts/other/templates/a.yaml"
	if err != nil || len(want) != 10 || want[aliased] != aliased+" {{" {
		t.Fatalf("%v, %q", err, want)
	}
	want["demo/templates/all.yaml"] = allBytes()
	loaded.Schema = []byte(files["values.schema.json"])

	output, err := newPrerendered(loaded, want)
	if err != nil {
		t.Fatal(err)
	}
	values, err := chartutil.ToRenderValues(output.chart, nil, options, chartutil.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	got, err := engine.Render(output.chart, values)
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v\n%q\nwant\n%q", err, got, want)
	}
	if len(output.chart.Dependencies()) > 0 {
		t.Error("there are charts below it, whose templates would be rendered")
	}
	if _, err := output.Run(nil); err != nil {
		t.Fatal(err)
	}
	now := output.chart
	if len(now.CRDObjects()) != 2 || len(now.Templates) != len(loaded.Templates) || now.Schema == nil ||
		now.Values["text"] == nil {
		t.Errorf("Helm's record would hold %+v", now)
	}
}

func allBytes() string {
	var all [256]byte
	for i := range all {
		all[i] = byte(i)
	}
	return string(all[:])
}

func TestOutputOutsideOfTheChart(t *testing.T) {
	loaded := &chart.Chart{Metadata: &chart.Metadata{Name: "demo"}}
	if _, err := newPrerendered(loaded, map[string]string{"other/templates/a.yaml": ""}); err == nil {
		t.Error("Helm would give it another name")
	}
}

// A template may render differently in this process than in its child: this one sees another object
// at each lookup.
func TestHelmRendersNoTemplates(t *testing.T) {
	var looks atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/api/v1" {
			_, _ = io.WriteString(w, `{"kind":"APIResourceList","groupVersion":"v1","resources":[`+
				`{"name":"configmaps","namespaced":true,"kind":"ConfigMap","verbs":["get"]}]}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"look":"%d"}}`,
			looks.Add(1))
	}))
	t.Cleanup(server.Close)
	loaded, err := loadChart(t.Context(), chartFolder(t, map[string]string{
		"Chart.yaml": "apiVersion: v2\nname: demo\nversion: 1.0.0\n",
		"templates/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made}\n" +
			"data: {look: {{ (lookup `v1` `ConfigMap` `demo` `a`).data.look | quote }}, " +
			"revision: \"{{ .Release.Revision }}\", upgrade: \"{{ .Release.IsUpgrade }}\", brace: \"{{ `{{` }}\"}\n",
		"templates/hook.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hook, annotations: " +
			"{helm.sh/hook: post-upgrade, helm.sh/hook-weight: \"3\"}}\n",
		"templates/NOTES.txt": "look at {{ `{{ .Values.a }}` }}\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	d := records(t, permits{})
	d.cluster.Known, d.cluster.Config = chartutil.DefaultCapabilities, &rest.Config{Host: server.URL}
	memory := driver.NewMemory()
	memory.SetNamespace("demo")
	helm := &action.Configuration{
		RESTClientGetter: d.cluster.RESTClientGetter("demo"), Releases: storage.Init(memory),
		Capabilities: chartutil.DefaultCapabilities, KubeClient: &kubefake.PrintingKubeClient{Out: io.Discard},
		Log: func(string, ...any) {},
	}
	given := map[string]any{"a": map[string]any{"b": 1}}
	want := desired{Release: Release{Name: "web", Namespace: "demo", InlineValues: given}, inputs: "abc",
		load: func(context.Context) (*chart.Chart, error) { loaded := *loaded; return &loaded, nil }}
	ctx := context.WithoutCancel(t.Context()) // a Helm write is never interrupted
	var history []*release.Release
	for i, manifest := range []string{
		`{look: "1", revision: "1", upgrade: "false", brace: "{{"}`,
		`{look: "2", revision: "2", upgrade: "true", brace: "{{"}`,
	} {
		version := i + 1
		if _, err := d.installOrUpgrade(ctx, helm, want, rendered{}, history, version, &writeLog{}); err != nil {
			t.Fatal(err)
		}
		made, err := helm.Releases.Get("web", version)
		if err != nil {
			t.Fatal(err)
		}
		source := "---\n# Source: demo/templates/a.yaml\napiVersion: v1\nkind: ConfigMap\n"
		if !strings.HasPrefix(made.Manifest, source) || !strings.Contains(made.Manifest, manifest) ||
			looks.Load() != int64(version) {
			t.Errorf("after %d looks: %s", looks.Load(), made.Manifest)
		}
		if made.Info.Notes != "look at {{ .Values.a }}\n" {
			t.Errorf("the notes are %q", made.Info.Notes)
		}
		if len(made.Hooks) != 1 || made.Hooks[0].Weight != 3 || made.Hooks[0].Path != "demo/templates/hook.yaml" {
			t.Errorf("the hooks are %+v", made.Hooks)
		}
		if value, _ := valueAt(made.Config, []string{"a", "b"}); value == nil {
			t.Errorf("the record has the values %v", made.Config)
		}
		uses := func(f *chart.File) bool { return strings.Contains(string(f.Data), "lookup") }
		if len(made.Chart.Templates) != 3 || !slices.ContainsFunc(made.Chart.Templates, uses) {
			t.Errorf("the record has the chart %+v", made.Chart)
		}
		history = []*release.Release{made}
	}
	made, err := d.renderChart(t.Context(), &want, revision{version: 2, status: release.StatusDeployed})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.installOrUpgrade(ctx, helm, want, made, history, 3, &writeLog{}); err != nil || looks.Load() != 3 {
		t.Errorf("what was rendered for this revision was rendered again: %d looks, %v", looks.Load(), err)
	}
}
