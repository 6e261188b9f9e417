package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mitchellh/copystructure"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
)

// request returns a request to render a chart of these files and the demo's.
func request(t *testing.T, content map[string]string, values map[string]any) renderRequest {
	t.Helper()
	files := maps.Clone(demo)
	maps.Copy(files, content)
	loaded, err := loadChart(t.Context(), chartFolder(t, files))
	if err != nil {
		t.Fatal(err)
	}
	parts, err := partsOf(loaded)
	if err != nil {
		t.Fatal(err)
	}
	return renderRequest{Chart: parts, Values: toGob(values), Options: chartutil.ReleaseOptions{Name: "web",
		Namespace: "demo"}, Capabilities: *chartutil.DefaultCapabilities}
}

func TestTemplatesThatNeverEnd(t *testing.T) {
	const ample = time.Minute
	for name, test := range map[string]struct {
		template string
		within   time.Duration
		wantErr  string
	}{
		// endless, or short of memory, whichever comes first
		"tpl that calls itself": {`{{ tpl .Values.again . }}`, ample, "its templates"},
		"template that calls itself": {`{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}`, ample,
			"maximum template depth"},
		"include that calls itself": {`{{ define "a" }}{{ include "a" . }}{{ end }}{{ include "a" . }}`, ample,
			"nested reference"},
		"list without end":  {`{{ range until 1000000000 }}a{{ end }}`, ample, "of memory"},
		"count without end": {`{{ range 1000000000000 }}{{ end }}`, time.Second, "not rendered after 1s"},
		"output without end": {
			`{{ range 1000000000000 }}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{{ end }}`, ample,
			"of memory"},
		// short of memory with the race detector
		"output that is too large": {`{{ range until 70 }}{{ repeat 1048576 "a" }}{{ end }}`, ample, "MiB"},
		"a mistake":                {`{{ .Values.again.and.again }}`, ample, "can't evaluate field and in type"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, map[string]string{"templates/b.yaml": test.template},
				map[string]any{"again": "{{ tpl .Values.again . }}"})
			result, err := r.inProcess(t.Context(), test.within, nil)
			if err == nil && result.Error != "" {
				err = errors.New(result.Error)
			}
			if err == nil || !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func TestRenderingEndsWithItsContext(t *testing.T) {
	r := request(t, map[string]string{"templates/b.yaml": `{{ range 1000000000000 }}{{ end }}`}, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(event.ErrSuperseded) })
	began := time.Now()
	if _, err := r.inProcess(ctx, time.Minute, nil); !errors.Is(err, event.ErrSuperseded) ||
		time.Since(began) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// Templates see the same in the child process as in Helm.
func TestTemplatesSeeTheSame(t *testing.T) {
	content := map[string]string{
		"values.yaml": "whole: 1000680000\nfraction: 1.0\nlarge: 12345678901234567890\nnothing: null\nempty: []\nnone: " +
			"{}\ntext: '1'\nlist: [1, null, {a: []}]\ninner: {a: 1}\n",
		"templates/a.yaml": `{{ .Values | toYaml }}{{ range $k, $v := .Values }}{{ $k }}: {{ kindOf $v }} {{ $v }}{{ end }}` +
			"{{ .Chart.Name }} {{ .Chart.AppVersion }} {{ .Chart.Annotations }}\n" +
			`{{ .Release }} {{ .Capabilities.KubeVersion }} {{ .Capabilities.APIVersions.Has "v1" }} ` +
			`{{ .Capabilities.HelmVersion.Version }} {{ .Files.Get "notes.txt" }} {{ .Template.Name }}`,
		"notes.txt": "notes",
		"charts/inner/Chart.yaml": "apiVersion: v2\nname: inner\nversion: 1.0.0\nappVersion: \"7\"\nannotations: " +
			"{a: b}\n",
		"charts/inner/values.yaml": "b: []\nglobal: {c: 2}\n",
		"charts/inner/templates/a.yaml": `{{ .Values | toJson }} {{ .Chart.AppVersion }} {{ .Chart.Annotations.a }} ` +
			`{{ .Chart.IsRoot }} {{ .Subcharts }}`,
		"charts/inner/templates/NOTES.txt": "hello",
	}
	values := map[string]any{"given": 3, "number": json.Number("1.0"), "float": 2.0, "yes": true, "nothing": nil,
		"lists": []any{}, "deep": map[string]any{"x": []any{nil, 1}}}
	files := maps.Clone(demo)
	maps.Copy(files, content)
	loaded, err := loadChart(t.Context(), chartFolder(t, files))
	if err != nil {
		t.Fatal(err)
	}
	options := chartutil.ReleaseOptions{Name: "web", Namespace: "demo", Revision: 3, IsUpgrade: true}
	all, err := chartutil.ToRenderValues(loaded, copystructure.Must(copystructure.Copy(values)).(map[string]any), options,
		chartutil.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	want, err := engine.Render(loaded, all)
	if err != nil {
		t.Fatal(err)
	}
	got, err := renderTemplates(t.Context(), loaded, values, options, chartutil.DefaultCapabilities, nil)
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

func TestTemplatesLookUpAndDoNotWrite(t *testing.T) {
	asked := []string{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api/v1":
			w.(http.Flusher).Flush() // an answer without a length, as real ones
			_, _ = w.Write(
				[]byte(`{"kind":"APIResourceList","groupVersion":"v1","resources":[` +
					`{"name":"configmaps","namespaced":true,"kind":"ConfigMap","verbs":["get"]}]}`))
		case "/api/v1/namespaces/demo/configmaps/a":
			fmt.Fprintf(w, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"b":%q}}`,
				strings.Repeat("c", 100_000))
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`))
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	r := request(t,
		map[string]string{
			"templates/b.yaml": `{{ len (lookup "v1" "ConfigMap" "demo" "a").data.b }} ` +
				`{{ lookup "v1" "ConfigMap" "demo" "none" }}`}, nil)
	r.Lookup = true
	cluster := &rest.Config{Host: server.URL, Transport: server.Client().Transport, BearerToken: "token"}
	result, err := r.inProcess(t.Context(), time.Minute, cluster)
	if err != nil || result.Files["demo/templates/b.yaml"] != "100000 map[]" {
		t.Errorf("%v, %+v; asked %v", err, result, asked)
	}
	for _, one := range asked {
		if !strings.HasPrefix(one, "GET ") || !strings.HasSuffix(one, " Bearer token") {
			t.Errorf("the API server was asked %q", one)
		}
	}
}

// A schema may refer to files and addresses, which may be endless, too.
func TestSchemaThatReadsAnything(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, wantErr := range map[string]string{pipe: "not rendered after 1s", "/dev/zero": ""} {
		r := request(t, map[string]string{"values.schema.json": `{"properties": {"a": {"$ref": "file://` + file + `"}}}`},
			map[string]any{"a": 1})
		result, err := r.inProcess(t.Context(), time.Second, nil)
		if err == nil && result.Error == "" || wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)) {
			t.Errorf("%s: %v, %+v", file, err, result)
		}
	}
	r := request(t, map[string]string{"values.schema.json": `{"properties": {"a": {"type": "string"}}}`},
		map[string]any{"a": 1})
	if result, err := r.inProcess(t.Context(), time.Minute, nil); err != nil || !result.Invalid ||
		!strings.Contains(result.Error, "/a") {
		t.Errorf("%v, %+v", err, result)
	}
}

// BenchmarkRenderProcess measures the child process.
func BenchmarkRenderProcess(b *testing.B) {
	if _, err := os.Stat("/proc/self/exe"); err != nil {
		b.Skip(err)
	}
	r := renderRequest{Chart: chartParts{Metadata: []byte(`{"name":"demo"}`)},
		Capabilities: *chartutil.DefaultCapabilities}
	for b.Loop() {
		if _, err := r.inProcess(b.Context(), time.Minute, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// An API server that cannot be asked is no mistake in a template.
func TestLookupsOfAServerThatIsAway(t *testing.T) {
	away := httptest.NewServer(nil)
	away.Close()
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(busy.Close)
	r := request(t, map[string]string{"templates/b.yaml": `{{ lookup "v1" "ConfigMap" "demo" "a" }}`}, nil)
	r.Lookup = true
	for _, server := range []string{away.URL, busy.URL} {
		cluster := &rest.Config{Host: server}
		if _, err := r.inProcess(t.Context(), time.Minute, cluster); !event.IsTransient(err) {
			t.Errorf("%s: %v", server, err)
		}
	}
}
