package deploy

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	helm "helm.sh/helm/v3/pkg/cli/values"
	"helm.sh/helm/v3/pkg/engine"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

func TestSecretValues(t *testing.T) {
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file,
		[]byte("auth: { password: from-file, pin: 12345678, on: true }\nlist: [{ token: first }, { token: second }]\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	r := Release{Name: "web", Namespace: "ns", ValuesFiles: []string{file}, Set: map[string]any{"auth.user": "from-set"},
		SecretValues: []string{"auth", "list[1].token", "nowhere.at.all"}}
	got, err := SecretValues(r)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if want := []string{"1.2345678e+07", "12345678", "from-file", "from-set", "second"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
	if none, err := SecretValues(Release{ValuesFiles: []string{"not there"}}); none != nil || err != nil {
		t.Errorf("without any: %q, %v", none, err)
	}
	r.ValuesFiles = []string{file + ".not"}
	if _, err := SecretValues(r); err == nil {
		t.Error("a file that is not there is no error")
	}

	var hidden []string
	d := &Deployer{options: Options{Secret: func(values ...string) { hidden = append(hidden, values...) }}}
	err = d.hideValues(r, map[string]any{"auth": map[string]any{"password": "of the chart"},
		"list": []any{nil, map[string]any{"token": "x"}}})
	var wrong *ValueError
	if !errors.As(err, &wrong) || wrong.In != "secretValues[2]" || wrong.Release != "web" ||
		!slices.Equal(hidden, []string{"of the chart", "x"}) {
		t.Errorf("%v, %q", err, hidden)
	}
}

func TestValues(t *testing.T) {
	want, values := read(t, "v1.34.3", map[string]string{"a.yaml": "a: 1\nb: {c: 2, d: 3}\n", "b.yaml": "b: {c: 4}\n"},
		Release{
			InlineValues: map[string]any{"b": map[string]any{"d": 1000680000.0, "g": "inline"}, "drop": nil},
			Set: map[string]any{
				"b.e":          int64(1000680000),
				"b.f":          "8",
				`labels.x\.y`:  "a,b=c",
				"list[0].name": "first",
				"on":           true,
				"gone":         nil,
			},
			SetString: map[string]string{"number": "007"},
		})
	if got := fmt.Sprintf("%T %v %v", values["b"].(map[string]any)["e"], values, want.inputs != ""); got !=
		"int64 map[a:1 b:map[c:4 d:1.00068e+09 e:1000680000 f:8 g:inline] drop:<nil> gone:<nil> "+
			"labels:map[x.y:a,b=c] list:[map[name:first]] number:007 on:true] true" {
		t.Error(got)
	}
}

func TestValuesFilesOfAnything(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "large"), 1<<40); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]error{filepath.Join(dir, "pipe"): files.ErrNotRegular,
		"/dev/zero": files.ErrNotRegular, filepath.Join(dir, "large"): files.ErrTooLarge} {
		err := inTime(t, func() error {
			position(file, []string{"a"})
			_, err := merge(Release{ValuesFiles: []string{file}})
			return err
		})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
	folder := chartFolder(t, nil)
	if err := syscall.Mkfifo(filepath.Join(folder, "Chart.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := inTime(t, func() error { (Release{Chart: folder}).Files(); return nil }); err != nil {
		t.Error(err)
	}
}

func TestOnlySomeProblemsOfValuesAreReported(t *testing.T) {
	var failure strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&failure, "- at '/a/%d': got string, want integer\n", i)
	}
	want := &desired{Release: Release{Name: "web"}}
	lines := strings.Split(want.schemaErrors(errors.New(failure.String())).Error(), "\n")
	if len(lines) != maxProblems+1 || lines[maxProblems] != "release web: and 199950 more" ||
		!slices.Contains(lines, "release web: value a.49: got string, want integer") {
		t.Errorf("%d lines, the last one %q", len(lines), lines[len(lines)-1])
	}
}

// TestValuesMeanOneThing holds that templates see what they see with helm install, whichever way
// the values come in: it prints them by devloop's renderer and by Helm's.
func TestValuesMeanOneThing(t *testing.T) {
	const first = "a: no\nb: 3\nc: 1000680000\nd: 0755\ne: [1.10, 9007199254740993, ~]\nf: {x: 1, y: 2}\ng: {x: 1}\nh: 1\n"
	const second = "f: {x: ~, z: on}\ng: ~\nh: {x: 1}\ni: 2001-01-01\nj: {}\nk: []\n"
	chartValues := []byte("b: 5\nf: {w: 08, x: 7}\ng: {y: 1}\nl: 1e3\nm: 1000680000\n")
	dir := t.TempDir()
	for name, text := range map[string]string{"first": first, "second": second} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	inline, err := chartutil.ReadValues([]byte(second)) // as package config reads inlineValues
	if err != nil {
		t.Fatal(err)
	}
	loaded := func() *chart.Chart {
		values, err := chartutil.ReadValues(chartValues)
		if err != nil {
			t.Fatal(err)
		}
		return &chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: "c", Version: "1.0.0"}, Values: values,
			Templates: []*chart.File{{Name: "templates/all", Data: []byte(`{{ define "all" }}` +
				`{{ range $k, $v := . }}{{ $k }}: {{ typeOf $v }} {{ kindOf $v }} {{ $v }} {{ toYaml $v | quote }} ` +
				`{{ toJson $v }}` +
				` {{ if $v }}yes{{ end }} {{ if kindIs "float64" $v }}{{ eq $v 3.0 }} {{ int $v }}{{ end }}` + "\n" +
				`{{ if kindIs "map" $v }}{{ template "all" $v }}{{ end }}{{ end }}{{ end }}{{ template "all" .Values }}`)}}}
	}
	options := chartutil.ReleaseOptions{Name: "r", Namespace: "n"}
	for name, test := range map[string]struct {
		devloop Release
		helm    helm.Options
	}{
		"files": {Release{ValuesFiles: []string{filepath.Join(dir, "first"), filepath.Join(dir, "second")}}, helm.Options{}},
		"a file and inline values": {Release{ValuesFiles: []string{filepath.Join(dir, "first")}, InlineValues: inline},
			helm.Options{}},
		"all": {Release{ValuesFiles: []string{filepath.Join(dir, "first")}, InlineValues: inline,
			Set: map[string]any{"b": int64(4), "f.y": nil, "n": true, "o": "1.10", "e[1]": int64(2), "l": int64(1000680000),
				"q": int64(math.MaxInt64)},
			SetString: map[string]string{"p": "null", "f.z": "0755"}},
			helm.Options{Values: []string{"b=4", "f.y=null", "n=true", "o=1.10", "e[1]=2", "l=1000680000",
				"q=9223372036854775807"}, StringValues: []string{"p=null", "f.z=0755"}}},
	} {
		test.helm.ValueFiles = []string{filepath.Join(dir, "first"), filepath.Join(dir, "second")}
		values, err := test.helm.MergeValues(nil)
		if err != nil {
			t.Fatal(err)
		}
		all, err := chartutil.ToRenderValues(loaded(), values, options, chartutil.DefaultCapabilities)
		if err != nil {
			t.Fatal(err)
		}
		want, err := engine.Render(loaded(), all)
		if err != nil {
			t.Fatal(err)
		}
		values, err = merge(test.devloop)
		if err != nil {
			t.Fatal(err)
		}
		got, err := renderTemplates(t.Context(), loaded(), values, options, chartutil.DefaultCapabilities, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got["c/templates/all"] != want["c/templates/all"] || want["c/templates/all"] == "" {
			t.Errorf("%s:\n%s\nand by Helm:\n%s", name, got["c/templates/all"], want["c/templates/all"])
		}
	}
	if len(inline) != 6 || inline["g"] != nil {
		t.Errorf("merging changed the inline values: %v", inline)
	}
}

func TestHintOfSet(t *testing.T) {
	want := &desired{Release: Release{Name: "web", Set: map[string]any{"cpu": "0.5"},
		InlineValues: map[string]any{"x": "a"}}}
	err := want.schemaErrors(errors.New("- at '/cpu': got string, want number\n- at '/x': got string, want number\n" +
		"- at '/y': got string, want number"))
	var hints []string
	for _, one := range err.(interface{ Unwrap() []error }).Unwrap() {
		hints = append(hints, fmt.Sprint(strings.Contains(event.Hint(one), "helm --set")))
	}
	if got := strings.Join(hints, " "); got != "true false false" {
		t.Errorf("the hint speaks of helm --set: %s", got)
	}
}
